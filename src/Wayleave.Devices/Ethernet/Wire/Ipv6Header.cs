using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>The fixed header of IPv6 (RFC 8200).</summary>
public readonly record struct Ipv6Header
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 40;

    /// <summary>Extension headers and what they carry.</summary>
    public int PayloadBytes { get; init; }

    /// <summary>DSCP and ECN.</summary>
    public byte TrafficClass { get; init; }

    /// <summary>20 bits.</summary>
    public uint FlowLabel { get; init; }

    /// <summary>The first extension header, or what the packet carries.</summary>
    public IpProtocol NextHeader { get; init; }

    public byte HopLimit { get; init; }

    public IpAddress Source { get; init; }

    public IpAddress Destination { get; init; }

    /// <summary>
    /// Reads a header; false for another version or a payload that is longer than the bytes. A jumbogram, whose length
    /// is zero, is read as an empty packet.
    /// </summary>
    public static bool TryParse(ReadOnlySpan<byte> packet, out Ipv6Header header)
    {
        header = default;
        if (packet.Length < Size || packet[0] >> 4 != 6)
        {
            return false;
        }

        uint first = BinaryPrimitives.ReadUInt32BigEndian(packet);
        int payloadBytes = BinaryPrimitives.ReadUInt16BigEndian(packet[4..]);
        if (payloadBytes > packet.Length - Size)
        {
            return false;
        }

        header = new Ipv6Header
        {
            PayloadBytes = payloadBytes,
            TrafficClass = (byte)(first >> 20),
            FlowLabel = first & 0xFFFFF,
            NextHeader = (IpProtocol)packet[6],
            HopLimit = packet[7],
            Source = IpAddress.ReadIPv6(packet[8..]),
            Destination = IpAddress.ReadIPv6(packet[24..]),
        };
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt32BigEndian(
            destination, 6u << 28 | (uint)TrafficClass << 20 | (FlowLabel & 0xFFFFF));
        BinaryPrimitives.WriteUInt16BigEndian(destination[4..], (ushort)PayloadBytes);
        destination[6] = (byte)NextHeader;
        destination[7] = HopLimit;
        Source.WriteTo(destination[8..]);
        Destination.WriteTo(destination[24..]);
    }
}
