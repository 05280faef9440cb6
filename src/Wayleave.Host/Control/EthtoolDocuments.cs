using System.Text.Json.Serialization;

namespace Wayleave.Host.Control;

/// <summary><c>POST /v1/ethernets/{nic}/ethtool</c>: a change in the words of ethtool.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record EthtoolRequestDocument
{
    /// <summary><c>-L</c>, <c>-G</c>, <c>-X</c>, <c>-N</c> or <c>-K</c>.</summary>
    public required string Option { get; init; }

    /// <summary>What stands behind it: <c>flow-type</c>, <c>tcp4</c>, ...</summary>
    public required IReadOnlyList<string> Words { get; init; }
}

/// <summary>What ethtool would print about a change.</summary>
public sealed record EthtoolAnswerDocument
{
    public string Schema { get; set; } = "wayleave.ethtool.v1";

    public required string Nic { get; init; }

    /// <summary>Empty for nothing.</summary>
    public required string Message { get; init; }
}

/// <summary><c>GET /v1/ethernets/{nic}</c>: how a NIC is set up, and what it has counted.</summary>
public sealed record NicStateDocument
{
    public string Schema { get; set; } = "wayleave.nic.v1";

    public required string Host { get; init; }

    public required EthernetDocument Nic { get; init; }

    public required NicChannelsDocument Channels { get; init; }

    public required NicRingDocument Ring { get; init; }

    public required IReadOnlyList<NicRssDocument> Rss { get; init; }

    public required NicRulesDocument Ntuple { get; init; }
}

/// <summary>Receive queues (<c>ethtool -l</c>).</summary>
public sealed record NicChannelsDocument
{
    public required int RxMax { get; init; }

    public required int Rx { get; init; }
}

/// <summary>Rings and header split (<c>ethtool -g</c>).</summary>
public sealed record NicRingDocument
{
    public required int RxMax { get; init; }

    public required int Rx { get; init; }

    /// <summary><c>on</c>, <c>off</c> or <c>unknown</c>.</summary>
    public required string TcpDataSplit { get; init; }

    public required int HdsThreshBytes { get; init; }

    public required int HdsThreshBytesMax { get; init; }
}

/// <summary>An RSS context (<c>ethtool -x</c>).</summary>
public sealed record NicRssDocument
{
    public required int Context { get; init; }

    /// <summary>A queue for each entry.</summary>
    public required IReadOnlyList<int> Table { get; init; }

    /// <summary>Bytes in hexadecimal with colons.</summary>
    public required string Key { get; init; }

    public required string Function { get; init; }

    /// <summary><c>none</c>, <c>symmetric_xor</c> or <c>symmetric_or_xor</c>.</summary>
    public required string Transform { get; init; }
}

/// <summary>Rules by location (<c>ethtool -n</c>).</summary>
public sealed record NicRulesDocument
{
    public required bool Enabled { get; init; }

    public required int Locations { get; init; }

    public required IReadOnlyList<NicRuleDocument> Rules { get; init; }
}

/// <summary>A rule. A mask's bits that are set are ignored, as ethtool prints them.</summary>
public sealed record NicRuleDocument
{
    public required uint Location { get; init; }

    /// <summary><c>tcp4</c>, <c>ether</c>, ...</summary>
    public required string FlowType { get; init; }

    public string? SrcIp { get; init; }

    public string? SrcIpMask { get; init; }

    public string? DstIp { get; init; }

    public string? DstIpMask { get; init; }

    public int? SrcPort { get; init; }

    public int? SrcPortMask { get; init; }

    public int? DstPort { get; init; }

    public int? DstPortMask { get; init; }

    public string? DstMac { get; init; }

    public int? Vlan { get; init; }

    /// <summary>The queue, or what is added to that of the context's table; absent for a rule that drops.</summary>
    public int? Queue { get; init; }

    public int? Context { get; init; }
}
