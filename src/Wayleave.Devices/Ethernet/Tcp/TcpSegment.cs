using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// A segment that arrived, or several that a link merged into one (a super-packet). Lengths and checksum were verified.
/// </summary>
public readonly ref struct TcpSegment
{
    public required uint Sequence { get; init; }

    /// <summary>Means something with <see cref="TcpFlags.Ack"/>.</summary>
    public uint Acknowledgement { get; init; }

    public TcpFlags Flags { get; init; }

    /// <summary>As on the wire, not scaled.</summary>
    public ushort Window { get; init; }

    public SegmentOptions Options { get; init; }

    /// <summary>
    /// In order; the lengths add up to <see cref="PayloadBytes"/>. The caller keeps its references: what the endpoint
    /// keeps it retains.
    /// </summary>
    public ReadOnlySpan<PayloadFragment> Payload { get; init; }

    public int PayloadBytes { get; init; }

    /// <summary>
    /// Payload of each segment but the last of a super-packet (<c>gso_size</c>); 0 for a single segment.
    /// </summary>
    public int SegmentBytes { get; init; }

    /// <summary>The receive queue it came by: whose room the window is promised from.</summary>
    public int Queue { get; init; }

    public bool HasSyn => (Flags & TcpFlags.Syn) != 0;
    public bool HasFin => (Flags & TcpFlags.Fin) != 0;
    public bool HasRst => (Flags & TcpFlags.Rst) != 0;
    public bool HasAck => (Flags & TcpFlags.Ack) != 0;

    /// <summary>SEG.LEN: what it takes of the sequence space.</summary>
    public int LengthInSequence => PayloadBytes + (HasSyn ? 1 : 0) + (HasFin ? 1 : 0);
}
