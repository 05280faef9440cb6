using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

//   pending --Signal--> signalled, ended            (by its owner: evidence that the work has stopped)
//   pending --Force---> signalled, forced --Signal--> signalled, forced, ended
//
// Signalled is what waiters look at, ended is what evidence looks at. The owner's signal is both at once. A fence that
// had to be forced lets its waiters go on with an error, and its memory stays where it is until the owner, or a proof
// that the engine stands still, ends it.

/// <summary>
/// A <c>dma_fence</c>: signalled once, with or without an error, and never un-signalled. Whoever creates one names who
/// signals it. Fences of one context signal in the order of their sequence numbers. Host lock held by the caller,
/// unless a member says otherwise.
/// </summary>
public class Fence : IWaitNode
{
    private readonly HostContext _host;
    private readonly Timeline? _timeline;
    private IFenceOperations? _operations; // gone once signalled
    private IReadOnlyList<Fence> _runsAfter = [];
    private FenceWatchers _ofSignal;
    private FenceWatchers _ofEnd;
    private FencePredecessors _predecessors;
    private bool _isOver; // the owner said so
    private Errno _errorToCome;
    private bool _isEnabled;
    private int _signaled;
    private int _ended;

    /// <param name="host">The host whose lock guards this fence.</param>
    /// <param name="context">From <see cref="HostContext.AllocateFenceContexts"/>.</param>
    /// <param name="seqno">Position within the context.</param>
    /// <param name="name">Who signals it, for people and proofs: <c>gpu0 copy engine</c>.</param>
    /// <param name="operations">The driver behind it, or null when all it does is signal.</param>
    /// <param name="width">How sequence numbers of the context compare; one context has one width.</param>
    public Fence(
        HostContext host,
        ulong context,
        ulong seqno,
        string name,
        IFenceOperations? operations = null,
        SeqnoWidth width = SeqnoWidth.Bits64)
    {
        _host = host;
        _operations = operations;
        Context = context;
        Seqno = seqno;
        Name = name;
        Width = width;
    }

    internal Fence(HostContext host, Timeline timeline, ulong seqno)
        : this(host, timeline.Context, seqno, timeline.Name) => _timeline = timeline;

    public ulong Context { get; }

    public ulong Seqno { get; }

    public SeqnoWidth Width { get; }

    /// <summary>Who signals this fence. Kept after the signal, for proofs.</summary>
    public string Name { get; }

    /// <summary>The driver behind the fence; <c>detached-driver</c> once signalled.</summary>
    public string DriverName => IsSignaled ? "detached-driver" : _operations?.DriverName ?? OwnDriverName;

    /// <summary>What the driver calls the context; <c>signaled-timeline</c> once signalled.</summary>
    public string TimelineName => IsSignaled ? "signaled-timeline" : _operations?.TimelineName ?? OwnTimelineName;

    /// <summary>One-way (<c>dma_fence_test_signaled_flag</c>). Readable without the lock.</summary>
    public bool IsSignaled => Volatile.Read(ref _signaled) != 0;

    /// <summary>
    /// Why the work behind the fence failed; <see cref="Errno.Success"/> while pending and after success.
    /// </summary>
    public Errno Error { get; private set; }

    /// <summary>
    /// Signalled by somebody else than its owner, because the owner hangs or is gone; or by its owner, in the place of
    /// an earlier fence that was. A forced fence lets waiters go on with an error; it is never evidence that the work
    /// has stopped: <see cref="HasEnded"/> is.
    /// </summary>
    public bool IsForced { get; private set; }

    /// <summary>
    /// The owner itself said that the work has ended, perhaps after somebody had forced the fence, and so has the work
    /// of every fence whose place this one took. Readable without the lock.
    /// </summary>
    public bool HasEnded => Volatile.Read(ref _ended) != 0;

    /// <summary>When it was signalled, on the host's clock; null while pending.</summary>
    public TimeSpan? Timestamp { get; private set; }

    /// <summary>The earliest time by which somebody asked for the fence; null when nobody did.</summary>
    public TimeSpan? Deadline { get; private set; }

    /// <summary>
    /// Only a user's program signals it, whenever it likes: it may not stand where others wait implicitly
    /// (dma-buf.rst, indefinite fences).
    /// </summary>
    public virtual bool IsUserControlled => false;

    /// <summary>Made of other fences: an array or a chain.</summary>
    public virtual bool IsContainer => false;

    public string Label => $"fence {this}";

    internal HostContext Host => _host;

    private protected virtual string OwnDriverName => "wayleave";

    private protected virtual string OwnTimelineName => Name;

    /// <summary>
    /// A fence that was signalled at that time (<c>dma_fence_allocate_private_stub</c>); of context 0, to which no work
    /// belongs.
    /// </summary>
    public static Fence CreateSignaled(HostContext host, TimeSpan timestamp)
    {
        host.AssertHeld();
        Fence stub = new(host, context: 0, seqno: 0, "stub");
        stub.Complete(Errno.Success, forced: false, ended: true);
        stub.Timestamp = timestamp;
        return stub;
    }

    /// <summary>
    /// The later of two fences of one context, or null when that one is signalled (<c>dma_fence_later</c>).
    /// </summary>
    public static Fence? Later(Fence one, Fence other)
    {
        Fence later = one.IsLaterThan(other) ? one : other;
        return later.IsSignaled ? null : later;
    }

    /// <summary>
    /// Whether this signals after <paramref name="other"/> (<c>dma_fence_is_later</c>). Fences of different contexts
    /// have no order: that is a violation, and false.
    /// </summary>
    public bool IsLaterThan(Fence other)
    {
        if (Context == other.Context)
        {
            return IsLater(Seqno, other.Seqno, Width);
        }

        _host.Checker.Report(ViolationKind.FenceOrder, ToString(), $"is of another context than {other}: no order");
        return false;
    }

    /// <summary>Whether this is <paramref name="other"/>, or signals after it.</summary>
    public bool IsLaterOrSame(Fence other) => ReferenceEquals(this, other) || IsLaterThan(other);

    /// <summary>
    /// 0 while pending, 1 after success, a negative errno after a failure (<c>dma_fence_get_status</c>). Looks as
    /// <see cref="CheckSignaled"/> does.
    /// </summary>
    public int GetStatus() => !CheckSignaled() ? 0 : Error == Errno.Success ? 1 : -(int)Error;

    /// <summary>
    /// Whether it is signalled, after asking the driver (<c>dma_fence_is_signaled</c>): if the work has ended, this
    /// signals the fence.
    /// </summary>
    public bool CheckSignaled()
    {
        _host.AssertHeld();
        if (!IsSignaled && IsDone())
        {
            CompleteFromWithin();
        }

        return IsSignaled;
    }

    /// <summary>
    /// Tells the driver that somebody waits (<c>dma_fence_enable_sw_signaling</c>); once, at the first call.
    /// </summary>
    public void EnableSignaling() => IsPendingOnceEnabled();

    /// <summary>
    /// Runs <paramref name="callback"/> once after the signal and after the host lock was released
    /// (<c>dma_fence_add_callback</c>; the kernel runs it under the fence's lock, we do not).
    /// </summary>
    /// <returns><see cref="Errno.ENOENT"/> when the fence is signalled already: the callback will never run.</returns>
    public Errno TryAddCallback(Action<Fence> callback)
    {
        if (!IsPendingOnceEnabled())
        {
            return Errno.ENOENT;
        }

        _ofSignal.AddCallback(callback);
        return Errno.Success;
    }

    /// <summary>True when the callback was still queued and will not run (<c>dma_fence_remove_callback</c>).</summary>
    public bool TryRemoveCallback(Action<Fence> callback)
    {
        _host.AssertHeld();
        return _ofSignal.TryRemoveCallback(callback);
    }

    /// <summary>
    /// As <see cref="TryAddCallback"/>, for the moment at which the owner says that the work has ended. A fence that
    /// was forced may end much later, or never.
    /// </summary>
    /// <returns><see cref="Errno.ENOENT"/> when it has ended already: the callback will never run.</returns>
    public Errno TryAddEndCallback(Action<Fence> callback)
    {
        if (!IsOpenOnceEnabled())
        {
            return Errno.ENOENT;
        }

        _ofEnd.AddCallback(callback);
        return Errno.Success;
    }

    /// <summary>
    /// Somebody would like the fence signalled by then, on the host's clock (<c>dma_fence_set_deadline</c>): a hint.
    /// The earliest wins and is handed to the driver; a signalled fence ignores it.
    /// </summary>
    public void SetDeadline(TimeSpan deadline)
    {
        _host.AssertHeld();
        if (IsSignaled || Deadline <= deadline)
        {
            return;
        }

        Deadline = deadline;
        ForwardDeadline(deadline);
    }

    /// <summary>
    /// The work behind this fence starts only when all of <paramref name="fences"/> have signalled, so that the checker
    /// sees through it. The list is kept, not copied, until the signal.
    /// </summary>
    /// <returns><see cref="Errno.EDEADLK"/> when one of them cannot signal before this one; nothing is kept.</returns>
    public Errno TryRunAfter(IReadOnlyList<Fence> fences, out WaitCycle? cycle)
    {
        _host.AssertHeld();
        cycle = null;
        foreach (Fence fence in fences)
        {
            if (!fence.IsSignaled && _host.Checker.FindCycle(this, "runs after", fence) is { } found)
            {
                cycle = found;
                return Errno.EDEADLK;
            }
        }

        _runsAfter = fences;
        return Errno.Success;
    }

    /// <summary>
    /// What <see cref="Error"/> will be after the signal (<c>dma_fence_set_error</c>): ENODATA, ECANCELED, ETIME. Not
    /// visible before. A violation, and nothing else, when the fence is signalled or this is no error.
    /// </summary>
    public void SetError(Errno error)
    {
        _host.AssertHeld();
        if (IsSignaled || error <= Errno.Success || (int)error > 4095)
        {
            string why = IsSignaled ? "is signalled already" : "an error is an errno from 1 to 4095";
            _host.Checker.Report(ViolationKind.FenceError, ToString(), $"error {(int)error} was set; {why}");
            return;
        }

        _errorToCome = error;
    }

    /// <summary>
    /// The owner ends the fence (<c>dma_fence_signal</c>). The second call does nothing; after <see cref="Force"/> it
    /// changes neither error nor time, but says that the work has ended now. Containers signal by themselves.
    /// </summary>
    public void Signal(Errno error = Errno.Success) => SignalOnce(error, timestamp: null);

    /// <summary>
    /// As <see cref="Signal"/>, with the time at which the work ended, on the host's clock
    /// (<c>dma_fence_signal_timestamp</c>): for who ends several at once and has looked at the clock.
    /// </summary>
    public void SignalAt(Errno error, TimeSpan timestamp) => SignalOnce(error, timestamp);

    /// <summary>
    /// As <see cref="Signal"/>; true when it was signalled before (<c>dma_fence_check_and_signal</c>).
    /// </summary>
    public bool CheckAndSignal(Errno error = Errno.Success)
    {
        bool wasSignaled = IsSignaled;
        Signal(error);
        return wasSignaled;
    }

    /// <summary>
    /// Signals a fence whose owner does not: waiters get <paramref name="error"/>, and the fence is marked forced. Does
    /// nothing when it is signalled. For an engine that may only be slow, see <see cref="HangDetector"/>.
    /// </summary>
    public void Force(Errno error)
    {
        _host.AssertHeld();
        ThrowIfContainer();
        if (IsSignaled)
        {
            return;
        }

        bool isEvidence = !_host.Has(CoreDefences.ForcedIsNoEvidence);
        Complete(error, forced: true, ended: isEvidence);
        if (isEvidence)
        {
            _ofEnd.Tell(this);
        }
    }

    /// <summary>
    /// The owner goes away without having signalled: a violation. Waiters get <see cref="Errno.EDEADLK"/>, and the
    /// fence is forced, because nobody is left who could say that the work has ended. Nothing when it is signalled.
    /// </summary>
    public void Drop()
    {
        _host.AssertHeld();
        if (!IsSignaled)
        {
            _host.Checker.Report(
                ViolationKind.FenceDropped, ToString(),
                "its owner is gone and never signalled it; waiters get EDEADLK");
            Force(Errno.EDEADLK);
        }
    }

    /// <summary>
    /// Core's own waiters: they run at the signal, with the host lock held, before any callback, and may only change
    /// Core state.
    /// </summary>
    internal bool TryObserve(Action<Fence> observer)
    {
        if (!IsPendingOnceEnabled())
        {
            return false;
        }

        _ofSignal.Observe(observer);
        return true;
    }

    internal bool TryStopObserving(Action<Fence> observer) =>
        _ofSignal.TryStopObserving(observer);

    /// <summary>As <see cref="TryObserve"/>, for the end of the work.</summary>
    internal bool TryObserveEnd(Action<Fence> observer)
    {
        if (!IsOpenOnceEnabled())
        {
            return false;
        }

        _ofEnd.Observe(observer);
        return true;
    }

    /// <summary>
    /// This fence takes the place of an earlier one of its context, in a reservation or a merge: from now on it ends
    /// only after that. Who looks for evidence finds this one alone, and the earlier one may yet have to be forced.
    /// </summary>
    internal void StandFor(Fence earlier)
    {
        if (!earlier.HasEnded && !HasEnded && !ReferenceEquals(earlier, this))
        {
            _predecessors.Add(earlier);
        }
    }

    /// <summary>The pending fences of this one's queue up to this one, oldest first.</summary>
    internal IReadOnlyList<Fence> PendingUpToThis() => _timeline?.PendingUpTo(this) ?? [this];

    public virtual void ListWaits(WaitEdges edges)
    {
        if (IsSignaled)
        {
            return;
        }

        for (int i = 0; i < _runsAfter.Count; i++)
        {
            if (!_runsAfter[i].IsSignaled)
            {
                edges.Add("runs after", _runsAfter[i]);
            }
        }

        if (_timeline?.OldestPending is { } oldest && !ReferenceEquals(oldest, this))
        {
            edges.Add("signals after", oldest);
        }

        if (_timeline?.Signaler is { } signaler)
        {
            edges.Add("is signalled by", signaler);
        }
    }

    public override string ToString() => $"{Name} {Context}:{Seqno}";

    internal static bool IsLater(ulong one, ulong other, SeqnoWidth width) =>
        width == SeqnoWidth.Bits64 ? one > other : (int)((uint)one - (uint)other) > 0;

    /// <summary>Somebody waits from now on. False: no need to, it is signalled.</summary>
    private protected virtual bool HandleEnabled() => _operations?.EnableSignaling(this) ?? true;

    /// <summary>Whether a look shows that the work has ended.</summary>
    private protected virtual bool IsDone() => _operations?.IsSignaled(this) ?? false;

    private protected virtual void ForwardDeadline(TimeSpan deadline) => _operations?.SetDeadline(this, deadline);

    /// <summary>The work was found to have ended, without a signal from outside.</summary>
    private protected virtual void CompleteFromWithin() => SignalByOwner(_errorToCome);

    private protected void Complete(Errno error, bool forced, bool ended, TimeSpan? timestamp = null)
    {
        _timeline?.HandleSignaled(this);
        Timestamp = timestamp ?? _host.Now;

        // Who signals is mostly on another processor than who made the fence, and fetches each cache line from there
        // before it can write it: what has its value already is left alone.
        if (error != Errno.Success || forced)
        {
            (Error, IsForced) = (error, forced);
        }

        if (_operations is not null || _runsAfter.Count > 0)
        {
            (_operations, _runsAfter) = (null, []);
        }

        if (ended)
        {
            // Before the signal is seen: whoever reads both without the lock must not take an owner's signal for a
            // forced one.
            Volatile.Write(ref _ended, 1);
        }

        Volatile.Write(ref _signaled, 1);
        _ofSignal.Tell(this);
    }

    private protected void MarkEnded()
    {
        _predecessors.Clear();
        if (!HasEnded)
        {
            Volatile.Write(ref _ended, 1);
        }

        _ofEnd.Tell(this);
    }

    private void SignalOnce(Errno error, TimeSpan? timestamp)
    {
        _host.AssertHeld();
        ThrowIfContainer();
        if (!_isOver)
        {
            SignalByOwner(error == Errno.Success ? _errorToCome : error, timestamp);
        }
    }

    private void SignalByOwner(Errno error, TimeSpan? timestamp = null)
    {
        if (!IsSignaled)
        {
            bool isForced = _predecessors.FindOpen() is not null;
            Complete(error, isForced, ended: !isForced, timestamp);
        }

        _isOver = true; // not before: a signal out of order has thrown and may come again
        EndAfterPredecessors();
    }

    private void EndAfterPredecessors()
    {
        if (_predecessors.FindOpen() is { } open && open.TryObserveEnd(_ => EndAfterPredecessors()))
        {
            return;
        }

        MarkEnded();
    }

    // A container that nobody waits for does not hear of its parts, so that counts as a wait too.
    private bool IsOpenOnceEnabled()
    {
        IsPendingOnceEnabled();
        return !HasEnded;
    }

    private bool IsPendingOnceEnabled()
    {
        _host.AssertHeld();
        if (!IsSignaled && !_isEnabled)
        {
            _isEnabled = true;
            if (!HandleEnabled())
            {
                CompleteFromWithin();
            }
        }

        return !IsSignaled;
    }

    private void ThrowIfContainer()
    {
        if (IsContainer)
        {
            throw new InvalidOperationException($"{this} signals when its parts do; nobody else signals it");
        }
    }
}
