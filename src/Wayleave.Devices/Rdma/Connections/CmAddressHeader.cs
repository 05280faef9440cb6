using System.Buffers.Binary;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Connections;

/// <summary>
/// What rdma_cm writes before the private data of a request (<c>cma.c: struct cma_hdr</c>). An IPv4 address stands in
/// the last four of its sixteen bytes, behind zeros: that is no GID.
/// </summary>
/// <param name="Version">Of the header itself: 0.</param>
/// <param name="IPVersion">4 or 6.</param>
/// <param name="Port">The sender's.</param>
/// <param name="Source">The sender.</param>
/// <param name="Destination">Who is asked.</param>
internal readonly record struct CmAddressHeader(int Version, int IPVersion, ushort Port, Gid Source, Gid Destination)
{
    /// <summary>Bytes of it.</summary>
    public const int Size = 36;

    public static CmAddressHeader Parse(ReadOnlySpan<byte> header)
    {
        int version = header[1] >> 4;
        return new CmAddressHeader(
            header[0],
            version,
            BinaryPrimitives.ReadUInt16BigEndian(header[2..]),
            Read(header[4..], version),
            Read(header[20..], version));
    }

    public void WriteTo(Span<byte> header)
    {
        (header[0], header[1]) = ((byte)Version, (byte)(IPVersion << 4));
        BinaryPrimitives.WriteUInt16BigEndian(header[2..], Port);
        Write(header[4..], Source);
        Write(header[20..], Destination);
    }

    private static Gid Read(ReadOnlySpan<byte> address, int version) => version == 4
        ? Gid.FromIPv4(BinaryPrimitives.ReadUInt32BigEndian(address[12..]))
        : Gid.FromBytes(address);

    private static void Write(Span<byte> destination, Gid address)
    {
        if (address.IsIPv4)
        {
            BinaryPrimitives.WriteUInt32BigEndian(destination[12..], address.IPv4);
        }
        else
        {
            address.WriteTo(destination);
        }
    }
}
