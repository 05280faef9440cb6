using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>What a segment may carry (RFC 9293 3.7.1, RFC 6691).</summary>
internal static class SegmentSizes
{
    // A smaller offer would make the peer's headers most of our traffic (Linux: TCP_MIN_MSS and its options).
    private const int PeerMin = 88;
    private const int DefaultIPv4 = 536;
    private const int DefaultIPv6 = 1220;

    /// <summary>Our MSS option: options are not taken off (RFC 6691).</summary>
    public static int Ours(in TcpFlow flow, int mtuBytes) => Math.Min(mtuBytes - flow.HeaderBytes, ushort.MaxValue);

    /// <summary>The peer's: a default when it said nothing or zero, a floor when it said too little.</summary>
    public static int OfPeer(in TcpFlow flow, int offered) =>
        offered == 0 ? flow.Remote.IsIPv4 ? DefaultIPv4 : DefaultIPv6 : Math.Max(offered, PeerMin);

    /// <summary>Payload of a full segment, the timestamps of every segment taken off.</summary>
    public static int Payload(in TcpFlow flow, int mtuBytes, int peerBytes, bool hasTimestamps) =>
        Math.Min(mtuBytes - flow.HeaderBytes, peerBytes) - (hasTimestamps ? SegmentOptions.TimestampBytes : 0);

    /// <summary>Nothing from outside lowers a path below this (RFC 1191 with Linux's floor, RFC 8200 5).</summary>
    public static int PathMtuMin(in TcpFlow flow) => flow.Remote.IsIPv4 ? 552 : 1280;
}
