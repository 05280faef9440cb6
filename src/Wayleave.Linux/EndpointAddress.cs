using System.Buffers.Binary;
using System.Net;
using System.Runtime.InteropServices;

namespace Wayleave.Linux;

/// <summary>
/// An IP address and a UDP port as plain numbers. The address is the 128-bit number that the RoCE GID is: IPv4 a.b.c.d
/// is ::ffff:a.b.c.d.
/// </summary>
/// <param name="High">The first eight bytes of the IPv6 form, as a number (big-endian order).</param>
/// <param name="Low">The last eight bytes.</param>
/// <param name="Port">In host order.</param>
[StructLayout(LayoutKind.Sequential)]
public readonly record struct EndpointAddress(ulong High, ulong Low, ushort Port)
{
    private const ulong MappedPrefix = 0xFFFF_0000_0000;

    public bool IsIPv4 => High == 0 && Low >> 32 == MappedPrefix >> 32;

    /// <summary>fe80::/10: such an address means something only together with an interface.</summary>
    public bool IsLinkLocal => High >> 54 == 0xFE80 >> 6;

    /// <summary>224.0.0.0/4 or ff00::/8: a group, and not one machine.</summary>
    public bool IsMulticast => IsIPv4 ? (Low >> 28 & 0xF) == 0xE : High >> 56 == 0xFF;

    /// <summary>127.0.0.0/8 or ::1: what is sent there stays in this machine, and super-packets stay whole.</summary>
    public bool IsLoopback => High == 0 && (Low == 1 || Low >> 24 == (MappedPrefix | 0x7F00_0000) >> 24);

    /// <summary>0.0.0.0 or ::, which no packet has as its address.</summary>
    public bool IsWildcard => High == 0 && (Low == 0 || Low == MappedPrefix);

    /// <param name="address">a.b.c.d as a number: 0x7F000001 is 127.0.0.1.</param>
    /// <param name="port">In host order.</param>
    public static EndpointAddress FromIPv4(uint address, ushort port) => new(0, MappedPrefix | address, port);

    /// <exception cref="ArgumentException">Neither IPv4 nor IPv6.</exception>
    public static EndpointAddress From(IPAddress address, ushort port)
    {
        ArgumentNullException.ThrowIfNull(address);
        Span<byte> bytes = stackalloc byte[16];
        if (!address.MapToIPv6().TryWriteBytes(bytes, out int written) || written != bytes.Length)
        {
            throw new ArgumentException($"not an IP address: {address}", nameof(address));
        }

        return new EndpointAddress(
            BinaryPrimitives.ReadUInt64BigEndian(bytes), BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]), port);
    }

    /// <summary>For messages and for APIs of .NET; allocates.</summary>
    public IPEndPoint ToIPEndPoint()
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64BigEndian(bytes, High);
        BinaryPrimitives.WriteUInt64BigEndian(bytes[8..], Low);
        return new IPEndPoint(new IPAddress(IsIPv4 ? bytes[12..] : bytes), Port);
    }

    /// <summary>As `ss` prints it: 127.0.0.2:4791, [::1]:4791.</summary>
    public override string ToString() => ToIPEndPoint().ToString();
}
