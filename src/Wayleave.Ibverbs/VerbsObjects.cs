using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

// What stands behind the structures of C: the object of the machine, where its structure is, and who uses it. The
// counts are what libibverbs' kernel counts: an object that is used is not destroyed (EBUSY).

/// <summary><c>struct ibv_pd</c>.</summary>
internal sealed class VerbsDomain(VerbsContext context, ProtectionDomain domain)
{
    private int _users;

    public VerbsContext Context => context;

    public VerbsDevice Device => context.Device;

    public ProtectionDomain Domain => domain;

    public bool IsUsed => Volatile.Read(ref _users) != 0;

    public void Hold() => Interlocked.Increment(ref _users);

    public void Release() => Interlocked.Decrement(ref _users);
}

/// <summary><c>struct ibv_mr</c>.</summary>
internal sealed class VerbsRegion(VerbsDomain domain, MemoryRegion region, IDisposable? source = null)
{
    /// <summary>What its memory is of, to be disposed of after the region; null for the program's own.</summary>
    public IDisposable? Source => source;

    public VerbsDomain Domain { get; private set; } = domain;

    /// <summary>Another object of the same key after <c>ibv_rereg_mr</c>.</summary>
    public MemoryRegion Region { get; private set; } = region;

    /// <summary>It was registered again. The control call of the program that owns it.</summary>
    public void Become(VerbsDomain domain, MemoryRegion region) => (Domain, Region) = (domain, region);
}

/// <summary><c>struct ibv_mw</c>.</summary>
internal sealed class VerbsWindow(VerbsDomain domain, MemoryWindow window)
{
    public VerbsDomain Domain => domain;

    public MemoryWindow Window => window;
}

/// <summary><c>struct ibv_ah</c>.</summary>
internal sealed class VerbsAddress(VerbsDomain domain, AddressHandle handle)
{
    public VerbsDomain Domain => domain;

    public AddressHandle Handle => handle;
}

/// <summary><c>struct ibv_cq</c>, and where an extended poll stands.</summary>
internal sealed class VerbsCompletions(
    VerbsContext context, VerbsChannel? channel, CompletionQueue queue, nint structure)
{
    private int _users;

    public VerbsContext Context => context;

    public VerbsDevice Device => context.Device;

    public VerbsChannel? Channel => channel;

    public CompletionQueue Queue => queue;

    public nint Structure => structure;

    /// <summary>What <c>start_poll</c> and <c>next_poll</c> have found; the thread that polls.</summary>
    public WorkCompletion[] Current { get; } = new WorkCompletion[1];

    public bool IsUsed => Volatile.Read(ref _users) != 0;

    public void Hold() => Interlocked.Increment(ref _users);

    public void Release() => Interlocked.Decrement(ref _users);
}

/// <summary><c>struct ibv_comp_channel</c>.</summary>
internal sealed class VerbsChannel
{
    private readonly Lock _lock = new();
    private readonly Dictionary<CompletionQueue, nint> _queues = [];

    public VerbsChannel(EventFd wake) => Channel = new CompletionChannel(wake.Signal);

    public CompletionChannel Channel { get; }

    public bool IsUsed
    {
        get
        {
            lock (_lock)
            {
                return _queues.Count != 0;
            }
        }
    }

    public void Add(CompletionQueue queue, nint structure)
    {
        lock (_lock)
        {
            _queues.Add(queue, structure);
        }
    }

    public void Remove(CompletionQueue queue)
    {
        lock (_lock)
        {
            _queues.Remove(queue);
        }
    }

    /// <summary>The structure of the queue that has the oldest event; 0 when it was destroyed meanwhile.</summary>
    public nint Take()
    {
        lock (_lock)
        {
            return Channel.TryTakeEvent(out CompletionQueue? queue) && _queues.TryGetValue(queue, out nint structure)
                ? structure
                : 0;
        }
    }
}

/// <summary><c>struct ibv_srq</c>.</summary>
internal sealed class VerbsSharedReceives(VerbsDomain domain, SharedReceiveQueue queue, nint structure)
{
    private int _users;

    public VerbsDomain Domain => domain;

    public VerbsContext Context => domain.Context;

    public SharedReceiveQueue Queue => queue;

    public nint Structure => structure;

    public bool IsUsed => Volatile.Read(ref _users) != 0;

    public void Hold() => Interlocked.Increment(ref _users);

    public void Release() => Interlocked.Decrement(ref _users);
}

/// <summary><c>struct ibv_qp</c>.</summary>
internal sealed class VerbsQueuePair(
    VerbsDomain domain,
    VerbsCompletions sends,
    VerbsCompletions receives,
    VerbsSharedReceives? shared,
    QueuePair pair,
    nint structure)
{
    public VerbsDomain Domain => domain;

    public VerbsContext Context => domain.Context;

    public VerbsDevice Device => domain.Device;

    public VerbsCompletions Sends => sends;

    public VerbsCompletions Receives => receives;

    public VerbsSharedReceives? Shared => shared;

    public QueuePair Pair => pair;

    public nint Structure => structure;

    /// <summary>An extended post that is under way; made when the first begins.</summary>
    public ExtendedPost Extended => field ??= new ExtendedPost(this);
}
