using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>A RoCEv2 packet of a <see cref="Capture"/>, sound or damaged.</summary>
public sealed class CapturedPacket
{
    internal CapturedPacket(int index, int frameNumber, in PcapRecord record)
    {
        Index = index;
        FrameNumber = frameNumber;
        TimestampNanoseconds = record.TimestampNanoseconds;
        WireBytes = record.OriginalBytes;
    }

    /// <summary>Place among the RoCEv2 packets of the capture, from 0.</summary>
    public int Index { get; }

    /// <summary>Place among all frames of the capture, from 1: the number that Wireshark shows.</summary>
    public int FrameNumber { get; }

    /// <summary>Since the Unix epoch.</summary>
    public long TimestampNanoseconds { get; }

    /// <summary>Length of the frame on the wire, in bytes.</summary>
    public uint WireBytes { get; }

    /// <summary>
    /// Ethernet, IP and UDP headers; not to be relied on when <see cref="FrameProblem"/> is not None.
    /// </summary>
    public FrameHeader Header { get; internal init; }

    /// <summary>BTH to ICRC, as far as the capture kept it. Shares the memory of the capture file.</summary>
    public ReadOnlyMemory<byte> Bytes { get; internal init; }

    public IcrcVerdict Verdict { get; internal init; }

    /// <summary>
    /// Why the headers around the packet are not those of a RoCEv2 packet, although it goes to the RoCEv2 port.
    /// </summary>
    public FrameError FrameProblem { get; internal init; }

    /// <summary>
    /// Why a receiver drops the packet before it looks at a queue pair; None for a packet whose headers are whole.
    /// </summary>
    public DropReason PacketProblem { get; internal init; }

    /// <summary>The bytes that the headers announce: what is beyond the captured ones reads as zero.</summary>
    internal ReadOnlyMemory<byte> AnnouncedBytes { get; init; }

    /// <summary>
    /// The packet's headers; false when it is malformed, or when the capture does not hold all of them. With the
    /// verdict <see cref="IcrcVerdict.Truncated"/> neither payload nor ICRC mean anything.
    /// </summary>
    public bool TryView(out PacketView packet) =>
        PacketView.TryParse(AnnouncedBytes.Span, out packet) == DropReason.None
            && Bytes.Length >= packet.Traits.HeaderBytes;
}
