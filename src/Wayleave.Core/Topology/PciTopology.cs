namespace Wayleave.Core.Topology;

/// <summary>
/// The PCI trees of one host: host bridges, bridges, functions. Control state: every member that changes it is called
/// with the host lock held. Addresses of memory are <see cref="PciFabric"/>'s business.
/// </summary>
/// <param name="processor">The processor, as far as the rules ask about it.</param>
public sealed class PciTopology(BootProcessor? processor = null)
{
    internal static readonly Comparer<PciFunction> ByAddress =
        Comparer<PciFunction>.Create((a, b) => a.Address.CompareTo(b.Address));

    private readonly List<HostBridge> _hostBridges = [];
    private readonly Dictionary<PciAddress, PciFunction> _byAddress = [];
    private readonly Dictionary<string, PciFunction> _byName = new(StringComparer.Ordinal);

    public BootProcessor Processor { get; } = processor ?? BootProcessor.Unknown;

    public IReadOnlyList<HostBridge> HostBridges => _hostBridges;

    /// <summary>All functions, bridges among them, in no order.</summary>
    public IReadOnlyCollection<PciFunction> Functions => _byAddress.Values;

    /// <exception cref="ArgumentException">There is a host bridge with that domain and root bus.</exception>
    public void Add(HostBridge bridge)
    {
        ArgumentNullException.ThrowIfNull(bridge);
        if (_hostBridges.Exists(b => b.Domain == bridge.Domain && b.RootBus == bridge.RootBus))
        {
            throw new ArgumentException($"there is a host bridge {bridge} already");
        }

        _hostBridges.Add(bridge);
    }

    /// <summary>Puts a function on a root bus.</summary>
    /// <exception cref="ArgumentException">
    /// Its address or name is taken, it is in a tree, or it is a kind of bridge that does not belong there.
    /// </exception>
    public void Add(PciFunction function, HostBridge parent)
    {
        ArgumentNullException.ThrowIfNull(parent);
        Check(function);
        if (!_hostBridges.Contains(parent))
        {
            throw new ArgumentException($"{parent} is not of this topology");
        }

        if (function is PciBridge { Kind: PciBridgeKind.SwitchDownstream })
        {
            throw new ArgumentException($"{function} is a downstream port without an upstream port above it");
        }

        Enter(function, parent);
        parent.Add(function);
    }

    /// <summary>Puts a function below a bridge.</summary>
    /// <exception cref="ArgumentException">
    /// Its address or name is taken, it is in a tree, or it is a kind of bridge that does not belong there.
    /// </exception>
    public void Add(PciFunction function, PciBridge parent)
    {
        ArgumentNullException.ThrowIfNull(parent);
        Check(function);
        if (parent.Root is null || !_hostBridges.Contains(parent.Root))
        {
            throw new ArgumentException($"{parent} is not of this topology");
        }

        bool isDownstream = function is PciBridge { Kind: PciBridgeKind.SwitchDownstream };
        if (isDownstream != (parent.Kind == PciBridgeKind.SwitchUpstream))
        {
            throw new ArgumentException(isDownstream
                ? $"{function} is a downstream port without an upstream port above it"
                : $"{function} cannot be below {parent}: only downstream ports are on the bus inside a switch");
        }

        if (function is PciBridge { Kind: PciBridgeKind.RootPort })
        {
            throw new ArgumentException($"{function} is a root port; it belongs on a root bus");
        }

        Enter(function, parent.Root);
        function.Upstream = parent;
        parent.Add(function);
    }

    /// <summary>
    /// Takes a function out, with everything below it: hot unplug. Paths are gone at once; memory that others still use
    /// is
    /// <see cref="PciFabric"/>'s to refuse.
    /// </summary>
    /// <exception cref="ArgumentException">It is not of this topology.</exception>
    public void Remove(PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (_byAddress.GetValueOrDefault(function.Address) != function)
        {
            throw new ArgumentException($"{function} is not of this topology");
        }

        if (function is PciBridge bridge)
        {
            foreach (PciFunction below in bridge.Below.ToArray())
            {
                Remove(below);
            }
        }

        function.Upstream?.Remove(function);
        if (function.Upstream is null)
        {
            function.Root!.Remove(function);
        }

        _byAddress.Remove(function.Address);
        _byName.Remove(function.Name);
        (function.Upstream, function.Root) = (null, null);
    }

    /// <summary>
    /// Writes the ACS control register, or takes the capability away. Map types that were calculated before stay as
    /// they are until the provider is gone, as in the kernel.
    /// </summary>
    public static void SetAcs(PciFunction function, AcsControl? control)
    {
        ArgumentNullException.ThrowIfNull(function);
        function.Acs = control;
    }

    /// <summary>By name (<c>gpu0</c>) or address (<c>0000:03:00.0</c>); null for neither.</summary>
    public PciFunction? Find(string nameOrAddress) =>
        _byName.GetValueOrDefault(nameOrAddress)
        ?? (PciAddress.TryParse(nameOrAddress, out PciAddress address) ? _byAddress.GetValueOrDefault(address) : null);

    /// <summary>Whether the function is in one of these trees now.</summary>
    public bool Contains(PciFunction function) => _byAddress.GetValueOrDefault(function.Address) == function;

    private void Check(PciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (function.Root is not null)
        {
            throw new ArgumentException($"{function} is in a tree already");
        }

        if (_byAddress.TryGetValue(function.Address, out PciFunction? other))
        {
            throw new ArgumentException($"{function.Name} and {other.Name} have one address, {function.Address}");
        }

        if (_byName.TryGetValue(function.Name, out other))
        {
            throw new ArgumentException($"{function.Address} and {other.Address} have one name, {function.Name}");
        }
    }

    private void Enter(PciFunction function, HostBridge root)
    {
        function.Root = root;
        _byAddress.Add(function.Address, function);
        _byName.Add(function.Name, function);
    }
}
