namespace Wayleave.Core.Checking;

public enum ActivityKind
{
    /// <summary>A thread of a program, or a driver's call on its behalf.</summary>
    Thread,

    /// <summary>What runs jobs and signals their fences.</summary>
    Engine,

    /// <summary>An address space tells its mirrors that a range goes away.</summary>
    Notifier,

    /// <summary>Memory is short and is being taken from somebody (a shrinker).</summary>
    Reclaim,
}

/// <summary>
/// One course of events, as the checker sees it: what it holds, whether it is between publishing a fence and signalling
/// it, what it waits for. lockdep takes the thread for that; here an operation goes on in whatever thread comes along,
/// so it carries its activity with it. Host lock held by the caller.
/// </summary>
public sealed class Activity : Waiter
{
    private readonly List<(LockClass Class, string For)> _held = [];

    /// <param name="host">The host whose checker watches.</param>
    /// <param name="kind">What runs.</param>
    /// <param name="name">For people: <c>gpu0 completion</c>.</param>
    /// <param name="mayWaitForFences">
    /// Whether a <see cref="ActivityKind.Notifier"/> or <see cref="ActivityKind.Reclaim"/> may wait for fences:
    /// graphics drivers may, all others must not (dma-fence.c, cross-driver contract).
    /// </param>
    public Activity(HostContext host, ActivityKind kind, string name, bool mayWaitForFences = false)
        : base(host)
    {
        (Kind, Name) = (kind, name);
        MayWaitForFences = mayWaitForFences || kind is ActivityKind.Thread or ActivityKind.Engine;
    }

    public ActivityKind Kind { get; }

    public string Name { get; }

    /// <summary>Whether a wait for a fence is allowed here at all.</summary>
    public bool MayWaitForFences { get; }

    /// <summary>Whether a fence was published that this has not signalled yet.</summary>
    public bool IsSignaling => _held.Exists(h => h.Class == LockClass.FenceSignaling);

    /// <summary>How many locks and sections are held.</summary>
    public int HeldCount => _held.Count;

    public override string Label => Kind switch
    {
        ActivityKind.Engine => $"engine {Name}",
        ActivityKind.Notifier => $"notifier {Name}",
        ActivityKind.Reclaim => $"reclaim {Name}",
        _ => Name,
    };

    /// <summary>
    /// Takes a lock of a class, after it was compared with the order known so far. Several reservations at once are in
    /// order, because their tickets are.
    /// </summary>
    /// <param name="lockClass">Which kind.</param>
    /// <param name="what">Which one, for people.</param>
    public void Acquire(LockClass lockClass, string what)
    {
        Touch(lockClass, what);
        NoteHeld(lockClass, what);
    }

    /// <summary>As <see cref="Acquire"/> for a lock that is let go at once (<c>might_lock</c>).</summary>
    public void Touch(LockClass lockClass, string what)
    {
        Host.AssertHeld();
        if (!Host.Checker.Options.ChecksLockOrder)
        {
            return;
        }

        foreach ((LockClass held, string heldFor) in _held)
        {
            if (held != lockClass || held != LockClass.Reservation)
            {
                Host.Checker.CheckOrder(Label, held, heldFor, lockClass, what);
            }
        }
    }

    /// <summary>A lock that was touched before is held from now on.</summary>
    internal void NoteHeld(LockClass lockClass, string what) => _held.Add((lockClass, what));

    /// <summary>Lets the most recent lock of that class go.</summary>
    /// <exception cref="InvalidOperationException">None is held.</exception>
    public void Release(LockClass lockClass)
    {
        Host.AssertHeld();
        for (int i = _held.Count - 1; i >= 0; i--)
        {
            if (_held[i].Class == lockClass)
            {
                _held.RemoveAt(i);
                return;
            }
        }

        throw new InvalidOperationException($"{Label} holds no {lockClass}");
    }

    /// <summary>
    /// Memory is allocated here. One that may reclaim waits, in the end, for fences: it has no place in a signalling
    /// section or in a notifier.
    /// </summary>
    /// <param name="mayReclaim">False for what fails instead (GFP_ATOMIC): allowed everywhere.</param>
    /// <param name="what">For people.</param>
    public void Allocate(bool mayReclaim, string what)
    {
        if (mayReclaim)
        {
            Touch(LockClass.Reclaim, what);
        }
    }

    /// <summary>A user's memory is touched and may fault: that takes the lock of the address space.</summary>
    public void TouchUserMemory(string what) => Touch(LockClass.AddressSpace, what);

    /// <summary>
    /// A fence is visible to others from now on, and it is on this activity to signal it
    /// (<c>dma_fence_begin_signalling</c>). Sections nest; only the outermost counts.
    /// </summary>
    /// <param name="what">The fence or the job, for people.</param>
    /// <returns>The cookie for <see cref="EndSignaling"/>: false when this section is inside another.</returns>
    public bool BeginSignaling(string what)
    {
        Host.AssertHeld();
        if (IsSignaling)
        {
            return false;
        }

        // A try-lock in the kernel: it cannot wait, so what is held around it says nothing about order.
        _held.Add((LockClass.FenceSignaling, what));
        return true;
    }

    /// <summary>The fence is signalled (<c>dma_fence_end_signalling</c>).</summary>
    /// <param name="cookie">What <see cref="BeginSignaling"/> returned.</param>
    public void EndSignaling(bool cookie)
    {
        if (cookie)
        {
            Release(LockClass.FenceSignaling);
        }
    }

    /// <summary>
    /// Asserts that a wait for a fence is in order here (<c>__dma_fence_might_wait</c>), whether or not it is pending.
    /// </summary>
    public void MightWaitForFence(string what)
    {
        Touch(LockClass.FenceSignaling, $"wait for {what}");
        if (!MayWaitForFences)
        {
            Host.Checker.Report(
                ViolationKind.FenceWaitPolicy, Label,
                $"waits for {what}; only graphics drivers may wait for fences in a notifier or in reclaim");
        }
    }
}
