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

    /// <summary>
    /// What the rules say about a client, calculated once per client address: a change of ACS afterwards is not noticed
    /// until this device is gone.
    /// </summary>
    public PeerVerdict VerdictFor(PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(client);
        if (!IsAlive)
        {
            string refusal = $"{Function} offers no memory to peers";
            return new PeerVerdict(PeerMapType.NotSupported, -1, PeerObstacle.NoProvider, [Function], refusal);
        }

        return _verdicts.TryGetValue(client.Address, out PeerVerdict? verdict) ? verdict : Recalculate(client);
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

    /// <summary>
    /// The driver of the function lets go: the cache and the providers end. Its users have been revoked before.
    /// </summary>
    internal void Release()
    {
        _verdicts.Clear();
        Array.Clear(_providers);
        if (IsAlive)
        {
            Function.PeerDevice = null;
        }
    }
}
