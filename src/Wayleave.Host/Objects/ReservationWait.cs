using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Host.Objects;

/// <summary>Turns Core's waits, which are data, into awaits. None of these is called with the host lock held.</summary>
public static class ReservationWait
{
    /// <summary>
    /// Locks a reservation; the ticket holds it on return. For tickets that hold nothing else, so there is no deadlock.
    /// </summary>
    public static async Task LockAsync(this Reservation reservation, HostContext host, AcquireTicket ticket)
    {
        ArgumentNullException.ThrowIfNull(reservation);
        ArgumentNullException.ThrowIfNull(host);
        TaskCompletionSource? granted = null;
        using (host.Enter())
        {
            if (reservation.TryLock(ticket).Wait is { } wait)
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
    public static async Task WaitAsync(this Reservation reservation, HostContext host, ReservationUsage usage)
    {
        ArgumentNullException.ThrowIfNull(reservation);
        ArgumentNullException.ThrowIfNull(host);
        while (true)
        {
            TaskCompletionSource signaled = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (host.Enter())
            {
                Fence? fence = reservation.FirstUnsignaled(usage);
                if (fence is null || fence.TryAddCallback(_ => signaled.SetResult()) != Errno.Success)
                {
                    return;
                }
            }

            await signaled.Task.ConfigureAwait(false);
        }
    }
}
