using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>The fixed part of a TCP header (RFC 9293 3.1). Options are bytes that follow it.</summary>
public readonly record struct TcpHeader
{
    /// <summary>Bytes without options.</summary>
    public const int Size = 20;

    /// <summary>The largest header: data offset 15.</summary>
    public const int SizeMax = 60;

    /// <summary>Where the checksum is, for a partial checksum.</summary>
    public const int ChecksumOffset = 16;

    public ushort SourcePort { get; init; }

    public ushort DestinationPort { get; init; }

    public uint Sequence { get; init; }

    public uint Acknowledgement { get; init; }

    /// <summary>Header with its options: the data offset, in bytes. A multiple of four.</summary>
    public int HeaderBytes { get; init; }

    public TcpFlags Flags { get; init; }

    /// <summary>As on the wire, not scaled.</summary>
    public ushort Window { get; init; }

    /// <summary>As on the wire. Of a packet whose link left it partial, it is the sum of the pseudo-header.</summary>
    public ushort Checksum { get; init; }

    public ushort UrgentPointer { get; init; }

    /// <summary>Reads a header; false when the data offset is below 5, or beyond the end of the segment.</summary>
    public static bool TryParse(ReadOnlySpan<byte> segment, out TcpHeader header)
    {
        header = default;
        if (segment.Length < Size)
        {
            return false;
        }

        int headerBytes = (segment[12] >> 4) * 4;
        if (headerBytes < Size || headerBytes > segment.Length)
        {
            return false;
        }

        header = new TcpHeader
        {
            SourcePort = BinaryPrimitives.ReadUInt16BigEndian(segment),
            DestinationPort = BinaryPrimitives.ReadUInt16BigEndian(segment[2..]),
            Sequence = BinaryPrimitives.ReadUInt32BigEndian(segment[4..]),
            Acknowledgement = BinaryPrimitives.ReadUInt32BigEndian(segment[8..]),
            HeaderBytes = headerBytes,
            Flags = (TcpFlags)segment[13],
            Window = BinaryPrimitives.ReadUInt16BigEndian(segment[14..]),
            Checksum = BinaryPrimitives.ReadUInt16BigEndian(segment[ChecksumOffset..]),
            UrgentPointer = BinaryPrimitives.ReadUInt16BigEndian(segment[18..]),
        };
        return true;
    }

    /// <summary>
    /// Writes <see cref="Size"/> bytes; the options, up to <see cref="HeaderBytes"/>, are the caller's.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt16BigEndian(destination, SourcePort);
        BinaryPrimitives.WriteUInt16BigEndian(destination[2..], DestinationPort);
        BinaryPrimitives.WriteUInt32BigEndian(destination[4..], Sequence);
        BinaryPrimitives.WriteUInt32BigEndian(destination[8..], Acknowledgement);
        destination[12] = (byte)(HeaderBytes / 4 << 4);
        destination[13] = (byte)Flags;
        BinaryPrimitives.WriteUInt16BigEndian(destination[14..], Window);
        BinaryPrimitives.WriteUInt16BigEndian(destination[ChecksumOffset..], Checksum);
        BinaryPrimitives.WriteUInt16BigEndian(destination[18..], UrgentPointer);
    }
}
