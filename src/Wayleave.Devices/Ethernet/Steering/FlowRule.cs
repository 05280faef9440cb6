using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>Which packets a rule is about (<c>ETHER_FLOW</c>, <c>TCP_V4_FLOW</c>, ...).</summary>
public enum FlowType
{
    Ether,
    IPv4,
    IPv6,
    TcpIPv4,
    TcpIPv6,
    UdpIPv4,
    UdpIPv6,
}

/// <summary>
/// An n-tuple rule (<c>struct ethtool_rx_flow_spec</c>, <c>ethtool --config-ntuple</c>). A field whose mask is zero
/// matches everything; of an address or port, a bit of the mask that is set is compared.
/// </summary>
public sealed record FlowRule
{
    /// <summary>A ring cookie that drops what matches (<c>RX_CLS_FLOW_DISC</c>).</summary>
    public const ulong Drop = ulong.MaxValue;

    /// <summary>A ring cookie that wakes the machine (<c>RX_CLS_FLOW_WAKE</c>), which nothing here does.</summary>
    public const ulong Wake = ulong.MaxValue - 1;

    /// <summary>Any free location (<c>RX_CLS_LOC_ANY</c>): the lowest.</summary>
    public const uint AnyLocation = uint.MaxValue;

    /// <summary>The lowest free location (<c>RX_CLS_LOC_FIRST</c>): before rules that come later.</summary>
    public const uint FirstLocation = uint.MaxValue - 1;

    /// <summary>The highest free location (<c>RX_CLS_LOC_LAST</c>).</summary>
    public const uint LastLocation = uint.MaxValue - 2;

    public FlowType Type { get; init; }

    public IpAddress Source { get; init; }

    public IpAddress SourceMask { get; init; }

    public IpAddress Destination { get; init; }

    public IpAddress DestinationMask { get; init; }

    public ushort SourcePort { get; init; }

    public ushort SourcePortMask { get; init; }

    public ushort DestinationPort { get; init; }

    public ushort DestinationPortMask { get; init; }

    /// <summary>Null matches every destination.</summary>
    public MacAddress? DestinationMac { get; init; }

    /// <summary>Null matches tagged and untagged frames alike.</summary>
    public ushort? Vlan { get; init; }

    /// <summary>
    /// The queue in the low 32 bits, the virtual function plus one in the next 8; or <see cref="Drop"/>. With an RSS
    /// context, what is added to the queue of its table.
    /// </summary>
    public ulong RingCookie { get; init; }

    /// <summary>The context that spreads what matches; 0 sends all to one queue.</summary>
    public int RssContext { get; init; }

    /// <summary>
    /// Where the rule stands: of several that match, the lowest decides. Or one of the special locations.
    /// </summary>
    public uint Location { get; init; } = AnyLocation;

    /// <summary>Every bit of an address: for <see cref="SourceMask"/> and <see cref="DestinationMask"/>.</summary>
    public static IpAddress Exactly => new(ulong.MaxValue, ulong.MaxValue);

    /// <summary>A rule for one connection, whose peer is <paramref name="source"/>.</summary>
    public static FlowRule ForConnection(
        IpAddress source, ushort sourcePort, IpAddress destination, ushort destinationPort, int queue) => new()
        {
            Type = source.IsIPv4 ? FlowType.TcpIPv4 : FlowType.TcpIPv6,
            Source = source,
            SourceMask = Exactly,
            SourcePort = sourcePort,
            SourcePortMask = ushort.MaxValue,
            Destination = destination,
            DestinationMask = Exactly,
            DestinationPort = destinationPort,
            DestinationPortMask = ushort.MaxValue,
            RingCookie = (ulong)queue,
        };

    /// <summary>A rule for all connections to one port of ours.</summary>
    public static FlowRule ForPort(FlowType type, ushort destinationPort, int queue) => new()
    {
        Type = type,
        DestinationPort = destinationPort,
        DestinationPortMask = ushort.MaxValue,
        RingCookie = (ulong)queue,
    };

    /// <summary>Whether a frame is what the rule is about.</summary>
    public bool Matches(in FrameLayout layout) =>
        IsOfType(layout)
        && layout.Source.Matches(Source, SourceMask)
        && layout.Destination.Matches(Destination, DestinationMask)
        && ((layout.SourcePort ^ SourcePort) & SourcePortMask) == 0
        && ((layout.DestinationPort ^ DestinationPort) & DestinationPortMask) == 0
        && (DestinationMac is not { } mac || mac == layout.DestinationMac)
        && (Vlan is not { } vlan || vlan == layout.Vlan);

    /// <summary>
    /// Whether it names both ends of one flow and nothing else: found without looking at other rules.
    /// </summary>
    internal bool IsExact => Type >= FlowType.TcpIPv4
        && IsFull(SourceMask)
        && IsFull(DestinationMask)
        && SourcePortMask == ushort.MaxValue
        && DestinationPortMask == ushort.MaxValue
        && DestinationMac is null
        && Vlan is null;

    internal FlowKey Key => new(Source, Destination, SourcePort, DestinationPort, IsTcp);

    internal bool IsIPv4 => Type is FlowType.IPv4 or FlowType.TcpIPv4 or FlowType.UdpIPv4;

    private bool IsTcp => Type is FlowType.TcpIPv4 or FlowType.TcpIPv6;

    private bool IsFull(IpAddress mask) => IsIPv4 ? (uint)mask.Low == uint.MaxValue : mask == Exactly;

    private bool IsOfType(in FrameLayout layout) => Type switch
    {
        FlowType.Ether => true,
        FlowType.IPv4 => layout.EtherType == EtherType.IPv4,
        FlowType.IPv6 => layout.EtherType == EtherType.IPv6,
        _ => layout.HasPorts
            && layout.Source.IsIPv4 == IsIPv4
            && (layout.Protocol == IpProtocol.Tcp) == IsTcp,
    };
}

/// <summary>Both ends of a flow.</summary>
internal readonly record struct FlowKey(
    IpAddress Source, IpAddress Destination, ushort SourcePort, ushort DestinationPort, bool IsTcp)
{
    public static FlowKey Of(in FrameLayout layout) => new(
        layout.Source,
        layout.Destination,
        layout.SourcePort,
        layout.DestinationPort,
        layout.Protocol == IpProtocol.Tcp);
}
