namespace Wayleave.Core.Checking;

/// <summary>
/// Somebody who can wait: a ticket that locks reservations, or an <see cref="Activity"/>. Host lock held by the caller.
/// </summary>
public abstract class Waiter : IWaitNode
{
    private readonly List<IWaitNode> _waits = [];

    private protected Waiter(HostContext host) => Host = host;

    public abstract string Label { get; }

    /// <summary>Whether anything is waited for at this moment.</summary>
    public bool IsWaiting => _waits.Count > 0;

    private protected HostContext Host { get; }

    /// <summary>
    /// Says that this waits for <paramref name="target"/> from now on, until <see cref="EndWait"/>. Fences and
    /// reservations that are waited for through <see cref="Fences.FenceWait"/> and
    /// <see cref="Reservations.Reservation.TryLock"/> do it by themselves.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EDEADLK"/> when the wait would close a circle: it has not begun, <paramref name="cycle"/> says
    /// why, and the violation is kept.
    /// </returns>
    public Errno TryBeginWait(IWaitNode target, out WaitCycle? cycle)
    {
        Host.AssertHeld();
        cycle = Host.Checker.FindCycle(this, "waits for", target);
        if (cycle is not null)
        {
            return Errno.EDEADLK;
        }

        _waits.Add(target);
        return Errno.Success;
    }

    /// <summary>The wait is over, one way or the other. Does nothing for a wait that was refused.</summary>
    public void EndWait(IWaitNode target)
    {
        Host.AssertHeld();
        _waits.Remove(target);
    }

    public virtual void ListWaits(WaitEdges edges)
    {
        foreach (IWaitNode target in _waits)
        {
            edges.Add("waits for", target);
        }
    }

    public override string ToString() => Label;
}
