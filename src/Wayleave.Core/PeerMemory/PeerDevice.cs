using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

// Two layers, as since 7.x. A provider is the step from an owner's BAR to what a peer puts on the bus, and nothing
// else; whoever allocates that memory goes on doing so. A pool is for memory that nobody else allocates. Both end
// together, when the driver lets go.

/// <summary>
/// What makes a function's memory available to peers (<c>struct pci_p2pdma</c>): its providers, its pool, and the map
/// types that were calculated for its clients. Made once per function and gone when its driver lets go. Host lock held
/// by the caller.
/// </summary>
public sealed class PeerDevice
{
    private readonly PciTopology _topology;
    private readonly PeerProvider?[] _providers = new PeerProvider?[PciFunction.BarCountMax];
    private readonly Dictionary<PciAddress, PeerVerdict> _verdicts = [];
    private Dictionary<PciAddress, RouteFault>? _faults; // null on nearly every device: the look-up stays one
    private readonly List<PeerResource> _resources = [];
    private PeerUnbind? _unbind;

    private PeerDevice(PciTopology topology, PciFunction function) => (_topology, Function) = (topology, function);

    public PciFunction Function { get; }

    /// <summary>Whether the function is still there; afterwards every client is refused.</summary>
    public bool IsAlive => ReferenceEquals(Function.PeerDevice, this);

    /// <summary>Whether its driver is letting go, or has.</summary>
    public bool IsUnbinding => _unbind is not null || !IsAlive;

    /// <summary>Memory that anybody may ask for; null until a resource was added.</summary>
    public PeerPool? Pool { get; private set; }

    /// <summary>Whoever allocates this device's memory, and lends it; null while nobody does.</summary>
    public IPeerMemoryOwner? MemoryOwner { get; private set; }

    /// <summary>
    /// Resources with a handle whose memory has not returned to its owner, in the order they were added.
    /// </summary>
    public IReadOnlyList<PeerResource> Resources => _resources;

    /// <summary>
    /// Off lets all handles of a device take from one range, as the pool of the kernel does: for the test that must
    /// notice.
    /// </summary>
    internal bool GivesEachHandleItsOwnRange { get; set; } = true;

    /// <summary>
    /// Off leaves the providers and the cache behind when the driver has let go: for the test that must notice.
    /// </summary>
    internal bool ForgetsAtUnbind { get; set; } = true;

    /// <summary>
    /// Makes a function's memory BARs available (<c>pcim_p2pdma_init</c>). The second call returns what the first one
    /// made.
    /// </summary>
    /// <exception cref="ArgumentException">See <see cref="TryInitialize"/>.</exception>
    public static PeerDevice Initialize(PciTopology topology, PciFunction function)
    {
        Errno errno = TryInitialize(topology, function, out PeerDevice? device);
        return errno == Errno.Success
            ? device!
            : throw new ArgumentException($"{function} cannot offer memory to peers: {errno}", nameof(function));
    }

    /// <summary>As <see cref="Initialize"/>.</summary>
    /// <returns><see cref="Errno.EOPNOTSUPP"/> for a function whose BARs the processor cannot map.</returns>
    public static Errno TryInitialize(PciTopology topology, PciFunction function, out PeerDevice? device)
    {
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(function);
        device = null;
        if (function.HasUnmappableBars)
        {
            return Errno.EOPNOTSUPP;
        }

        device = function.PeerDevice ??= new PeerDevice(topology, function);
        return Errno.Success;
    }

    /// <summary>
    /// The provider of a function's BAR (<c>pcim_p2pdma_provider</c>); null for a BAR that is no memory or not there.
    /// Null, and a violation in the trace, when nobody has initialised the function.
    /// </summary>
    public static PeerProvider? FindProvider(HostContext host, PciFunction function, int bar)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(function);
        host.AssertHeld();
        if (function.PeerDevice is not PeerDevice device)
        {
            host.Trace("violation.provider_before_init", function.Name, bar);
            return null;
        }

        return device.Provider(bar);
    }

    /// <summary>
    /// Puts a part of a BAR into the function's pool (<c>pci_p2pdma_add_resource</c>): for memory that has no allocator
    /// yet. There may be several, of several BARs; they end only with <see cref="Unbind"/>.
    /// </summary>
    /// <param name="host">The host of the function.</param>
    /// <param name="topology">Where it is plugged in.</param>
    /// <param name="function">The owner; initialised by this if need be.</param>
    /// <param name="bar">0 to 5.</param>
    /// <param name="sizeBytes">Whole pages; 0 for the rest of the BAR.</param>
    /// <param name="offset">Whole pages.</param>
    /// <param name="pool">The function's pool: the same for all its resources.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a BAR that is no memory, and for a range that is not whole pages inside it;
    /// <see cref="Errno.EOPNOTSUPP"/> when the processor cannot map the BAR; <see cref="Errno.EBUSY"/> for memory that
    /// has an allocator already, which lends it by <see cref="PeerResource.TryAdd"/>; <see cref="Errno.ENOMEM"/> for an
    /// overlap with another resource; <see cref="Errno.ENODEV"/> when the driver is letting go.
    /// </returns>
    public static Errno TryAddResource(
        HostContext host,
        PciTopology topology,
        PciFunction function,
        int bar,
        ulong sizeBytes,
        ulong offset,
        out PeerPool? pool)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(function);
        host.AssertHeld();
        pool = null;
        if ((uint)bar >= PciFunction.BarCountMax || function.Bars[bar] is not { Kind: PciBarKind.Memory } memory
            || offset >= memory.Range.LengthBytes)
        {
            return Errno.EINVAL;
        }

        ulong rest = memory.Range.LengthBytes - offset;
        ulong size = sizeBytes == 0 ? rest : sizeBytes;
        if (size > rest || ((size | offset) & (PeerPool.PageBytes - 1)) != 0)
        {
            return Errno.EINVAL;
        }

        Errno errno = TryInitialize(topology, function, out PeerDevice? device);
        if (errno != Errno.Success)
        {
            return errno;
        }

        if (device!.IsUnbinding)
        {
            return Errno.ENODEV;
        }

        if (device.MemoryOwner?.Allocates(memory) == true)
        {
            return Errno.EBUSY;
        }

        // A pool that could not take its first resource is not left behind.
        PeerPool target = device.Pool ?? new PeerPool(host, device);
        errno = target.TryAdd(memory, size, offset);
        if (errno != Errno.Success)
        {
            return errno;
        }

        host.Trace("p2pmem.add_resource", function.Name, bar, (long)size);
        pool = device.Pool = target;
        return Errno.Success;
    }

    /// <summary>
    /// The provider of a BAR (<c>pcim_p2pdma_provider</c>); null for a BAR that is not there or is no memory.
    /// </summary>
    public PeerProvider? Provider(int bar)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)bar, (uint)PciFunction.BarCountMax);
        if (Function.Bars[bar] is not { Kind: PciBarKind.Memory } memory || !IsAlive)
        {
            return null;
        }

        return _providers[bar] ??= new PeerProvider(this, memory);
    }

    /// <summary>Routes to this memory that were seen to fail, in no order.</summary>
    public IReadOnlyCollection<RouteFault> RouteFaults =>
        _faults is null ? [] : _faults.Values;

    /// <summary>
    /// What the rules say about a client, calculated once per client address: a change of ACS afterwards is not noticed
    /// until this device is gone. A route that was seen to fail is refused whatever the rules say.
    /// </summary>
    public PeerVerdict VerdictFor(PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(client);
        if (!IsAlive)
        {
            string refusal = $"{Function} offers no memory to peers";
            return new PeerVerdict(PeerMapType.NotSupported, -1, PeerObstacle.NoProvider, [Function], refusal);
        }

        return _faults is null && _verdicts.TryGetValue(client.Address, out PeerVerdict? verdict)
            ? verdict
            : VerdictWithFault(client);
    }

    /// <summary>
    /// Records that a client does not reach this memory, though the rules say it does: maps are refused from now on.
    /// Mappings that exist are for their owner to take back.
    /// </summary>
    public void MarkBad(RouteFault fault)
    {
        ArgumentNullException.ThrowIfNull(fault);
        (_faults ??= [])[fault.Client.Address] = fault;
    }

    /// <summary>Forgets what was seen of a route: it was repaired, or is about to be tried again.</summary>
    /// <returns>What was recorded, or null.</returns>
    public RouteFault? ClearFault(PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(client);
        if (_faults is null || !_faults.Remove(client.Address, out RouteFault? fault))
        {
            return null;
        }

        _faults = _faults.Count == 0 ? null : _faults;
        return fault;
    }

    /// <summary>
    /// Calculates anew and writes the cache, as every call of <c>calc_map_type_and_dist</c> does.
    /// </summary>
    public PeerVerdict Recalculate(PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(client);
        PeerVerdict verdict = PeerPath.Calculate(_topology, Function, client);
        if (client.Root is not null)
        {
            _verdicts[client.Address] = verdict;
        }

        return verdict;
    }

    /// <summary>
    /// The map type of a client that may not be a PCI function (<c>pci_p2pdma_map_type</c>): only a function itself is
    /// supported, not a child of one.
    /// </summary>
    public PeerMapType MapTypeFor(IDeviceNode client) =>
        client is PciFunction function ? VerdictFor(function).MapType : PeerMapType.NotSupported;

    /// <summary>Says who allocates the device's memory: its driver, once.</summary>
    /// <exception cref="InvalidOperationException">Somebody else does.</exception>
    public void SetMemoryOwner(IPeerMemoryOwner owner)
    {
        ArgumentNullException.ThrowIfNull(owner);
        if (MemoryOwner is not null)
        {
            throw new InvalidOperationException($"the memory of {Function} has an owner already");
        }

        MemoryOwner = owner;
    }

    /// <summary>
    /// The driver lets go: nothing is handed out any more, processes lose their mappings, resources with a handle are
    /// removed; and when the last allocation has come back the providers, the pool and the cache end. The driver has
    /// revoked what it exported itself. The second call returns the same operation.
    /// </summary>
    /// <param name="host">The host of the function.</param>
    /// <param name="policy">For the resources with a handle; null for the default one.</param>
    public PeerUnbind Unbind(HostContext host, RevokePolicy? policy = null)
    {
        ArgumentNullException.ThrowIfNull(host);
        host.AssertHeld();
        if (_unbind is null)
        {
            _unbind = new PeerUnbind(host, this);
            _unbind.Start(policy ?? new RevokePolicy { Reason = $"the driver of {Function.Name} lets go" });
        }

        return _unbind;
    }

    /// <summary>
    /// When the edge calls <see cref="HandleTimeout"/>: the first removal of a resource whose holder stops waiting, on
    /// the host's clock. Null when nothing is waited for.
    /// </summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan? next = null;
            foreach (PeerResource resource in _resources)
            {
                if (resource.Removal is { IsCompleted: false } removal && !(removal.Deadline >= next))
                {
                    next = removal.Deadline;
                }
            }

            return next;
        }
    }

    /// <summary>
    /// Tells removals that were not asked for by name (a crash, an unbind) that their time is over: the memory is in
    /// the owner's quarantine, with what is missing named, and returns when that comes.
    /// </summary>
    public void HandleTimeout(TimeSpan now)
    {
        foreach (PeerResource resource in _resources.ToArray())
        {
            resource.Removal?.HandleTimeout(now);
        }
    }

    /// <summary>
    /// The end of the cache and the providers; the pool gives nothing out any more. Its users have been revoked before,
    /// or the function was pulled out and they see aborts.
    /// </summary>
    internal void Release()
    {
        foreach (PeerResource resource in _resources.ToArray())
        {
            resource.TryRemove(new RevokePolicy { Reason = $"{Function.Name} is gone" }, out _);
        }

        Pool?.Kill(static () => { });
        if (!ForgetsAtUnbind)
        {
            _unbind = null;
            return;
        }

        _verdicts.Clear();
        _faults = null;
        Array.Clear(_providers);
        if (IsAlive)
        {
            Function.PeerDevice = null;
        }
    }

    internal void Add(PeerResource resource) => _resources.Add(resource);

    internal void Remove(PeerResource resource) => _resources.Remove(resource);

    /// <summary>Mappings of importers through any of the providers.</summary>
    internal int CountMappings()
    {
        int count = 0;
        foreach (PeerProvider? provider in _providers)
        {
            count += provider?.MappingCount ?? 0;
        }

        return count;
    }

    private PeerVerdict VerdictWithFault(PciFunction client)
    {
        PeerVerdict rules = _verdicts.TryGetValue(client.Address, out PeerVerdict? verdict)
            ? verdict
            : Recalculate(client);
        return _faults is not null && rules.IsSupported
            && _faults.TryGetValue(client.Address, out RouteFault? fault) && ReferenceEquals(fault.Client, client)
            ? new PeerVerdict(
                PeerMapType.NotSupported, rules.Distance, PeerObstacle.FailedProbe, [Function, client], fault.Reason)
            : rules;
    }
}
