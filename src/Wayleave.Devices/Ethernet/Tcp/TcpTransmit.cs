using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// A segment that leaves, or a super-packet that the link or the peer's kernel cuts: headers as values, payload by
/// position.
/// </summary>
public struct TcpTransmit
{
    public TcpFlow Flow { get; internal set; }

    public uint Sequence { get; internal set; }

    public uint Acknowledgement { get; internal set; }

    public TcpFlags Flags { get; internal set; }

    /// <summary>As the field holds it.</summary>
    public ushort Window { get; internal set; }

    public SegmentOptions Options { get; internal set; }

    /// <summary>Payload of all segments together; 0 for none.</summary>
    public int PayloadBytes { get; internal set; }

    /// <summary>
    /// Payload of each segment but the last (<c>gso_size</c>); 0 when this is a single segment.
    /// </summary>
    public int SegmentBytes { get; internal set; }

    internal TcpConnection? Connection { get; set; }

    internal long Position { get; set; }

    /// <summary>
    /// The payload from an offset on, as far as one piece of it reaches. Asked for before the endpoint is told anything
    /// else.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The payload ends before.</exception>
    public readonly SendSlice GetPayload(int offset)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(offset, PayloadBytes);
        return Connection!.GetPayload(Position + offset, PayloadBytes - offset);
    }
}
