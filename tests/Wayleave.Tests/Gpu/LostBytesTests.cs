using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>
/// What an engine should have written and did not: whoever waited for its fence must not find somebody else's bytes.
/// </summary>
public class LostBytesTests
{
    public enum End
    {
        /// <summary>Late, and ended between two blocks.</summary>
        Stopped,

        /// <summary>Late in a block: the fence is forced.</summary>
        Forced,

        /// <summary>The thread of the engine has ended.</summary>
        DriverEnded,
    }

    // Longer than a copy of one page is given.
    private static readonly TimeSpan s_timeout = new GpuOptions().CopyTimeout + TimeSpan.FromSeconds(1);

    [Theory]
    [InlineData(End.Stopped, true)]
    [InlineData(End.Forced, true)]
    [InlineData(End.DriverEnded, true)]
    [InlineData(End.Stopped, false)]
    [InlineData(End.Forced, false)]
    [InlineData(End.DriverEnded, false)]
    public void Memory_that_could_not_be_cleared_is_shown_to_nobody(End end, bool takesBack)
    {
        GpuFixture f = new(Options(takesBack), vramPages: 1);
        GpuBuffer old = f.Create("old");
        f.Bytes(old).Fill(0x5A);
        Assert.Equal(RevokeState.Retired, f.Free(old).State);
        Assert.Equal(Errno.Success, f.TryCreate("new", 1, out GpuBuffer? made));
        bool wasRevoked = false;
        f.Locked(() => made!.Shared.Reservation.FirstUnsignaled(ReservationUsage.Kernel)!
            .TryObserve(_ => wasRevoked = made.Shared.IsRevoked));
        f.Gpu.CopyEngine.Drive(1); // one of four blocks
        Give(f, end);
        Assert.True(f.IsIdle(made!));
        Assert.Equal(takesBack, wasRevoked);
        Assert.Equal(!takesBack, ShowsOldBytes(f, made!));
        Assert.Equal(takesBack ? "it could not be cleared" : null, made!.Freeing?.Policy.Reason);
        Assert.Equal(0, f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void Memory_that_could_not_be_cleared_is_the_devices_again_when_the_engine_is_out()
    {
        GpuFixture f = new(vramPages: 1);
        Assert.Equal(Errno.Success, f.TryCreate("new", 1, out GpuBuffer? made));
        f.Gpu.CopyEngine.Drive(1);
        Give(f, End.Forced);
        Assert.Equal((1UL * GpuFixture.Page, 0), (f.Stats.VramQuarantinedBytes, f.Stats.Buffers));
        Assert.True(f.Gpu.CopyEngine.Step()); // it comes back
        f.Gpu.CopyEngine.Exit();
        Assert.Equal((RevokeState.Retired, 0UL), (made!.Freeing!.State, f.Stats.VramQuarantinedBytes));
        GpuBuffer next = f.Create("next");
        Assert.True(f.Bytes(next).IndexOfAnyExcept((byte)0) < 0);
    }

    [Theory]
    [InlineData(End.Stopped, true)]
    [InlineData(End.Forced, true)]
    [InlineData(End.DriverEnded, true)]
    [InlineData(End.Stopped, false)]
    [InlineData(End.Forced, false)]
    [InlineData(End.DriverEnded, false)]
    public void A_buffer_whose_move_failed_shows_nobody_elses_bytes(End end, bool takesBack)
    {
        GpuFixture f = new(Options(takesBack), vramPages: 1, systemPages: 1);
        GpuBuffer secret = f.Create("secret", domain: GpuDomain.System);
        f.Bytes(secret).Fill(0x5A);
        Assert.Equal(RevokeState.Retired, f.Free(secret).State);
        GpuBuffer mine = f.Create("mine");
        MoveOperation move = f.Evict(mine);
        bool wasRevoked = false;
        f.Locked(() => move.Fence!.TryObserve(_ => wasRevoked = mine.Shared.IsRevoked));
        f.Gpu.CopyEngine.Drive(1);
        Give(f, end);
        Assert.True(f.IsIdle(mine));
        Assert.Equal((takesBack, !takesBack), (wasRevoked, ShowsOldBytes(f, mine)));
        Assert.Equal(takesBack ? "its bytes were lost in a move" : null, mine.Freeing?.Policy.Reason);
        if (end == End.Forced)
        {
            Assert.Equal(takesBack ? GpuFixture.Page : 0, f.Stats.SystemQuarantinedBytes);
            Assert.True(f.Gpu.CopyEngine.Step()); // it comes back
            f.Gpu.CopyEngine.Exit();
        }

        Assert.Equal(MoveState.Failed, move.State);
        Assert.Equal(GpuFixture.Page, f.Gpu.Memory(GpuDomain.Vram).FreeBytes); // the old place
        Assert.Equal(takesBack ? GpuFixture.Page : 0, f.Gpu.Memory(GpuDomain.System).FreeBytes);
        Assert.Equal(0, f.Host.Checker.ViolationCount);
    }

    private static GpuOptions Options(bool takesBack) =>
        new() { CopyBlockBytes = 0x400, TakesBackWhatIsLost = takesBack };

    private static void Give(GpuFixture f, End end)
    {
        if (end != End.Stopped)
        {
            Assert.True(f.Gpu.CopyEngine.TryEnter()); // and does not come back
        }

        if (end == End.DriverEnded)
        {
            f.Locked(f.Gpu.CopyEngine.HandleDriverEnded);
            return;
        }

        for (int i = 0; i < 2; i++)
        {
            f.Clock.Advance(s_timeout);
            f.Locked(() => f.Gpu.CopyEngine.Hangs.HandleTimeout(f.Host.Now));
            f.Run();
        }
    }

    private static bool ShowsOldBytes(GpuFixture f, GpuBuffer buffer)
    {
        TestImporter importer = f.NewImporter();
        using (f.Host.Enter())
        {
            if (buffer.Shared.TryAttach(f.Nic, importer, out Attachment? attachment) != Errno.Success)
            {
                return false;
            }

            AcquireTicket ticket = new(f.Host, "test");
            buffer.Shared.Reservation.TryLock(ticket);
            MapOutcome mapped = attachment!.MapLocked(ticket, DmaDirection.Bidirectional);
            buffer.Shared.Reservation.Unlock(ticket);
            return mapped.Kind == MapOutcomeKind.Mapped && f.Bytes(buffer).Contains((byte)0x5A);
        }
    }
}
