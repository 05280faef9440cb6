using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// The RoCEv2 packets of a packet capture, each with the verdict on its ICRC. Other frames are counted.
/// </summary>
public sealed class Capture
{
    private const int EthernetBytes = 14;
    private const int UdpBytes = 8;

    private static readonly ushort[] s_rocePorts = [FrameHeader.RocePort];

    private readonly List<CapturedPacket> _packets = [];
    private readonly Dictionary<ushort, int> _skippedPorts = [];

    private Capture()
    {
    }

    public IReadOnlyList<CapturedPacket> Packets => _packets;

    /// <summary>Frames that are no RoCEv2 packets: other protocols and other ports.</summary>
    public int SkippedFrames { get; private set; }

    /// <summary>
    /// <see cref="PcapStatus.End"/> when the file was read to its end. Otherwise it is damaged behind the packets
    /// given, as <see cref="PcapReader.Describe"/> says.
    /// </summary>
    public PcapStatus Status { get; private set; }

    /// <summary>
    /// Reads a capture file. The answer is <see cref="PcapStatus.Success"/> with a capture, even when the file breaks
    /// off later, which is then its <see cref="Status"/>; or the reason why the file is no capture at all, with null.
    /// </summary>
    /// <param name="file">The bytes of the file; the packets refer to them.</param>
    /// <param name="capture">What was found.</param>
    /// <param name="udpPorts">The destination ports that mark a RoCEv2 packet; null is 4791 alone.</param>
    public static PcapStatus TryRead(
        ReadOnlyMemory<byte> file, out Capture? capture, IReadOnlyCollection<ushort>? udpPorts = null)
    {
        capture = null;
        PcapStatus status = PcapReader.TryOpen(file, out PcapReader? reader);
        if (status != PcapStatus.Success || reader is null)
        {
            return status;
        }

        udpPorts ??= s_rocePorts;
        capture = new Capture();
        while ((status = reader.TryRead(out PcapRecord record)) == PcapStatus.Success)
        {
            capture.Add(reader.RecordCount, record, udpPorts);
        }

        capture.Status = status;
        return PcapStatus.Success;
    }

    /// <summary>
    /// Destination ports of the UDP datagrams among the skipped frames, the most frequent first: where RoCEv2 may be if
    /// it is not where it was looked for.
    /// </summary>
    public IEnumerable<ushort> SkippedUdpPorts =>
        _skippedPorts.OrderByDescending(p => p.Value).ThenBy(p => p.Key).Select(p => p.Key);

    /// <summary>How many packets have that verdict.</summary>
    public int Count(IcrcVerdict verdict) => _packets.Count(p => p.Verdict == verdict);

    private void Add(int frameNumber, in PcapRecord record, IReadOnlyCollection<ushort> udpPorts)
    {
        if (ReadPacket(_packets.Count, frameNumber, record, udpPorts) is { } packet)
        {
            _packets.Add(packet);
            return;
        }

        SkippedFrames++;
        if (FrameView.TryParse(record.Frame.Span, out FrameView frame) == FrameError.None)
        {
            _skippedPorts[frame.DestinationPort] = _skippedPorts.GetValueOrDefault(frame.DestinationPort) + 1;
        }
    }

    private static CapturedPacket? ReadPacket(
        int index, int frameNumber, in PcapRecord record, IReadOnlyCollection<ushort> udpPorts)
    {
        ReadOnlyMemory<byte> bytes = record.Frame;
        FrameError error = FrameView.TryParse(bytes.Span, out FrameView frame);
        bool isCut = error == FrameError.Truncated;
        if (isCut)
        {
            // Headers that are there can be read once the announced length is: what follows them is not looked at.
            bytes = Lengthened(bytes);
            error = FrameView.TryParse(bytes.Span, out frame);
        }

        if (error != FrameError.None)
        {
            return GoesTo(udpPorts, record.Frame.Span)
                ? new CapturedPacket(index, frameNumber, record) { FrameProblem = error, Verdict = IcrcVerdict.Bad }
                : null;
        }

        if (!udpPorts.Contains(frame.DestinationPort))
        {
            return null;
        }

        int start = EthernetBytes + frame.Network.Length - frame.UdpPayload.Length;
        int kept = Math.Clamp(record.Frame.Length - start, 0, frame.UdpPayload.Length);
        DropReason problem = PacketView.TryParse(frame.UdpPayload, out _);
        return new CapturedPacket(index, frameNumber, record)
        {
            Header = frame.Header,
            Bytes = bytes.Slice(start, kept),
            AnnouncedBytes = bytes.Slice(start, frame.UdpPayload.Length),
            PacketProblem = isCut ? DropReason.None : problem,
            Verdict = isCut ? IcrcVerdict.Truncated : Icrc.Verify(frame) ? IcrcVerdict.Ok : IcrcVerdict.Bad,
        };
    }

    // Up to the length that the IP header announces; unchanged when there is no IP header to ask.
    private static ReadOnlyMemory<byte> Lengthened(ReadOnlyMemory<byte> frame)
    {
        ReadOnlySpan<byte> bytes = frame.Span;
        if (bytes.Length < EthernetBytes + UdpBytes)
        {
            return frame;
        }

        ReadOnlySpan<byte> ip = bytes[EthernetBytes..];
        int announced = (ip[0] >> 4) switch
        {
            4 => BinaryPrimitives.ReadUInt16BigEndian(ip[2..]),
            6 => 40 + BinaryPrimitives.ReadUInt16BigEndian(ip[4..]),
            _ => 0,
        };
        if (EthernetBytes + announced <= bytes.Length)
        {
            return frame;
        }

        byte[] lengthened = new byte[EthernetBytes + announced];
        bytes.CopyTo(lengthened);
        return lengthened;
    }

    // Whether a frame that is not well formed is a RoCEv2 packet all the same: damage must not hide as another
    // protocol.
    private static bool GoesTo(IReadOnlyCollection<ushort> udpPorts, ReadOnlySpan<byte> frame)
    {
        if (frame.Length < EthernetBytes + 20)
        {
            return false;
        }

        ReadOnlySpan<byte> ip = frame[EthernetBytes..];
        (bool isUdp, int headerBytes) = BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) switch
        {
            0x0800 => (ip[9] == 17 && (BinaryPrimitives.ReadUInt16BigEndian(ip[6..]) & 0x1FFF) == 0, (ip[0] & 0xF) * 4),
            0x86DD => (ip[6] == 17, 40),
            _ => (false, 0),
        };
        return isUdp && ip.Length >= headerBytes + UdpBytes
            && udpPorts.Contains(BinaryPrimitives.ReadUInt16BigEndian(ip[(headerBytes + 2)..]));
    }
}
