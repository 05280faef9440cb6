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
    public void A_late_command_resets_the_drive_and_ends_with_ETIME_whatever_the_medium_does()
    {
        (GpuBuffer buffer, NvmeBufferUser user) = Start();
        Fence fence = Pending(buffer);
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
