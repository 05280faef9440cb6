using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;
using Wayleave.Linux;

namespace Wayleave.Host.Compute;

/// <summary>
/// A client's use of a GPU: what <c>open("/dev/dri/renderD128")</c> is to a process. It ends with the client, and with
/// it everything in it. Changed under the host lock.
/// </summary>
public sealed class ComputeContext
{
    /// <summary>Words of results that jobs may leave for their client.</summary>
    public const int ResultsMax = 1024;

    /// <summary>Jobs that have ended and can still be asked about.</summary>
    internal const int EndedJobsMax = 256;

    /// <summary>Jobs that wait for names that nobody knows.</summary>
    internal const int HeldJobsMax = 64;

    internal const int BuffersMax = 1024;

    // A hole between two mappings: what runs over the end of one meets nothing.
    private const ulong MappingAlignment = 2 << 20;

    private readonly List<ContextBuffer> _buffers = [];
    private readonly List<ContextQueue> _queues = [];
    private readonly List<ContextJob> _jobs = [];
    private readonly List<ContextRegion> _regions = [];
    private ulong _nextAddress = MappingAlignment;

    internal ComputeContext(
        ulong id, GpuHandle gpu, string name, GpuProcess process, IDisposable use, PidFd? client) =>
        (Id, Gpu, Name, Process, Use, Client) = (id, gpu, name, process, use, client);

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    public GpuHandle Gpu { get; }

    /// <summary>As the client says, for people.</summary>
    public string Name { get; }

    public GpuProcess Process { get; }

    public IReadOnlyList<ContextBuffer> Buffers => _buffers;

    public IReadOnlyList<ContextQueue> Queues => _queues;

    /// <summary>Those that have not ended, and the last ones that have, in the order of submission.</summary>
    public IReadOnlyList<ContextJob> Jobs => _jobs;

    /// <summary>Memory that peers reach by a key, until it is deregistered.</summary>
    public IReadOnlyList<ContextRegion> Regions => _regions;

    /// <summary>Why it ended, or null.</summary>
    public string? Ended { get; internal set; }

    /// <summary>Words that jobs leave here and their client reads; the first handle.</summary>
    internal ObjectMemory? Results { get; set; }

    /// <summary>Memory of its own; null while it has asked for none.</summary>
    public ContextMemory? Memory { get; internal set; }

    /// <summary>Parts of its address space that are memory of its own process.</summary>
    internal List<WatchedMemory> Watched { get; } = [];

    internal IDisposable Use { get; }

    /// <summary>The process that it belongs to; null for one of another machine. Owned by this.</summary>
    internal PidFd? Client { get; }

    /// <summary>Where its regions and queue pairs are, by number.</summary>
    internal Dictionary<(NicHandle Nic, uint Number), ProtectionDomain> Domains { get; } = [];

    /// <summary>Regions that it has used and may use again.</summary>
    internal ContextRegionCaches Caches { get; } = new();

    /// <summary>Queue pairs of its peers.</summary>
    internal List<(NicHandle Nic, QueuePair Pair)> Pairs { get; } = [];

    /// <summary>Regions whose registration is under way.</summary>
    internal int RegionsComing { get; set; }

    /// <summary>Ends waits of the context that nothing else ends.</summary>
    internal CancellationTokenSource Closing { get; } = new();

    /// <summary>The end of the context, once it has begun.</summary>
    internal Task? Ending { get; set; }

    /// <exception cref="WayleaveException">ECANCELED, with the reason.</exception>
    internal void ThrowIfEnded(string operation)
    {
        if (Ended is { } reason)
        {
            throw new WayleaveException(Errno.ECANCELED, operation, reason);
        }
    }

    internal void Add(ContextBuffer buffer) => _buffers.Add(buffer);

    internal void Remove(ContextBuffer buffer) => _buffers.Remove(buffer);

    internal void Add(ContextQueue queue) => _queues.Add(queue);

    internal void Remove(ContextQueue queue) => _queues.Remove(queue);

    internal void Add(ContextJob job)
    {
        _jobs.Add(job);
        for (int i = 0, over = _jobs.Count(j => j.Fence is { IsSignaled: true }) - EndedJobsMax; over > 0; over--)
        {
            i = _jobs.FindIndex(i, j => j.Fence is { IsSignaled: true });
            _jobs.RemoveAt(i);
        }
    }

    internal void Remove(ContextJob job) => _jobs.Remove(job);

    internal void Add(ContextRegion region) => _regions.Add(region);

    internal void Remove(ContextRegion region) => _regions.Remove(region);

    internal ulong TakeAddress(ulong sizeBytes)
    {
        ulong address = _nextAddress;
        _nextAddress += ((sizeBytes + MappingAlignment - 1) & ~(MappingAlignment - 1)) + MappingAlignment;
        return address;
    }

    /// <summary>gpu0 context 7 (training).</summary>
    public override string ToString() => $"context {Id} of {Gpu.Name}";
}
