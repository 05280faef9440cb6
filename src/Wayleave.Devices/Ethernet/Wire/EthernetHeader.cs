using System.Buffers.Binary;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>The header of an Ethernet frame, with at most one IEEE 802.1Q tag. The FCS is never seen here.</summary>
/// <param name="Destination">Comes first on the wire.</param>
/// <param name="Source">Never a group address.</param>
/// <param name="Type">Of what follows the header and the tag.</param>
/// <param name="Vlan">The 12-bit identifier of the tag, or null without one; priority and CFI are not kept.</param>
public readonly record struct EthernetHeader(
    MacAddress Destination, MacAddress Source, EtherType Type, ushort? Vlan = null)
{
    /// <summary>Bytes without a tag.</summary>
    public const int Size = 14;

    /// <summary>What a tag adds.</summary>
    public const int TagSize = 4;

    private const int TypeOffset = 2 * MacAddress.Size;
    private const int VlanMask = 0xFFF;

    /// <summary>Bytes on the wire.</summary>
    public int SizeBytes => Vlan is null ? Size : Size + TagSize;

    /// <summary>Reads a header; false when the frame ends within it. A second tag is left as the type.</summary>
    public static bool TryParse(ReadOnlySpan<byte> frame, out EthernetHeader header)
    {
        header = default;
        if (frame.Length < Size)
        {
            return false;
        }

        MacAddress destination = MacAddress.FromBytes(frame);
        MacAddress source = MacAddress.FromBytes(frame[MacAddress.Size..]);
        EtherType type = (EtherType)BinaryPrimitives.ReadUInt16BigEndian(frame[TypeOffset..]);
        ushort? vlan = null;
        if (type == EtherType.Vlan)
        {
            if (frame.Length < Size + TagSize)
            {
                return false;
            }

            vlan = (ushort)(BinaryPrimitives.ReadUInt16BigEndian(frame[Size..]) & VlanMask);
            type = (EtherType)BinaryPrimitives.ReadUInt16BigEndian(frame[(Size + 2)..]);
        }

        header = new EthernetHeader(destination, source, type, vlan);
        return true;
    }

    /// <summary>Writes <see cref="SizeBytes"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        Destination.WriteTo(destination);
        Source.WriteTo(destination[MacAddress.Size..]);
        int offset = TypeOffset;
        if (Vlan is { } vlan)
        {
            BinaryPrimitives.WriteUInt16BigEndian(destination[offset..], (ushort)EtherType.Vlan);
            BinaryPrimitives.WriteUInt16BigEndian(destination[(offset + 2)..], (ushort)(vlan & VlanMask));
            offset += TagSize;
        }

        BinaryPrimitives.WriteUInt16BigEndian(destination[offset..], (ushort)Type);
    }
}
