using System.Diagnostics;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Core;

// Lock order: host lock first, reservations (logical, owned by tickets) under it, never a wait while it is held. A
// thread that holds a port or engine token may take the host lock; a thread that holds the host lock never takes a
// token.

/// <summary>
/// What the objects of one host share: the host lock that guards all control state, the clock, the trace sink and the
/// source of identities. Every member of a Core control object is called with the host lock held unless its comment
/// says otherwise.
/// </summary>
public sealed class HostContext
{
    private readonly TimeProvider _clock;
    private readonly ITraceSink? _trace;
    private readonly Lock _lock = new();
    private readonly long _epoch;
    private readonly Func<bool> _isFree;
    private volatile bool _isTaken; // for a scheduler, if there is one: the lock says only whether this thread holds it
    private ulong _nextContext = 1; // 0 belongs to stub fences, as in dma-fence.c
    private ulong _nextId = 1;
    private Fence? _stub;

    /// <param name="clock">Asked for the time; never waited on.</param>
    /// <param name="trace">Gets every event, or null.</param>
    /// <param name="checks">
    /// What <see cref="Checker"/> looks at; null takes the defaults, under which all is on.
    /// </param>
    public HostContext(TimeProvider clock, ITraceSink? trace = null, CheckerOptions? checks = null)
    {
        (_clock, _trace, _epoch) = (clock, trace, clock.GetTimestamp());
        Checker = new Checker(this, checks ?? new CheckerOptions());
        _isFree = () => !_isTaken; // one for all acquires: a scheduler asks at each
    }

    /// <summary>Watches what the objects of this host wait for, and keeps the contracts that were broken.</summary>
    public Checker Checker { get; }

    /// <summary>Broken twins for the tests of the tests: each switches one defence off.</summary>
    internal CoreDefences Defences { get; init; } = CoreDefences.All;

    /// <summary>Time since this host was made; monotonic. Callable without the lock.</summary>
    public TimeSpan Now => _clock.GetElapsedTime(_epoch);

    /// <summary>Every buffer that is not released, oldest first. Host lock held by the caller.</summary>
    internal LinkedList<SharedBuffer> Buffers { get; } = new();

    /// <summary>Whether the calling thread holds the host lock.</summary>
    public bool IsHeld => _lock.IsHeldByCurrentThread;

    /// <summary>
    /// Takes the host lock until the scope is disposed. Then, without the lock, runs what was deferred meanwhile: all
    /// of it, even if some of it throws, which <see cref="Scope.Dispose"/> reports afterwards. Not recursive: a second
    /// Enter of one thread is a bug and throws.
    /// </summary>
    public Scope Enter()
    {
        if (_lock.IsHeldByCurrentThread)
        {
            throw new InvalidOperationException("the host lock is already held by this thread; it is not recursive");
        }

        if (Interleave.Enabled)
        {
            Interleave.Wait("host lock", _isFree);
        }

        _lock.Enter();
        if (Interleave.Enabled)
        {
            _isTaken = true;
        }

        return new Scope(this);
    }

    /// <summary>
    /// Throws when the calling thread does not hold the host lock: a bug of the caller, in every build.
    /// </summary>
    public void AssertHeld()
    {
        if (!_lock.IsHeldByCurrentThread)
        {
            throw new InvalidOperationException("the host lock is not held: wrap the call in `using (host.Enter())`");
        }
    }

    /// <summary>
    /// Runs <paramref name="action"/> after the lock is released, on this thread, in the order of the calls.
    /// </summary>
    public void Defer(Action action)
    {
        AssertHeld();
        DeferredWork.For(this).Add(action);
    }

    /// <summary>
    /// The first of <paramref name="count"/> fence contexts that nobody else has (<c>dma_fence_context_alloc</c>).
    /// </summary>
    public ulong AllocateFenceContexts(int count = 1)
    {
        AssertHeld();
        ulong first = _nextContext;
        _nextContext += (ulong)count;
        return first;
    }

    /// <summary>
    /// A fence that has always been signalled; the same one at every call (<c>dma_fence_get_stub</c>).
    /// </summary>
    public Fence GetStubFence()
    {
        AssertHeld();
        return _stub ??= Fence.CreateSignaled(this, Now);
    }

    /// <summary>A number that no other object of this host has.</summary>
    public ulong AllocateId()
    {
        AssertHeld();
        return _nextId++;
    }

    /// <summary>Hands an event to the sink, if there is one. Callable without the lock.</summary>
    public void Trace(string name, string subject, long argument = 0, long detail = 0) =>
        _trace?.Emit(new TraceEvent(name, subject, argument, detail));

    internal bool Has(CoreDefences defence) => (Defences & defence) != 0;

    /// <summary>As the other, for who waits for a fence.</summary>
    internal void Defer(Action<Fence> callback, Fence fence)
    {
        AssertHeld();
        DeferredWork.For(this).Add(callback, fence);
    }

    // Deferred work runs outside the lock, so it is taken out first; what it defers in turn belongs to its own Enter.
    private void Exit()
    {
        DeferredWork? deferred = DeferredWork.Take(this);
        if (Interleave.Enabled)
        {
            _isTaken = false;
        }

        _lock.Exit();
        deferred?.Run();
    }

    /// <summary>The time during which the host lock is held.</summary>
    public readonly ref struct Scope
    {
        private readonly HostContext _host;

        internal Scope(HostContext host) => _host = host;

        public void Dispose()
        {
            Debug.Assert(_host.IsHeld, "the scope is disposed by the thread that entered");
            _host.Exit();
        }
    }
}
