using System.Buffers.Binary;

namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// The part of the ICRC that two UDP endpoints fix: eight 0xFF bytes for the absent link header, and the IP and UDP
/// headers with the fields that routers change set to ones (IBTA RoCEv2 annex, A17.3.3). Made once per flow;
/// <see cref="Seed"/> then adds the fields that differ from packet to packet.
/// </summary>
/// <remarks>
/// <code>
///          ones                                        covered as sent
/// IPv4     TOS, TTL, header checksum                   total length, identification, DF = 1, addresses
/// IPv6     traffic class, flow label, hop limit        payload length, addresses
/// UDP      checksum                                    ports, length
/// BTH      byte 4                                      all else (see Icrc.AppendBth)
/// </code>
/// </remarks>
public readonly struct IcrcFlow
{
    private const int UdpHeaderBytes = FrameView.UdpBytes;
    private const int IPv4HeaderBytes = FrameView.IPv4Bytes;
    private const int IPv6HeaderBytes = FrameView.IPv6Bytes;

    // Behind each field stand the rest of the IP header and the UDP header.
    private static readonly uint[] s_totalLength = CrcTable.FieldContributions(IPv4HeaderBytes - 4 + UdpHeaderBytes);
    private static readonly uint[] s_identification = CrcTable.FieldContributions(IPv4HeaderBytes - 6 + UdpHeaderBytes);
    private static readonly uint[] s_payloadLength = CrcTable.FieldContributions(IPv6HeaderBytes - 6 + UdpHeaderBytes);
    private static readonly uint[] s_udpLength = CrcTable.FieldContributions(2);

    private readonly uint _register;

    /// <summary>The flow from one endpoint to another; both addresses of one family.</summary>
    /// <exception cref="ArgumentException">One GID is IPv4 and the other is not.</exception>
    public IcrcFlow(Gid source, Gid destination, ushort sourcePort, ushort destinationPort)
    {
        if (source.IsIPv4 != destination.IsIPv4)
        {
            throw new ArgumentException($"{source} and {destination} are of different families", nameof(destination));
        }

        IsIPv4 = source.IsIPv4;
        Span<byte> bytes = stackalloc byte[8 + IPv6HeaderBytes + UdpHeaderBytes];
        bytes.Clear();
        bytes[..8].Fill(0xFF);
        Span<byte> ip = bytes[8..];
        int ipBytes;
        if (IsIPv4)
        {
            ipBytes = IPv4HeaderBytes;
            ip[0] = 0x45;
            ip[1] = 0xFF;
            ip[6] = 0x40; // Don't fragment: set by every RoCE sender.
            ip[8] = 0xFF;
            ip[9] = FrameView.ProtocolUdp;
            ip[10] = ip[11] = 0xFF;
            BinaryPrimitives.WriteUInt32BigEndian(ip[12..], source.IPv4);
            BinaryPrimitives.WriteUInt32BigEndian(ip[16..], destination.IPv4);
        }
        else
        {
            ipBytes = IPv6HeaderBytes;
            ip[0] = 0x6F;
            ip[1] = ip[2] = ip[3] = 0xFF;
            ip[6] = FrameView.ProtocolUdp;
            ip[7] = 0xFF;
            source.WriteTo(ip[8..]);
            destination.WriteTo(ip[24..]);
        }

        Span<byte> udp = ip[ipBytes..];
        BinaryPrimitives.WriteUInt16BigEndian(udp, sourcePort);
        BinaryPrimitives.WriteUInt16BigEndian(udp[2..], destinationPort);
        udp[6] = udp[7] = 0xFF;
        _register = CrcTable.Append(uint.MaxValue, bytes[..(8 + ipBytes + UdpHeaderBytes)]);
    }

    /// <summary>Whether packets of the flow have an IPv4 identification.</summary>
    public bool IsIPv4 { get; }

    /// <summary>
    /// The CRC register as it stands before the BTH of a packet whose UDP payload, BTH to ICRC, has that many bytes (at
    /// most 65507, as in any datagram). IPv6 has no identification and ignores it. Costs six table look-ups.
    /// </summary>
    public uint Seed(int udpPayloadBytes, ushort identification)
    {
        int udpLength = udpPayloadBytes + UdpHeaderBytes;
        uint register = _register ^ Contribution(s_udpLength, udpLength);
        return IsIPv4
            ? register
                ^ Contribution(s_totalLength, udpLength + IPv4HeaderBytes)
                ^ Contribution(s_identification, identification)
            : register ^ Contribution(s_payloadLength, udpLength);
    }

    /// <summary>
    /// The seed of a packet as long as that of <paramref name="seed"/>, which had identification zero. Costs two table
    /// look-ups.
    /// </summary>
    public uint Reseed(uint seed, ushort identification) =>
        IsIPv4 ? seed ^ Contribution(s_identification, identification) : seed;

    /// <summary>What the seeds of two packets differ by whose identifications differ in these bits.</summary>
    internal static uint DifferenceOf(ushort identification) => Contribution(s_identification, identification);

    private static uint Contribution(uint[] table, int value) => table[(byte)(value >> 8)] ^ table[256 + (byte)value];
}
