using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Reads a packet capture in the pcap format (<c>pcap-savefile(5)</c>) from memory: Ethernet, either byte order,
/// microseconds or nanoseconds. The records share the memory; nothing is copied.
/// </summary>
public sealed class PcapReader
{
    internal const uint MagicMicroseconds = 0xA1B2_C3D4;
    internal const uint MagicNanoseconds = 0xA1B2_3C4D;
    internal const uint MagicNextGeneration = 0x0A0D_0D0A;
    internal const int HeaderBytes = 24;
    internal const int RecordHeaderBytes = 16;
    internal const uint LinkTypeEthernet = 1;

    /// <summary>The longest record that capture programs write (<c>MAXIMUM_SNAPLEN</c> of libpcap).</summary>
    internal const int RecordBytesMax = 262_144;

    private readonly ReadOnlyMemory<byte> _capture;
    private readonly bool _isBigEndian;
    private readonly long _nanosecondsPerFraction;

    private PcapReader(ReadOnlyMemory<byte> capture, bool isBigEndian, bool isNanoseconds)
    {
        _capture = capture;
        _isBigEndian = isBigEndian;
        _nanosecondsPerFraction = isNanoseconds ? 1 : 1000;
        OffsetBytes = HeaderBytes;
    }

    /// <summary>Records read so far.</summary>
    public int RecordCount { get; private set; }

    /// <summary>Where the next record starts.</summary>
    public int OffsetBytes { get; private set; }

    /// <summary>
    /// Looks at the capture header. The reader is null unless the answer is <see cref="PcapStatus.Success"/>.
    /// </summary>
    public static PcapStatus TryOpen(ReadOnlyMemory<byte> capture, out PcapReader? reader)
    {
        reader = null;
        ReadOnlySpan<byte> header = capture.Span;
        if (header.Length < HeaderBytes)
        {
            return PcapStatus.TruncatedHeader;
        }

        uint magic = BinaryPrimitives.ReadUInt32LittleEndian(header);
        bool isBigEndian = magic is not (MagicMicroseconds or MagicNanoseconds);
        magic = isBigEndian ? BinaryPrimitives.ReverseEndianness(magic) : magic;
        if (magic is not (MagicMicroseconds or MagicNanoseconds))
        {
            return magic == MagicNextGeneration ? PcapStatus.NextGeneration : PcapStatus.NotACapture;
        }

        reader = new PcapReader(capture, isBigEndian, isNanoseconds: magic == MagicNanoseconds);
        PcapStatus status = reader.CheckHeader(header);
        reader = status == PcapStatus.Success ? reader : null;
        return status;
    }

    /// <summary>
    /// Reads the next record. <see cref="PcapStatus.End"/> after the last; <see cref="PcapStatus.TruncatedRecord"/> and
    /// <see cref="PcapStatus.OversizedRecord"/> end the capture too, and stay the answer.
    /// </summary>
    public PcapStatus TryRead(out PcapRecord record)
    {
        record = default;
        ReadOnlySpan<byte> rest = _capture.Span[OffsetBytes..];
        if (rest.IsEmpty)
        {
            return PcapStatus.End;
        }

        if (rest.Length < RecordHeaderBytes)
        {
            return PcapStatus.TruncatedRecord;
        }

        uint capturedBytes = ReadUInt32(rest[8..]);
        if (capturedBytes > RecordBytesMax)
        {
            return PcapStatus.OversizedRecord;
        }

        if (capturedBytes > rest.Length - RecordHeaderBytes)
        {
            return PcapStatus.TruncatedRecord;
        }

        record = new PcapRecord(
            ReadUInt32(rest) * 1_000_000_000L + ReadUInt32(rest[4..]) * _nanosecondsPerFraction,
            _capture.Slice(OffsetBytes + RecordHeaderBytes, (int)capturedBytes),
            ReadUInt32(rest[12..]));
        OffsetBytes += RecordHeaderBytes + (int)capturedBytes;
        RecordCount++;
        return PcapStatus.Success;
    }

    /// <summary>
    /// What a status of <see cref="TryOpen"/> or <see cref="TryRead"/> means to a user, as half a sentence.
    /// </summary>
    public static string Describe(PcapStatus status) => status switch
    {
        PcapStatus.Success => "read",
        PcapStatus.End => "no more packets",
        PcapStatus.TruncatedHeader => "too short for a packet capture: it has fewer than 24 bytes",
        PcapStatus.NotACapture => "not a packet capture: its first bytes are not those of the pcap format",
        PcapStatus.NextGeneration => "a pcapng capture; convert it with \"editcap -F pcap\"",
        PcapStatus.UnknownVersion => "a packet capture of an unknown version; 2.4 is known",
        PcapStatus.WrongLinkType => "a packet capture of another link type; Ethernet is known",
        PcapStatus.TruncatedRecord => "cut off inside a packet, or damaged before that",
        PcapStatus.OversizedRecord => "damaged: a packet announces more than 262144 bytes",
        _ => throw new ArgumentOutOfRangeException(nameof(status), status, null),
    };

    private PcapStatus CheckHeader(ReadOnlySpan<byte> header)
    {
        if (ReadUInt16(header[4..]) != 2 || ReadUInt16(header[6..]) != 4)
        {
            return PcapStatus.UnknownVersion;
        }

        // The upper bits tell the length of a frame check sequence, which lies behind the IP packet and so does no
        // harm.
        return (ReadUInt32(header[20..]) & 0xFFFF) == LinkTypeEthernet ? PcapStatus.Success : PcapStatus.WrongLinkType;
    }

    private ushort ReadUInt16(ReadOnlySpan<byte> bytes) =>
        _isBigEndian ? BinaryPrimitives.ReadUInt16BigEndian(bytes) : BinaryPrimitives.ReadUInt16LittleEndian(bytes);

    private uint ReadUInt32(ReadOnlySpan<byte> bytes) =>
        _isBigEndian ? BinaryPrimitives.ReadUInt32BigEndian(bytes) : BinaryPrimitives.ReadUInt32LittleEndian(bytes);
}
