namespace Wayleave.Core.Topology;

/// <summary>
/// The switch below which a fabric plugs functions that have no place of their own. Its root port is at 1f.7 and its
/// buses are fe and ff, out of the way of what users describe; its names are the first that are free.
/// </summary>
internal sealed class SpareSwitch
{
    private readonly PciTopology _topology;
    private readonly PciBridge _upstream;

    /// <exception cref="ArgumentException">The tree uses those addresses itself.</exception>
    public SpareSwitch(PciTopology topology)
    {
        _topology = topology;
        HostBridge? bridge = topology.HostBridges.Count > 0 ? topology.HostBridges[0] : null;
        if (bridge is null)
        {
            bridge = new HostBridge(0, 0);
            topology.Add(bridge);
        }

        PciAddress root = new(bridge.Domain, bridge.RootBus, 31, 7);
        PciAddress inner = new(bridge.Domain, 0xfe, 0, 0);
        PciBridge port = new(root, FreeName("rp"), PciBridgeKind.RootPort);
        _upstream = new PciBridge(inner, FreeName("sw"), PciBridgeKind.SwitchUpstream);
        topology.Add(port, bridge);
        topology.Add(_upstream, port);
    }

    /// <summary>A downstream port with nothing below it yet.</summary>
    /// <exception cref="InvalidOperationException">All 256 are in use.</exception>
    public PciBridge AddPort()
    {
        int number = _upstream.Below.Count;
        if (number == PciAddress.DevicesPerBus * PciAddress.FunctionsPerDevice)
        {
            throw new InvalidOperationException("the switch for functions without a place is full: 256 ports");
        }

        (byte device, byte function) = ((byte)(number / 8), (byte)(number % 8));
        PciAddress address = new(_upstream.Address.Domain, 0xff, device, function);
        PciBridge port = new(address, $"{_upstream.Name}.{number}", PciBridgeKind.SwitchDownstream);
        _topology.Add(port, _upstream);
        return port;
    }

    private string FreeName(string prefix)
    {
        int number = 0;
        while (_topology.Find($"{prefix}{number}") is not null)
        {
            number++;
        }

        return $"{prefix}{number}";
    }
}
