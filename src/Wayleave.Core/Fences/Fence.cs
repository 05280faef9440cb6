namespace Wayleave.Core.Fences;

/// <summary>
/// A <c>dma_fence</c>: signalled once, with or without an error, and never un-signalled. Whoever creates one names who
/// signals it. Fences of one context signal in the order of their sequence numbers. Host lock held by the caller,
/// unless a member says otherwise.
/// </summary>
public sealed class Fence
{
    private readonly HostContext _host;
    private readonly Timeline? _timeline;
    private List<Action<Fence>>? _observers;
    private List<Action<Fence>>? _endObservers;
    private List<Action<Fence>>? _callbacks;
    private int _signaled;
    private int _ended;

    /// <param name="host">The host whose lock guards this fence.</param>
    /// <param name="context">From <see cref="HostContext.AllocateFenceContexts"/>.</param>
    /// <param name="seqno">Position within the context.</param>
    /// <param name="name">Who signals it, for people and proofs: <c>gpu0 copy engine</c>.</param>
    public Fence(HostContext host, ulong context, ulong seqno, string name)
    {
        _host = host;
        Context = context;
        Seqno = seqno;
        Name = name;
    }

    internal Fence(HostContext host, Timeline timeline, ulong seqno)
        : this(host, timeline.Context, seqno, timeline.Name) => _timeline = timeline;

    public ulong Context { get; }

    public ulong Seqno { get; }

    /// <summary>Who signals this fence.</summary>
    public string Name { get; }

    /// <summary>One-way. Readable without the lock.</summary>
    public bool IsSignaled => Volatile.Read(ref _signaled) != 0;

    /// <summary>
    /// Why the work behind the fence failed; <see cref="Errno.Success"/> while pending and after success.
    /// </summary>
    public Errno Error { get; private set; }

    /// <summary>
    /// Signalled by somebody else than its owner, because the owner hangs. A forced fence lets waiters go on with an
    /// error; it is never evidence that the work has stopped: <see cref="HasEnded"/> is.
    /// </summary>
    public bool IsForced { get; private set; }

    /// <summary>
    /// The owner itself said that the work has ended, perhaps after somebody had forced the fence. Readable without the
    /// lock.
    /// </summary>
    public bool HasEnded => Volatile.Read(ref _ended) != 0;

    /// <summary>When it was signalled, on the host's clock; null while pending.</summary>
    public TimeSpan? Timestamp { get; private set; }

    /// <summary>
    /// Runs <paramref name="callback"/> once after the signal and after the host lock was released
    /// (<c>dma_fence_add_callback</c>; the kernel runs it under the fence's lock, we do not).
    /// </summary>
    /// <returns><see cref="Errno.ENOENT"/> when the fence is signalled already: the callback will never run.</returns>
    public Errno TryAddCallback(Action<Fence> callback)
    {
        _host.AssertHeld();
        if (IsSignaled)
        {
            return Errno.ENOENT;
        }

        (_callbacks ??= []).Add(callback);
        return Errno.Success;
    }

    /// <summary>True when the callback was still queued and will not run (<c>dma_fence_remove_callback</c>).</summary>
    public bool TryRemoveCallback(Action<Fence> callback)
    {
        _host.AssertHeld();
        return _callbacks?.Remove(callback) ?? false;
    }

    /// <summary>
    /// As <see cref="TryAddCallback"/>, for the moment at which the owner says that the work has ended. A fence that
    /// was forced may end much later, or never.
    /// </summary>
    /// <returns><see cref="Errno.ENOENT"/> when it has ended already: the callback will never run.</returns>
    public Errno TryAddEndCallback(Action<Fence> callback) =>
        TryObserveEnd(fence => _host.Defer(() => callback(fence))) ? Errno.Success : Errno.ENOENT;

    /// <summary>
    /// The owner ends the fence (<c>dma_fence_signal</c>). The second call does nothing; after <see cref="Force"/> it
    /// changes neither error nor time, but says that the work has ended now.
    /// </summary>
    public void Signal(Errno error = Errno.Success)
    {
        _host.AssertHeld();
        if (HasEnded)
        {
            return;
        }

        if (IsSignaled)
        {
            Volatile.Write(ref _ended, 1); // forced before
        }
        else
        {
            Complete(error, forced: false);
        }

        (List<Action<Fence>>? observers, _endObservers) = (_endObservers, null);
        foreach (Action<Fence> observer in observers ?? [])
        {
            observer(this);
        }
    }

    /// <summary>
    /// Signals a fence whose owner does not: waiters get <paramref name="error"/>, and the fence is marked forced. Does
    /// nothing when it is signalled.
    /// </summary>
    public void Force(Errno error)
    {
        _host.AssertHeld();
        if (!IsSignaled)
        {
            Complete(error, forced: true);
        }
    }

    /// <summary>
    /// Core's own waiters: they run at the signal, with the host lock held, before any callback, and may only change
    /// Core state.
    /// </summary>
    internal bool TryObserve(Action<Fence> observer)
    {
        _host.AssertHeld();
        if (IsSignaled)
        {
            return false;
        }

        (_observers ??= []).Add(observer);
        return true;
    }

    /// <summary>As <see cref="TryObserve"/>, for the end of the work.</summary>
    internal bool TryObserveEnd(Action<Fence> observer)
    {
        _host.AssertHeld();
        if (HasEnded)
        {
            return false;
        }

        (_endObservers ??= []).Add(observer);
        return true;
    }

    public override string ToString() => $"{Name} {Context}:{Seqno}";

    private void Complete(Errno error, bool forced)
    {
        _timeline?.HandleSignaled(this);
        (Error, IsForced, Timestamp) = (error, forced, _host.Now);
        if (!forced)
        {
            // Before the signal is seen: whoever reads both without the lock must not take an owner's signal for a
            // forced one.
            Volatile.Write(ref _ended, 1);
        }

        Volatile.Write(ref _signaled, 1);

        // Both lists are taken before anything runs: what runs may look at this fence, or drop it.
        (List<Action<Fence>>? observers, _observers) = (_observers, null);
        (List<Action<Fence>>? callbacks, _callbacks) = (_callbacks, null);
        foreach (Action<Fence> observer in observers ?? [])
        {
            observer(this);
        }

        foreach (Action<Fence> callback in callbacks ?? [])
        {
            _host.Defer(() => callback(this));
        }
    }
}
