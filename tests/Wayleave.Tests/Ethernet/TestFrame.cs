using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Tests.Ethernet;

/// <summary>Makes the frames of a peer: right in every checksum, until a test breaks them.</summary>
internal sealed record TestFrame
{
    public static readonly MacAddress Ours = new(0x02_00_00_00_00_01);
    public static readonly MacAddress Theirs = new(0x02_00_00_00_00_02);

    public MacAddress Destination { get; init; } = Ours;

    public MacAddress Source { get; init; } = Theirs;

    public ushort? Vlan { get; init; }

    public string From { get; init; } = "10.0.0.2";

    public string To { get; init; } = "10.0.0.1";

    public ushort FromPort { get; init; } = 40000;

    public ushort ToPort { get; init; } = 5201;

    public uint Sequence { get; init; } = 1000;

    public TcpFlags Flags { get; init; } = TcpFlags.Ack | TcpFlags.Psh;

    public byte HopLimit { get; init; } = 64;

    /// <summary>A multiple of four, at most 40.</summary>
    public byte[] Options { get; init; } = [];

    public byte[] Payload { get; init; } = [];

    /// <summary>IPv6 extension headers, in front of the transport header.</summary>
    public byte[] Extensions { get; init; } = [];

    /// <summary>The type of the first of <see cref="Extensions"/>.</summary>
    public IpProtocol FirstExtension { get; init; }

    /// <summary>As from the kernel through a TAP: a super-packet, whose checksum is left to us.</summary>
    public ushort GsoBytes { get; init; }

    public bool LeavesChecksum { get; init; }

    public static byte[] Bytes(int length, int seed = 1)
    {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++)
        {
            bytes[i] = (byte)((i * 7) + (i >> 8) + seed);
        }

        return bytes;
    }

    public static IpAddress Address(string text) =>
        IpAddress.TryParse(text, out IpAddress address) ? address : throw new FormatException(text);

    public VirtioNetHeader Link(byte[] frame)
    {
        if (!LeavesChecksum && GsoBytes == 0)
        {
            return default;
        }

        FrameParser.Parse(frame, default, out FrameLayout layout);
        GsoType type = From.Contains(':') ? GsoType.TcpIPv6 : GsoType.TcpIPv4;
        return new VirtioNetHeader
        {
            Flags = VirtioNetFlags.NeedsChecksum,
            Gso = GsoBytes == 0 ? GsoType.None : type,
            GsoBytes = GsoBytes,
            HeaderBytes = GsoBytes == 0 ? (ushort)0 : (ushort)layout.PayloadOffset,
            ChecksumStart = (ushort)layout.TransportOffset,
            ChecksumOffset = TcpHeader.ChecksumOffset,
        };
    }

    public byte[] Tcp()
    {
        byte[] segment = new byte[TcpHeader.Size + Options.Length + Payload.Length];
        new TcpHeader
        {
            SourcePort = FromPort,
            DestinationPort = ToPort,
            Sequence = Sequence,
            Acknowledgement = 1,
            HeaderBytes = TcpHeader.Size + Options.Length,
            Flags = Flags,
            Window = 1000,
        }.WriteTo(segment);
        Options.CopyTo(segment, TcpHeader.Size);
        Payload.CopyTo(segment, TcpHeader.Size + Options.Length);
        return Wrap(IpProtocol.Tcp, segment, TcpHeader.ChecksumOffset);
    }

    public byte[] Udp()
    {
        byte[] datagram = new byte[8 + Payload.Length];
        Put16(datagram, 0, FromPort);
        Put16(datagram, 2, ToPort);
        Put16(datagram, 4, (ushort)datagram.Length);
        Payload.CopyTo(datagram, 8);
        return Wrap(IpProtocol.Udp, datagram, checksumOffset: 6);
    }

    public byte[] Icmp()
    {
        byte[] message = new byte[8 + Payload.Length];
        bool isIPv4 = Address(From).IsIPv4;
        message[0] = isIPv4 ? (byte)8 : (byte)128;
        Payload.CopyTo(message, 8);
        return Wrap(isIPv4 ? IpProtocol.Icmp : IpProtocol.IcmpV6, message, checksumOffset: 2);
    }

    public byte[] Arp()
    {
        EthernetHeader ethernet = new(Destination, Source, EtherType.Arp, Vlan);
        byte[] frame = new byte[Math.Max(60, ethernet.SizeBytes + 28)];
        ethernet.WriteTo(frame);
        return frame;
    }

    public byte[] Wrap(IpProtocol protocol, byte[] segment, int checksumOffset)
    {
        IpAddress from = Address(From), to = Address(To);
        EthernetHeader ethernet =
            new(Destination, Source, from.IsIPv4 ? EtherType.IPv4 : EtherType.IPv6, Vlan);
        int ipBytes = from.IsIPv4 ? Ipv4Header.Size : Ipv6Header.Size + Extensions.Length;
        byte[] frame = new byte[ethernet.SizeBytes + ipBytes + segment.Length];
        ethernet.WriteTo(frame);
        Span<byte> packet = frame.AsSpan(ethernet.SizeBytes);
        if (from.IsIPv4)
        {
            new Ipv4Header
            {
                TotalBytes = packet.Length,
                TimeToLive = HopLimit,
                Protocol = protocol,
                Source = from,
                Destination = to,
            }.WriteTo(packet);
        }
        else
        {
            new Ipv6Header
            {
                PayloadBytes = packet.Length - Ipv6Header.Size,
                NextHeader = Extensions.Length > 0 ? FirstExtension : protocol,
                HopLimit = HopLimit,
                Source = from,
                Destination = to,
            }.WriteTo(packet);
            Extensions.CopyTo(packet[Ipv6Header.Size..]);
        }

        uint sum = protocol == IpProtocol.Icmp
            ? 0
            : InternetChecksum.PseudoHeader(from, to, protocol, segment.Length);
        bool isPartial = LeavesChecksum || GsoBytes > 0;
        ushort checksum = isPartial
            ? InternetChecksum.Fold(sum)
            : InternetChecksum.Finish(InternetChecksum.Add(segment, sum));
        Put16(segment, checksumOffset, checksum);
        segment.CopyTo(packet[ipBytes..]);
        return frame;
    }

    public static void Put16(Span<byte> bytes, int offset, ushort value) =>
        (bytes[offset], bytes[offset + 1]) = ((byte)(value >> 8), (byte)value);
}
