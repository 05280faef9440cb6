using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>The fixed part of an IPv4 header (RFC 791); DF is always set when it is written.</summary>
public readonly record struct Ipv4Header
{
    /// <summary>Bytes without options.</summary>
    public const int Size = 20;

    private const ushort DontFragment = 0x4000;
    private const ushort FragmentBits = 0x3FFF; // MF and the offset

    /// <summary>Header with its options.</summary>
    public int HeaderBytes { get; init; }

    /// <summary>Header and payload; a super-packet's is the sum of its segments in one.</summary>
    public int TotalBytes { get; init; }

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass { get; init; }

    public ushort Identification { get; init; }

    /// <summary>A piece of a packet: MF is set or the offset is not zero.</summary>
    public bool IsFragment { get; init; }

    public byte TimeToLive { get; init; }

    public IpProtocol Protocol { get; init; }

    public IpAddress Source { get; init; }

    public IpAddress Destination { get; init; }

    /// <summary>
    /// Reads a header; false when version, header length or total length cannot be, or do not fit the bytes. The
    /// checksum is not looked at.
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> packet, out Ipv4Header header)
    {
        header = default;
        if (packet.Length < Size || packet[0] >> 4 != 4)
        {
            return false;
        }

        int headerBytes = (packet[0] & 0xF) * 4;
        int totalBytes = BinaryPrimitives.ReadUInt16BigEndian(packet[2..]);
        if (headerBytes < Size || totalBytes < headerBytes || totalBytes > packet.Length)
        {
            return false;
        }

        header = new Ipv4Header
        {
            HeaderBytes = headerBytes,
            TotalBytes = totalBytes,
            TrafficClass = packet[1],
            Identification = BinaryPrimitives.ReadUInt16BigEndian(packet[4..]),
            IsFragment = (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & FragmentBits) != 0,
            TimeToLive = packet[8],
            Protocol = (IpProtocol)packet[9],
            Source = IpAddress.ReadIPv4(packet[12..]),
            Destination = IpAddress.ReadIPv4(packet[16..]),
        };
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes, checksum included. <see cref="HeaderBytes"/> is not used.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination = destination[..Size];
        destination[0] = 0x45;
        destination[1] = TrafficClass;
        BinaryPrimitives.WriteUInt16BigEndian(destination[2..], (ushort)TotalBytes);
        BinaryPrimitives.WriteUInt16BigEndian(destination[4..], Identification);
        BinaryPrimitives.WriteUInt16BigEndian(destination[6..], DontFragment);
        destination[8] = TimeToLive;
        destination[9] = (byte)Protocol;
        BinaryPrimitives.WriteUInt16BigEndian(destination[10..], 0);
        Source.WriteTo(destination[12..]);
        Destination.WriteTo(destination[16..]);
        BinaryPrimitives.WriteUInt16BigEndian(
            destination[10..], InternetChecksum.Finish(InternetChecksum.Add(destination)));
    }
}
