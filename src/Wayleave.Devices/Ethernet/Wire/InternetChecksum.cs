using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Wayleave.Devices.Ethernet.Wire;

// RFC 1071. The sum does not depend on the order of the bytes within a word, but for a swap of the result, so it is
// taken in the machine's order, 32 bits at a time into 64-bit sums that cannot overflow, and swapped at the end.

/// <summary>The ones' complement sum of IPv4, TCP, UDP and ICMP.</summary>
public static class InternetChecksum
{
    private const int BlockBytes = 32;

    /// <summary>
    /// Adds bytes to a sum. A range of odd length counts as if a zero byte followed: only the last range of a packet
    /// may be odd.
    /// </summary>
    /// <param name="bytes">In network order.</param>
    /// <param name="sum">What was added so far; not folded, and not complemented.</param>
    public static uint Add(ReadOnlySpan<byte> bytes, uint sum = 0)
    {
        ulong a = 0, b = 0, c = 0, d = 0;
        while (bytes.Length >= BlockBytes)
        {
            ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes[..BlockBytes]);
            ulong w0 = words[0], w1 = words[1], w2 = words[2], w3 = words[3];
            a += (uint)w0;
            b += w0 >> 32;
            c += (uint)w1;
            d += w1 >> 32;
            a += (uint)w2;
            b += w2 >> 32;
            c += (uint)w3;
            d += w3 >> 32;
            bytes = bytes[BlockBytes..];
        }

        a += b + c + d;
        while (bytes.Length >= sizeof(uint))
        {
            a += MemoryMarshal.Read<uint>(bytes);
            bytes = bytes[sizeof(uint)..];
        }

        if (bytes.Length >= sizeof(ushort))
        {
            a += MemoryMarshal.Read<ushort>(bytes);
            bytes = bytes[sizeof(ushort)..];
        }

        if (bytes.Length > 0)
        {
            a += BitConverter.IsLittleEndian ? bytes[0] : (uint)bytes[0] << 8;
        }

        a = (uint)a + (a >> 32);
        a = (uint)a + (a >> 32);
        ushort folded = Fold((uint)a);
        ushort inOrder = BitConverter.IsLittleEndian ? BinaryPrimitives.ReverseEndianness(folded) : folded;
        return AddFolded(sum, inOrder);
    }

    /// <summary>The sum of the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1).</summary>
    /// <param name="source">Both addresses are of one family.</param>
    /// <param name="destination">Of the packet, after any routing header.</param>
    /// <param name="protocol">What follows the IP header and its extensions.</param>
    /// <param name="lengthBytes">Of the protocol's header and payload; of a super-packet, the whole.</param>
    public static uint PseudoHeader(IpAddress source, IpAddress destination, IpProtocol protocol, int lengthBytes)
    {
        Span<byte> addresses = stackalloc byte[2 * IpAddress.IPv6Size];
        int length = source.WriteTo(addresses);
        length += destination.WriteTo(addresses[length..]);
        uint sum = Add(addresses[..length], (uint)protocol);
        return AddFolded(AddFolded(sum, (ushort)lengthBytes), (ushort)(lengthBytes >> 16));
    }

    /// <summary>16 bits of a sum, not complemented: what a partial checksum field holds.</summary>
    public static ushort Fold(uint sum)
    {
        sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)((sum & 0xFFFF) + (sum >> 16));
    }

    /// <summary>
    /// The value of the checksum field. Over a packet whose field is right, the field included, it is 0.
    /// </summary>
    public static ushort Finish(uint sum) => (ushort)~Fold(sum);

    // Sums of folded words: 65535 of them fit before the high half could overflow, and callers add a handful.
    private static uint AddFolded(uint sum, ushort word) => (uint)Fold(sum) + word;
}
