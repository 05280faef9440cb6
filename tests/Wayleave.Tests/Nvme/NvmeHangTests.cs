using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;
using Xunit;

namespace Wayleave.Tests.Nvme;

/// <summary>A drive whose medium does not answer: commands have fences, and each ends in bounded time.</summary>
public sealed class NvmeHangTests
{
    private const int Page = NvmeFixture.Page;

    private readonly NvmeFixture _f = new() { HoldsMedium = true };

    [Fact]
    public void A_command_in_time_is_left_alone()
    {
        (GpuBuffer buffer, _) = Start();
        Assert.Equal(NvmeDriver.CommandTimeout, _f.Locked(() => _f.Driver.Hangs.NextDeadline));
        _f.CompleteHeld();
        _f.Run();
        Assert.Null(_f.Locked(() => _f.Driver.Hangs.NextDeadline));
        Assert.Empty(_f.Driver.Hangs.Hangs);
        Assert.Equal(_f.Medium[..Page], _f.BytesOf(buffer)[..Page]);
    }

    [Fact]
    public void A_late_command_is_aborted_alone_and_the_others_go_on()
    {
        (GpuBuffer buffer, NvmeBufferUser user) = Start();
        Fence late = Pending(buffer);
        _f.Clock.Advance(NvmeDriver.CommandTimeout / 2);
        Fence? other = null;
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 8, 8, Page, f => other = f));
        Late(NvmeDriver.CommandTimeout / 2);
        _f.Run();
        Assert.Equal((true, false, Errno.ETIME), (late.HasEnded, late.IsForced, late.Error));
        Assert.False(other!.IsSignaled);
        Assert.Equal((NvmeDriverState.Ready, 1), (_f.Driver.State, user.Outstanding));
        Assert.Empty(_f.Driver.Hangs.Hangs);
        _f.CompleteHeld();
        _f.Run();
        Assert.Equal(Errno.Success, other.Error);
        Assert.Equal(_f.Medium[Page..(2 * Page)], _f.BytesOf(buffer)[Page..(2 * Page)]);
    }

    [Fact]
    public void An_abort_that_finds_its_command_in_the_queue_is_sent_again()
    {
        // The fixture's drive has four buffers, and keeps one for the admin queue.
        (GpuBuffer buffer, NvmeBufferUser user) = Start();
        NvmeBufferUser queued = _f.Use(buffer);
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 0, 8, Page));
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 0, 8, 2 * Page));
        Assert.Equal(Errno.Success, _f.Start(queued, buffer, NvmeOpcode.Read, 0, 8, 3 * Page));
        _f.Run();
        _f.Locked(queued.Abort);
        _f.Run();
        Assert.Equal((3, 2, 1), (_f.Held.Count, user.Outstanding - 1, queued.Outstanding));

        bool isIdle = false;
        Assert.True(_f.Locked(() => queued.TryObserveIdle(() => isIdle = true)));
        _f.Complete(_f.Held[0]);
        _f.Run();
        Assert.Equal((NvmeDriverState.Ready, 2, 0, true),
            (_f.Driver.State, user.Outstanding, queued.Outstanding, isIdle));
        Assert.False(_f.Locked(() => queued.TryObserveIdle(() => isIdle = true)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void When_the_abort_has_not_helped_the_drive_is_reset_and_commands_end_with_ETIME(bool runs)
    {
        (GpuBuffer buffer, NvmeBufferUser user) = Start();
        Fence fence = Pending(buffer);
        _f.Controller.IgnoresAborts = true;
        Late(NvmeDriver.CommandTimeout);
        if (runs)
        {
            _f.Run(); // it answers that nothing was aborted
        }

        Assert.Equal((1, NvmeDriverState.Ready), (user.Outstanding, _f.Driver.State));
        Late(NvmeDriver.CommandTimeout);
        _f.HoldsMedium = false;
        _f.Run();
        Assert.Single(_f.Held);
        Assert.Equal((true, false, Errno.ETIME), (fence.HasEnded, fence.IsForced, fence.Error));
        Assert.True(Assert.Single(_f.Driver.Hangs.Hangs).WasStopped);
        Assert.Equal((NvmeDriverState.Ready, 0), (_f.Driver.State, user.Outstanding));
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 0, 8, 0));
        _f.Run();
        Assert.Equal(_f.Medium[..Page], _f.BytesOf(buffer)[..Page]);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);

        // What the medium brings at last is in the drive's own buffer and goes nowhere.
        byte[] before = _f.BytesOf(buffer);
        _f.CompleteHeld();
        _f.Run();
        Assert.Equal(before, _f.BytesOf(buffer));
    }

    [Fact]
    public void A_drive_that_does_not_stop_gets_the_fences_forced_and_the_memory_waits_for_it()
    {
        (GpuBuffer buffer, _) = Start();
        Fence fence = Pending(buffer);
        RevokeOperation revoke = _f.Locked(() => _f.Gpu.Free(buffer, new RevokePolicy()));
        Late(NvmeDriver.CommandTimeout); // its thread does not run, so that it hears nothing of abort or reset
        Late(NvmeDriver.CommandTimeout);
        Late(NvmeDriver.ResetTimeout);
        Assert.Equal((true, false, Errno.ETIME), (fence.IsForced, fence.HasEnded, fence.Error));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        Assert.True(_f.Gpu.Stats.VramQuarantinedBytes > 0);
        _f.HoldsMedium = false;
        _f.Run();
        Assert.True(fence.HasEnded);
        Assert.Equal((RevokeState.Retired, 0UL), (revoke.State, _f.Gpu.Stats.VramQuarantinedBytes));
        Assert.Equal(NvmeDriverState.Ready, _f.Driver.State);
    }

    [Fact]
    public void A_mover_that_waits_for_a_late_command_goes_on_and_the_user_maps_again_afterwards()
    {
        (GpuBuffer buffer, NvmeBufferUser user) = Start();
        MoveOperation move = _f.Locked(() => _f.Gpu.Evict(buffer));
        Late(NvmeDriver.CommandTimeout);
        _f.CompleteHeld();
        _f.HoldsMedium = false;
        _f.Run();
        Assert.Equal(MoveState.Moved, move.State);
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 0, 8, 0));
        _f.Run();
        Assert.Equal(_f.Medium[..Page], _f.BytesOf(buffer)[..Page]);
    }

    private (GpuBuffer Buffer, NvmeBufferUser User) Start()
    {
        _f.Ready();
        GpuBuffer buffer = _f.Create(4 * Page);
        NvmeBufferUser user = _f.Use(buffer);
        Assert.Equal(Errno.Success, _f.Start(user, buffer, NvmeOpcode.Read, 0, 8, 0));
        _f.Run();
        return (buffer, user);
    }

    private Fence Pending(GpuBuffer buffer) =>
        _f.Locked(() => buffer.Shared.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep)!);

    private void Late(TimeSpan by)
    {
        _f.Clock.Advance(by);
        _f.Locked(() => _f.Driver.Hangs.HandleTimeout(_f.Host.Now));
    }
}
