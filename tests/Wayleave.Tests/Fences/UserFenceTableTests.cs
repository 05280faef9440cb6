using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Xunit;

namespace Wayleave.Tests.Fences;

public class UserFenceTableTests : FenceScenario
{
    private readonly Reservation _reservation;
    private readonly UserFenceTable _table;

    public UserFenceTableTests()
    {
        _reservation = new Reservation(Host, "lent");
        _table = new UserFenceTable(Host, "program");
    }

    [Fact]
    public void FENCE_55_A_write_conflicts_with_a_pending_read_and_a_second_read_does_not()
    {
        using (Host.Enter())
        {
            Assert.Equal(Errno.Success, Attach(isWrite: false).Errno);
            Assert.Equal(Errno.EBUSY, Attach(isWrite: true).Errno);
            Assert.Equal(Errno.Success, Attach(isWrite: false).Errno);
            Assert.Equal(2, _reservation.GetPendingFences(ReservationUsage.Read).Count);
            Assert.Empty(_reservation.GetPendingFences(ReservationUsage.Write));
        }
    }

    [Fact]
    public void FENCE_56_After_ten_seconds_waiters_go_on_and_a_signal_is_late_once_and_then_unknown()
    {
        using (Host.Enter())
        {
            (_, uint id) = Attach(isWrite: true);
            FenceWait wait = FenceWait.Start(
                Host, null, _reservation, ReservationUsage.Write, TimeSpan.FromSeconds(60));
            Fence fence = _reservation.FirstUnsignaled(ReservationUsage.Write)!;
            Clock.Advance(TimeSpan.FromSeconds(10) - TimeSpan.FromTicks(1));
            _table.HandleTimeout(Host.Now);
            Assert.False(wait.IsCompleted);
            Assert.Equal(TimeSpan.FromSeconds(10), _table.NextDeadline);
            Clock.Advance(TimeSpan.FromTicks(1));
            _table.HandleTimeout(Host.Now);
            Assert.Equal((FenceWaitState.Signaled, null), (wait.State, _table.NextDeadline));
            Assert.Equal((true, false), (fence.IsForced, fence.HasEnded));
            Assert.Equal(Errno.ETIMEDOUT, _table.TrySignal(id));
            Assert.True(fence.HasEnded);
            Assert.Equal(Errno.ENOENT, _table.TrySignal(id));
        }
    }

    [Fact]
    public void A_program_signals_in_time_or_goes_away()
    {
        using (Host.Enter())
        {
            (_, uint read) = Attach(isWrite: false);
            Attach(isWrite: false);
            Assert.Equal(Errno.Success, _table.TrySignal(read));
            Assert.False(_reservation.TestSignaled(ReservationUsage.Read));
            _table.Close();
            Assert.True(_reservation.TestSignaled(ReservationUsage.Read));
            Assert.Equal(Errno.ENOENT, _table.TrySignal(99));
        }
    }

    private (Errno Errno, uint Id) Attach(bool isWrite)
    {
        AcquireTicket ticket = new(Host, "program");
        _reservation.TryLock(ticket);
        Errno errno = _table.TryAttachLocked(ticket, _reservation, isWrite, out uint id);
        _reservation.Unlock(ticket);
        return (errno, id);
    }
}
