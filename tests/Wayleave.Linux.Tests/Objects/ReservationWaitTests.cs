using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Host;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Objects;

public class ReservationWaitTests
{
    private readonly HostContext _host = new(TimeProvider.System);
    private readonly Reservation _reservation;
    private readonly AcquireTicket _owner;
    private readonly AcquireTicket _other;

    public ReservationWaitTests()
    {
        _reservation = new Reservation(_host, "lent");
        using (_host.Enter())
        {
            _owner = new AcquireTicket(_host, "owner");
            _other = new AcquireTicket(_host, "completion");
        }
    }

    [Fact]
    public async Task A_wait_ends_when_the_last_fence_of_the_class_has_signalled()
    {
        await _reservation.LockAsync(_host, _owner);
        Fence first, second;
        using (_host.Enter())
        {
            (first, second) = (Add(new Timeline(_host, "a")), Add(new Timeline(_host, "b")));
        }

        Task wait = _reservation.WaitAsync(_host, ReservationUsage.Kernel, _owner);
        using (_host.Enter())
        {
            first.Signal();
        }

        Assert.False(wait.IsCompleted);
        using (_host.Enter())
        {
            second.Signal();
        }

        await wait;
        await _reservation.WaitAsync(_host, ReservationUsage.Kernel, _owner);
    }

    [Fact]
    public async Task A_wait_for_a_fence_whose_signaller_waits_for_the_lock_is_EDEADLK_with_the_circle()
    {
        await _reservation.LockAsync(_host, _owner);
        using (_host.Enter())
        {
            Add(new Timeline(_host, "ring", _other));
        }

        Task queued = _reservation.LockAsync(_host, _other);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(
            () => _reservation.WaitAsync(_host, ReservationUsage.Kernel, _owner));
        Assert.Equal(Errno.EDEADLK, e.Errno);
        Assert.Contains("which is held by owner", e.Message, StringComparison.Ordinal);
        using (_host.Enter())
        {
            _reservation.Unlock(_owner);
        }

        await queued;
        Assert.Same(_other, _reservation.Owner);
    }

    [Fact]
    public async Task A_lock_that_would_never_be_granted_is_EDEADLK_with_the_circle()
    {
        await _reservation.LockAsync(_host, _owner);
        using (_host.Enter())
        {
            Add(new Timeline(_host, "ring", _other));
        }

        Task wait = _reservation.WaitAsync(_host, ReservationUsage.Kernel, _owner);
        WayleaveException e = await Assert.ThrowsAsync<WayleaveException>(() => _reservation.LockAsync(_host, _other));
        Assert.Equal(Errno.EDEADLK, e.Errno);
        Assert.False(wait.IsCompleted);
    }

    private Fence Add(Timeline timeline)
    {
        Fence fence = timeline.CreateFence();
        _reservation.ReserveFences(_owner, 1);
        _reservation.AddFence(_owner, fence, ReservationUsage.Kernel);
        return fence;
    }
}
