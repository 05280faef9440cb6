using System.Buffers.Binary;

namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>What the link says about a frame's checksum (<c>VIRTIO_NET_HDR_F_*</c>).</summary>
[Flags]
public enum VirtioNetFlags : byte
{
    None = 0,

    /// <summary>
    /// The checksum is partial: the field holds the folded sum of the pseudo-header, and the rest is to be added.
    /// </summary>
    NeedsChecksum = 1,

    /// <summary>Somebody has verified the checksum.</summary>
    DataValid = 2,
}

/// <summary>How a super-packet is to be cut (<c>VIRTIO_NET_HDR_GSO_*</c>).</summary>
public enum GsoType : byte
{
    None = 0,
    TcpIPv4 = 1,
    Udp = 3,
    TcpIPv6 = 4,
    UdpL4 = 5,
}

/// <summary>
/// The <c>virtio_net_hdr</c> in front of each frame of a TAP with <c>IFF_VNET_HDR</c>, little endian
/// (<c>TUNSETVNETLE</c>): what the kernel left undone, or may leave to us.
/// </summary>
public readonly record struct VirtioNetHeader
{
    /// <summary>Bytes on the wire.</summary>
    public const int Size = 10;

    private const byte EcnBit = 0x80;

    public VirtioNetFlags Flags { get; init; }

    public GsoType Gso { get; init; }

    /// <summary>CWR belongs to the first segment only (<c>VIRTIO_NET_HDR_GSO_ECN</c>).</summary>
    public bool HasEcn { get; init; }

    /// <summary>A hint, and nothing that is relied on; 0 for a frame that is not cut.</summary>
    public ushort HeaderBytes { get; init; }

    /// <summary>Payload of each segment but the last.</summary>
    public ushort GsoBytes { get; init; }

    /// <summary>First byte that the checksum covers, from the start of the frame.</summary>
    public ushort ChecksumStart { get; init; }

    /// <summary>Where the checksum goes, from <see cref="ChecksumStart"/>.</summary>
    public ushort ChecksumOffset { get; init; }

    /// <summary>Reads the first <see cref="Size"/> bytes; false when there are fewer. Any values are read.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out VirtioNetHeader header)
    {
        header = default;
        if (bytes.Length < Size)
        {
            return false;
        }

        header = new VirtioNetHeader
        {
            Flags = (VirtioNetFlags)bytes[0],
            Gso = (GsoType)(bytes[1] & ~EcnBit),
            HasEcn = (bytes[1] & EcnBit) != 0,
            HeaderBytes = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]),
            GsoBytes = BinaryPrimitives.ReadUInt16LittleEndian(bytes[4..]),
            ChecksumStart = BinaryPrimitives.ReadUInt16LittleEndian(bytes[6..]),
            ChecksumOffset = BinaryPrimitives.ReadUInt16LittleEndian(bytes[8..]),
        };
        return true;
    }

    /// <summary>Writes <see cref="Size"/> bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The destination is shorter.</exception>
    public void WriteTo(Span<byte> destination)
    {
        destination[0] = (byte)Flags;
        destination[1] = (byte)((byte)Gso | (HasEcn ? EcnBit : 0));
        BinaryPrimitives.WriteUInt16LittleEndian(destination[2..], HeaderBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[4..], GsoBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[6..], ChecksumStart);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[8..], ChecksumOffset);
    }
}
