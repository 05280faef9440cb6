using Wayleave.Core.Reservations;

namespace Wayleave.Core.Fences;

/// <summary>
/// Fences that a program puts on a buffer and signals by number, for tests of implicit synchronisation (vgem's
/// <c>DRM_IOCTL_VGEM_FENCE_ATTACH</c> and <c>_SIGNAL</c>, vgem_fence.c). A program can forget them, so each is forced
/// after <see cref="Lifetime"/>: waiters go on, but that time passed is no evidence that the program has stopped. Host
/// lock held by the caller.
/// </summary>
public sealed class UserFenceTable(HostContext host, string program)
{
    private readonly SortedDictionary<uint, (Fence Fence, TimeSpan ExpiresAt)> _fences = [];
    private uint _next = 1;

    /// <summary>How long a program may take to signal.</summary>
    public static TimeSpan Lifetime { get; } = TimeSpan.FromSeconds(10);

    /// <summary>When <see cref="HandleTimeout"/> has something to do; null for nothing.</summary>
    public TimeSpan? NextDeadline =>
        _fences.Values.Where(f => !f.Fence.IsSignaled).Select(f => (TimeSpan?)f.ExpiresAt).Min();

    /// <summary>Puts a new fence on a buffer whose reservation the ticket holds.</summary>
    /// <param name="ticket">Holds <paramref name="reservation"/>.</param>
    /// <param name="reservation">Of the buffer.</param>
    /// <param name="isWrite">Whether the program says that it writes.</param>
    /// <param name="id">For <see cref="TrySignal"/>.</param>
    /// <returns><see cref="Errno.EBUSY"/> when the access conflicts with fences that are pending.</returns>
    public Errno TryAttachLocked(AcquireTicket ticket, Reservation reservation, bool isWrite, out uint id)
    {
        reservation.AssertLocked(ticket);
        id = 0;
        if (!reservation.TestSignaled(ReservationUsages.ForAccess(isWrite)))
        {
            return Errno.EBUSY;
        }

        Errno errno = reservation.ReserveFences(ticket, 1);
        if (errno != Errno.Success)
        {
            return errno;
        }

        Fence fence = new(host, host.AllocateFenceContexts(), 1, program);
        reservation.AddFence(ticket, fence, isWrite ? ReservationUsage.Write : ReservationUsage.Read);
        id = _next++;
        _fences.Add(id, (fence, host.Now + Lifetime));
        return Errno.Success;
    }

    /// <summary>The program is done; the number is used up.</summary>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for an unknown or used number, <see cref="Errno.ETIMEDOUT"/> when nobody waited any
    /// longer; the work counts as ended from now on all the same.
    /// </returns>
    public Errno TrySignal(uint id)
    {
        host.AssertHeld();
        if (!_fences.Remove(id, out (Fence Fence, TimeSpan ExpiresAt) entry))
        {
            return Errno.ENOENT;
        }

        return entry.Fence.CheckAndSignal() ? Errno.ETIMEDOUT : Errno.Success;
    }

    /// <summary>Lets go who waits for fences whose time is over.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        host.AssertHeld();
        foreach ((Fence fence, TimeSpan expiresAt) in _fences.Values)
        {
            if (expiresAt <= now)
            {
                fence.Force(Errno.ETIMEDOUT);
            }
        }
    }

    /// <summary>The program is gone: all of its fences signal.</summary>
    public void Close()
    {
        host.AssertHeld();
        foreach ((Fence fence, _) in _fences.Values)
        {
            fence.Signal();
        }

        _fences.Clear();
    }
}
