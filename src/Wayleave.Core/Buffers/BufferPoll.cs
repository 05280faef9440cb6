using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Core.Buffers;

// dma-buf.c, dma_buf_poll: one callback slot for each direction of a buffer, hung on the first fence that is pending;
// everybody sleeps in one queue. Who is woken asks again, which hangs the slot on the next fence. So a poller may wake
// for nothing, and never sleeps for nothing.

/// <summary>Who waits until a buffer is ready. Host lock held by the caller.</summary>
internal sealed class BufferPoll(SharedBuffer buffer)
{
    private readonly List<Waiter> _waiters = [];
    private PollEvents _armed; // directions whose callback hangs on a fence; each holds a reference to the buffer

    public PollEvents Poll(PollEvents requested, Action? wake)
    {
        requested &= PollEvents.In | PollEvents.Out;
        PollEvents ready = PollEvents.None;
        if ((requested & PollEvents.In) != 0 && FirstPending(PollEvents.In) is null)
        {
            ready |= PollEvents.In;
        }

        if ((requested & PollEvents.Out) != 0 && FirstPending(PollEvents.Out) is null)
        {
            ready |= PollEvents.Out;
        }

        if (requested == PollEvents.None || ready != PollEvents.None || wake is null)
        {
            return ready;
        }

        _waiters.Add(new Waiter(requested, wake));
        Arm(requested & PollEvents.In);
        Arm(requested & PollEvents.Out);
        return PollEvents.None;
    }

    public bool TryCancel(Action wake)
    {
        int index = _waiters.FindIndex(w => w.Wake == wake);
        if (index >= 0)
        {
            _waiters.RemoveAt(index);
        }

        return index >= 0;
    }

    private Fence? FirstPending(PollEvents direction) => buffer.Host.Has(CoreDefences.PollLooksAtFences)
        ? buffer.Reservation.FirstUnsignaled(
            direction == PollEvents.In ? ReservationUsage.Write : ReservationUsage.Read)
        : null;

    private void Arm(PollEvents direction)
    {
        if (direction == PollEvents.None || (_armed & direction) != 0)
        {
            return;
        }

        if (FirstPending(direction) is { } fence && fence.TryObserve(_ => HandleSignaled(direction)))
        {
            _armed |= direction;
            buffer.Get(); // the last handle may close before the fence signals
        }
    }

    private void HandleSignaled(PollEvents direction)
    {
        _armed &= ~direction;
        Wake(direction);
        buffer.Put();
    }

    // What is woken runs after the lock, so nobody changes the list meanwhile.
    private void Wake(PollEvents directions)
    {
        foreach (Waiter waiter in _waiters)
        {
            if ((waiter.Requested & directions) != PollEvents.None)
            {
                buffer.Host.Defer(waiter.Wake);
            }
        }

        _waiters.RemoveAll(w => (w.Requested & directions) != PollEvents.None);
    }

    private readonly record struct Waiter(PollEvents Requested, Action Wake);
}
