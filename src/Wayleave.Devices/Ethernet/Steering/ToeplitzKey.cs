using System.Buffers.Binary;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Steering;

// For each input bit that is set, 32 bits of the key from that bit on are XORed. What one nibble of the input adds is
// looked up: 16 values at each of 72 places, 4.5 KiB that stay in the first cache.

/// <summary>
/// A Toeplitz key (<c>Documentation/networking/scaling.rst</c>) with what is needed to hash fast. Immutable.
/// </summary>
public sealed class ToeplitzKey
{
    /// <summary>Bytes of a key.</summary>
    public const int Size = 40;

    private const int InputMax = (2 * IpAddress.IPv6Size) + 4;
    private const int NibbleValues = 16;

    private static readonly byte[] s_default =
    [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
        0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
        0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    private readonly byte[] _key;
    private readonly uint[] _parts = new uint[2 * InputMax * NibbleValues];

    /// <exception cref="ArgumentException">Not <see cref="Size"/> bytes.</exception>
    public ToeplitzKey(ReadOnlySpan<byte> key)
    {
        if (key.Length != Size)
        {
            throw new ArgumentException($"a key has {Size} bytes, not {key.Length}", nameof(key));
        }

        _key = key.ToArray();
        for (int nibble = 0; nibble < 2 * InputMax; nibble++)
        {
            for (int value = 0; value < NibbleValues; value++)
            {
                uint part = 0;
                for (int bit = 0; bit < 4; bit++)
                {
                    part ^= (value & (8 >> bit)) != 0 ? BitsFrom((nibble * 4) + bit) : 0;
                }

                _parts[(nibble * NibbleValues) + value] = part;
            }
        }
    }

    /// <summary>The key of the published vectors, which everybody ships.</summary>
    public static ToeplitzKey Default { get; } = new(s_default);

    public ReadOnlySpan<byte> Bytes => _key;

    /// <summary>The hash of an address pair, and of the ports if they tell flows apart.</summary>
    public uint Hash(in FrameLayout layout, RssTransform transform) =>
        Hash(layout.Source, layout.Destination, layout.SourcePort, layout.DestinationPort, layout.HasPorts, transform);

    /// <summary>As above.</summary>
    /// <param name="source">Of the same family as <paramref name="destination"/>.</param>
    /// <param name="destination">Network order, as all of the input.</param>
    /// <param name="sourcePort">Not used without ports.</param>
    /// <param name="destinationPort">Not used without ports.</param>
    /// <param name="hasPorts">Four-tuple or two-tuple.</param>
    /// <param name="transform">What is hashed in place of the tuple.</param>
    public uint Hash(
        IpAddress source,
        IpAddress destination,
        ushort sourcePort,
        ushort destinationPort,
        bool hasPorts,
        RssTransform transform)
    {
        if (transform != RssTransform.None)
        {
            bool isOr = transform == RssTransform.SymmetricOrXor;
            (ulong high, ulong low) = (source.High ^ destination.High, source.Low ^ destination.Low);
            (ulong firstHigh, ulong firstLow) = isOr
                ? (source.High | destination.High, source.Low | destination.Low)
                : (high, low);
            ushort ports = (ushort)(sourcePort ^ destinationPort);
            ushort firstPorts = isOr ? (ushort)(sourcePort | destinationPort) : ports;
            return HashBytes(
                source.IsIPv4, firstHigh, firstLow, high, low, firstPorts, ports, hasPorts);
        }

        return HashBytes(
            source.IsIPv4,
            source.High,
            source.Low,
            destination.High,
            destination.Low,
            sourcePort,
            destinationPort,
            hasPorts);
    }

    private uint HashBytes(
        bool isIPv4,
        ulong firstHigh,
        ulong firstLow,
        ulong secondHigh,
        ulong secondLow,
        ushort firstPort,
        ushort secondPort,
        bool hasPorts)
    {
        Span<byte> input = stackalloc byte[InputMax];
        int length;
        if (isIPv4)
        {
            BinaryPrimitives.WriteUInt32BigEndian(input, (uint)firstLow);
            BinaryPrimitives.WriteUInt32BigEndian(input[4..], (uint)secondLow);
            length = 2 * IpAddress.IPv4Size;
        }
        else
        {
            BinaryPrimitives.WriteUInt64BigEndian(input, firstHigh);
            BinaryPrimitives.WriteUInt64BigEndian(input[8..], firstLow);
            BinaryPrimitives.WriteUInt64BigEndian(input[16..], secondHigh);
            BinaryPrimitives.WriteUInt64BigEndian(input[24..], secondLow);
            length = 2 * IpAddress.IPv6Size;
        }

        if (hasPorts)
        {
            BinaryPrimitives.WriteUInt16BigEndian(input[length..], firstPort);
            BinaryPrimitives.WriteUInt16BigEndian(input[(length + 2)..], secondPort);
            length += 4;
        }

        uint hash = 0;
        int place = 0;
        foreach (byte b in input[..length])
        {
            hash ^= _parts[place + (b >> 4)] ^ _parts[place + NibbleValues + (b & 0xF)];
            place += 2 * NibbleValues;
        }

        return hash;
    }

    // 32 bits from a bit on; zero beyond the key.
    private uint BitsFrom(int bit)
    {
        ulong bits = 0;
        for (int i = 0; i < 5; i++)
        {
            int at = (bit / 8) + i;
            bits = bits << 8 | (at < _key.Length ? _key[at] : (byte)0);
        }

        return (uint)(bits >> (8 - (bit % 8)));
    }
}
