using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// What makes a function's memory available to peers (<c>struct pci_p2pdma</c>): its providers, and the map types that
/// were calculated for its clients. Made once per function and gone when its driver lets go. Host lock.
/// </summary>
public sealed class PeerDevice
{
    private readonly PciTopology _topology;
    private readonly PeerProvider?[] _providers = new PeerProvider?[PciFunction.BarCountMax];
    private readonly Dictionary<PciAddress, PeerVerdict> _verdicts = [];
    private Dictionary<PciAddress, RouteFault>? _faults; // null on nearly every device: the look-up stays one

    private PeerDevice(PciTopology topology, PciFunction function) => (_topology, Function) = (topology, function);

    public PciFunction Function { get; }

    /// <summary>Whether the function is still there; afterwards every client is refused.</summary>
    public bool IsAlive => ReferenceEquals(Function.PeerDevice, this);

    /// <summary>
    /// Makes a function's memory BARs available (<c>pcim_p2pdma_init</c>). The second call returns what the first one
    /// made.
    /// </summary>
    public static PeerDevice Initialize(PciTopology topology, PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(function);
        return function.PeerDevice ??= new PeerDevice(topology, function);
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

    /// <summary>
    /// The driver of the function lets go: the cache and the providers end. Its users have been revoked before.
    /// </summary>
    internal void Release()
    {
        _verdicts.Clear();
        _faults = null;
        Array.Clear(_providers);
        if (IsAlive)
        {
            Function.PeerDevice = null;
        }
    }
}
