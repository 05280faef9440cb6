using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Room for either socket address of the kernel, and the way to and from <see cref="EndpointAddress"/>.
/// </summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct SocketAddress
{
    [FieldOffset(0)]
    internal ushort Family;

    [FieldOffset(0)]
    internal sockaddr_in IPv4;

    [FieldOffset(0)]
    internal sockaddr_in6 IPv6;

    /// <returns>How many bytes of this structure the kernel is to be given.</returns>
    internal uint Write(in EndpointAddress address, uint scopeId)
    {
        if (address.IsIPv4)
        {
            IPv4.sin_family = socket.AF_INET;
            IPv4.sin_port = BinaryPrimitives.ReverseEndianness(address.Port);
            IPv4.sin_addr = BinaryPrimitives.ReverseEndianness((uint)address.Low);
            IPv4.__pad = 0;
            return (uint)sizeof(sockaddr_in);
        }

        IPv6.sin6_family = socket.AF_INET6;
        IPv6.sin6_port = BinaryPrimitives.ReverseEndianness(address.Port);
        IPv6.sin6_flowinfo = 0;
        fixed (byte* bytes = IPv6.sin6_addr)
        {
            BinaryPrimitives.WriteUInt64BigEndian(new Span<byte>(bytes, 8), address.High);
            BinaryPrimitives.WriteUInt64BigEndian(new Span<byte>(bytes + 8, 8), address.Low);
        }

        IPv6.sin6_scope_id = address.IsLinkLocal || address.IsMulticast ? scopeId : 0;
        return (uint)sizeof(sockaddr_in6);
    }

    internal readonly EndpointAddress Read()
    {
        if (Family == socket.AF_INET)
        {
            return EndpointAddress.FromIPv4(
                BinaryPrimitives.ReverseEndianness(IPv4.sin_addr), BinaryPrimitives.ReverseEndianness(IPv4.sin_port));
        }

        fixed (byte* bytes = IPv6.sin6_addr)
        {
            return new EndpointAddress(
                BinaryPrimitives.ReadUInt64BigEndian(new ReadOnlySpan<byte>(bytes, 8)),
                BinaryPrimitives.ReadUInt64BigEndian(new ReadOnlySpan<byte>(bytes + 8, 8)),
                BinaryPrimitives.ReverseEndianness(IPv6.sin6_port));
        }
    }
}
