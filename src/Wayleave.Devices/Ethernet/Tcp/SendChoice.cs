namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>Why something leaves.</summary>
internal enum SendKind
{
    None,

    /// <summary>Never sent before; a FIN may be part of it.</summary>
    New,

    /// <summary>Given up, sent again.</summary>
    Lost,

    /// <summary>The end of what is outstanding, to hear whether it arrived (RFC 8985 7).</summary>
    LossProbe,

    /// <summary>An old sequence number without data, to hear the window (Linux: <c>tcp_xmit_probe_skb</c>).</summary>
    WindowProbe,
}

/// <summary>A run of the stream that leaves as one segment or one super-packet.</summary>
/// <param name="Kind">Why.</param>
/// <param name="Position">Its first byte.</param>
/// <param name="Length">Bytes, the FIN not counted.</param>
/// <param name="SegmentBytes">Payload of a full segment at this moment.</param>
internal readonly record struct SendChoice(SendKind Kind, long Position, int Length, int SegmentBytes);
