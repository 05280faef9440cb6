using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Host.Objects;

/// <summary>Turns Core's waits, which are data, into awaits. None of these is called with the host lock held.</summary>
public static class ReservationWait
{
    /// <summary>
    /// Locks a reservation; the ticket holds it on return. For tickets that hold nothing else: none gives way to
    /// another.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EDEADLK: the lock would never be granted; the message has the circle.
    /// </exception>
    public static async Task LockAsync(this Reservation reservation, HostContext host, AcquireTicket ticket)
    {
        ArgumentNullException.ThrowIfNull(reservation);
        ArgumentNullException.ThrowIfNull(host);
        TaskCompletionSource? granted = null;
        using (host.Enter())
        {
            LockOutcome outcome = reservation.TryLock(ticket);
            ThrowIfCircle(reservation, outcome.Cycle);
            if (outcome.Wait is { } wait)
            {
                granted = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                wait.TryAddCallback(granted.SetResult);
            }
        }

        if (granted is not null)
        {
            await granted.Task.ConfigureAwait(false);
        }
    }

    /// <summary>Waits until nobody who asks for <paramref name="usage"/> has to wait any more.</summary>
    /// <param name="reservation">Whose fences.</param>
    /// <param name="host">Of the reservation.</param>
    /// <param name="usage">This class and the stronger ones.</param>
    /// <param name="waiter">
    /// Who waits: what it holds is looked at before each fence that it waits for. Null for who holds nothing.
    /// </param>
    /// <exception cref="WayleaveException">EDEADLK: the wait would never end; the message has the circle.</exception>
    public static async Task WaitAsync(
        this Reservation reservation, HostContext host, ReservationUsage usage, Waiter? waiter = null)
    {
        ArgumentNullException.ThrowIfNull(reservation);
        ArgumentNullException.ThrowIfNull(host);
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        FenceWait wait;
        bool isPending;
        using (host.Enter())
        {
            wait = FenceWait.Start(host, waiter, reservation, usage, FenceWait.NoTimeout);
            isPending = wait.TryAddCallback(ended.SetResult);
        }

        if (isPending)
        {
            await ended.Task.ConfigureAwait(false);
        }

        ThrowIfCircle(reservation, wait.Cycle);
    }

    private static void ThrowIfCircle(Reservation reservation, WaitCycle? cycle)
    {
        if (cycle is not null)
        {
            throw new WayleaveException(Errno.EDEADLK, $"wait for the {reservation.Label}", cycle.ToString());
        }
    }
}
