using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// The sequence protocol, as a driver runs it. The host lock is the driver's lock: what stands between two steps of an
// operation is where the kernel's driver holds no lock.
//
//   sequence = BeginRead()        waits while this range is being invalidated
//   look at the address space, fault pages in: MirrorRange.Fault
//   host lock: if ReadRetry(sequence) start over; else give the pages to the device
//
//   CPU side:  round starts: the space's number becomes odd; Invalidate -> SetSequence(that number)
//              pages change
//              round ends: the last one makes the number even, and wakes who waits

/// <summary>
/// A driver's subscription to what happens to a range of an address space (<c>struct mmu_interval_notifier</c>). Host
/// lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class IntervalNotifier
{
    private readonly NotifierTree _tree;
    private ulong _sequence;

    internal IntervalNotifier(NotifierTree tree, AddressRange range, IMirror mirror, bool mayWaitForFences)
    {
        (_tree, Range, Mirror) = (tree, range, mirror);
        Activity = new Activity(tree.Host, ActivityKind.Notifier, mirror.Name, mayWaitForFences);
    }

    public AddressRange Range { get; }

    public IMirror Mirror { get; }

    /// <summary>Its place in the graph of waits: what a callback waits for, this waits for.</summary>
    public Activity Activity { get; }

    /// <summary>How many callbacks ran.</summary>
    public long InvalidationCount { get; internal set; }

    /// <summary>Whether a round can still reach it: false once a removal has completed.</summary>
    public bool IsRemoved { get; internal set; }

    internal ulong Sequence
    {
        get => Volatile.Read(ref _sequence);
        set => Volatile.Write(ref _sequence, value);
    }

    internal NotifierPlace Place { get; set; }

    internal ulong RemovedAt { get; set; }

    /// <summary>
    /// From now on what was read before is stale (<c>mmu_interval_set_seq</c>). The mirror's callback calls it, always.
    /// </summary>
    /// <param name="sequence">What the callback was given.</param>
    public void SetSequence(ulong sequence)
    {
        _tree.Host.AssertHeld();
        Sequence = sequence | 1;
    }

    /// <summary>
    /// Starts to look at the range (<c>mmu_interval_read_begin</c>). What it returns may be stale already; then the
    /// retry says so.
    /// </summary>
    /// <param name="mustWait">
    /// The range is being invalidated: the caller goes on when <see cref="IsOver"/> holds for the sequence. Looking
    /// earlier is allowed and pointless.
    /// </param>
    public ulong BeginRead(out bool mustWait)
    {
        _tree.Host.AssertHeld();
        ulong sequence = Sequence;
        mustWait = sequence == _tree.Sequence;
        return sequence;
    }

    /// <summary>Whether the round during which <see cref="BeginRead"/> had to wait has ended.</summary>
    public bool IsOver(ulong sequence) => _tree.Sequence != sequence;

    /// <summary>
    /// A hint (<c>mmu_interval_check_retry</c>): true is certain, false is not. Callable without the lock.
    /// </summary>
    public bool CheckRetry(ulong sequence) => Sequence != sequence;

    /// <summary>
    /// Whether the range was invalidated since <see cref="BeginRead"/> (<c>mmu_interval_read_retry</c>): then what was
    /// seen must not reach the device. Certain, because the callback runs under the same lock.
    /// </summary>
    public bool ReadRetry(ulong sequence)
    {
        _tree.Host.AssertHeld();
        return Sequence != sequence;
    }

    /// <summary>
    /// Ends the subscription (<c>mmu_interval_notifier_remove</c>). During a round that reaches it, the removal waits
    /// until the round ends; from then on no callback runs.
    /// </summary>
    /// <returns>
    /// A removal that completes by itself. Its <see cref="NotifierRemoval.Errno"/> is <see cref="Errno.EDEADLK"/> when
    /// this was called from a callback, which would wait for itself; that is a violation, and nothing is removed.
    /// </returns>
    public NotifierRemoval Remove()
    {
        _tree.Host.AssertHeld();
        return _tree.Remove(this);
    }

    public override string ToString() => $"{Mirror.Name} {Range}";
}

internal enum NotifierPlace
{
    InTree,
    InsertDeferred,
    RemoveDeferred,
    Out,
}

/// <summary>The end of a subscription, which may have to wait for a round.</summary>
public sealed class NotifierRemoval
{
    private readonly IntervalNotifier _notifier;

    internal NotifierRemoval(IntervalNotifier notifier, Errno errno = Errno.Success) =>
        (_notifier, Errno) = (notifier, errno);

    /// <summary>No callback runs any more, or <see cref="Errno"/> says why the removal did not begin.</summary>
    public bool IsCompleted => Errno != Errno.Success || _notifier.IsRemoved;

    /// <summary>0, or why nothing was removed.</summary>
    public Errno Errno { get; }
}
