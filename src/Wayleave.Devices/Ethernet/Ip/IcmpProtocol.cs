using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Ip;

// RFC 1122 3.2.2, RFC 4443. No error about an error, a group, a broadcast or a redirect; every answer by a budget.

/// <summary>Echo, the errors that a host sends, and those that it believes.</summary>
internal sealed class IcmpProtocol(
    IpHostOptions options,
    IpRoutes routes,
    TcpEndpoint tcp,
    PacketWriter writer,
    FrameQueue answers,
    IpStats stats,
    IRandomChoice random)
{
    private const int HeaderBytes = 8;
    private const int QuotedTcpBytes = 8;
    private const int PlateauBytes = 576; // RFC 1191 5: a router that does not tell
    private const int ErrorBytesMax = 1280; // RFC 4443 2.4 c
    private const byte EchoRequest = 8;
    private const byte Unreachable = 3;
    private const byte FragmentationNeeded = 4;
    private const byte EchoRequestV6 = 128;
    private const byte EchoReplyV6 = 129;
    private const byte UnreachableV6 = 1;
    private const byte PacketTooBigV6 = 2;
    private const byte ParameterProblemV6 = 4;
    private const byte PortCodeV6 = 4;

    private AnswerBudget _echoes = new(options.AnswersPerSecond, random);
    private AnswerBudget _errors = new(options.AnswersPerSecond, random);

    /// <summary>An ICMP message of either version for one of our addresses, its checksum right.</summary>
    public void Handle(in FrameLayout layout, ReadOnlySpan<byte> message, TimeSpan now)
    {
        bool isIPv4 = layout.Source.IsIPv4;
        byte type = message[0], code = message[1];
        if (type == (isIPv4 ? EchoRequest : EchoRequestV6) && code == 0)
        {
            Reply(layout, message, now);
        }
        else if (isIPv4 && type == Unreachable && message.Length >= HeaderBytes)
        {
            int mtu = code == FragmentationNeeded ? BinaryPrimitives.ReadUInt16BigEndian(message[6..]) : 0;
            mtu = code == FragmentationNeeded && mtu == 0 ? PlateauBytes : mtu;
            Believe(ReadQuoteIPv4(message[HeaderBytes..]), mtu, ErrorOf(code, isIPv4: true), now);
        }
        else if (!isIPv4 && type is UnreachableV6 or PacketTooBigV6 && message.Length >= HeaderBytes)
        {
            uint told = BinaryPrimitives.ReadUInt32BigEndian(message[4..]);
            int mtu = type == PacketTooBigV6 ? (int)Math.Min(told, ushort.MaxValue) : 0;
            Believe(ReadQuoteIPv6(message[HeaderBytes..]), mtu, ErrorOf(code, isIPv4: false), now);
        }
        else
        {
            stats.Ignored++; // redirects, time exceeded, answers to what we never ask
        }
    }

    /// <summary>Nobody listens at that UDP port, or nobody knows that protocol.</summary>
    public void RefusePacket(in FrameLayout layout, ReadOnlySpan<byte> frame, TimeSpan now)
    {
        bool isUdp = layout.Protocol == IpProtocol.Udp, isIPv4 = layout.Source.IsIPv4;
        if (layout.DestinationMac.IsMulticast || layout.Source.IsUnspecified || !_errors.TryTake(now))
        {
            stats.AnswersWithheld++;
            return;
        }

        ReadOnlySpan<byte> packet = frame[layout.NetworkOffset..layout.EndOffset];
        int headers = layout.TransportOffset - layout.NetworkOffset;
        int most = isIPv4 ? headers + HeaderBytes : ErrorBytesMax - Ipv6Header.Size - HeaderBytes;
        packet = packet[..Math.Min(packet.Length, most)];
        if (!TryBegin(layout, HeaderBytes + packet.Length, out Span<byte> message))
        {
            return;
        }

        message[..HeaderBytes].Clear();
        (message[0], message[1]) = (isIPv4, isUdp) switch
        {
            (true, true) => (Unreachable, (byte)3),
            (true, false) => (Unreachable, (byte)2),
            (false, true) => (UnreachableV6, PortCodeV6),
            (false, false) => (ParameterProblemV6, (byte)1),
        };
        if (!isIPv4 && !isUdp)
        {
            BinaryPrimitives.WriteUInt32BigEndian(message[4..], NextHeaderOf(packet, headers));
        }

        packet.CopyTo(message[HeaderBytes..]);
        PacketWriter.FinishIcmp(message, layout.Destination, layout.Source);
        stats.ErrorsSent++;
    }

    // RFC 4443 3.4: where the protocol is named that nobody knows; behind extension headers that is in the last of
    // them.
    private static uint NextHeaderOf(ReadOnlySpan<byte> packet, int headerBytes)
    {
        int at = 6;
        for (int header = Ipv6Header.Size; header < headerBytes; header += (packet[header + 1] + 1) * 8)
        {
            at = header;
        }

        return (uint)at;
    }

    private void Reply(in FrameLayout layout, ReadOnlySpan<byte> message, TimeSpan now)
    {
        if (layout.DestinationMac.IsMulticast || layout.Source.IsUnspecified || !_echoes.TryTake(now))
        {
            stats.AnswersWithheld++;
            return;
        }

        if (TryBegin(layout, message.Length, out Span<byte> reply))
        {
            message.CopyTo(reply);
            reply[0] = layout.Source.IsIPv4 ? (byte)0 : EchoReplyV6;
            reply[2..4].Clear();
            PacketWriter.FinishIcmp(reply, layout.Destination, layout.Source);
            stats.EchoReplies++;
        }
    }

    // Back to where the frame came from: whoever asked is there, and no neighbour has to be asked for a stranger.
    private bool TryBegin(in FrameLayout layout, int messageBytes, out Span<byte> message)
    {
        int headers = writer.HeaderBytes(layout.Source);
        message = default;
        if (!answers.TryAdd(headers + messageBytes, out Span<byte> bytes))
        {
            stats.AnswersWithheld++;
            return false;
        }

        IpProtocol protocol = layout.Source.IsIPv4 ? IpProtocol.Icmp : IpProtocol.IcmpV6;
        writer.WriteHeaders(
            bytes, layout.SourceMac, layout.Destination, layout.Source, protocol, messageBytes);
        message = bytes[headers..];
        return true;
    }

    private void Believe((TcpFlow Flow, uint Sequence)? quote, int mtuBytes, Errno error, TimeSpan now)
    {
        bool taken = quote is { } segment && routes.IsOurs(segment.Flow.Local)
            && tcp.HandleIcmpError(now, segment.Flow, segment.Sequence, mtuBytes, error);
        stats.ErrorsTaken += taken ? 1 : 0;
        stats.ErrorsIgnored += taken ? 0 : 1;
    }

    private static Errno ErrorOf(byte code, bool isIPv4) => (isIPv4, code) switch
    {
        (true, 2 or 3) or (false, PortCodeV6) => Errno.ECONNREFUSED,
        _ => Errno.EHOSTUNREACH,
    };

    // What is quoted is the start of a packet of ours: its source is our end.
    private static (TcpFlow Flow, uint Sequence)? ReadQuoteIPv4(ReadOnlySpan<byte> packet)
    {
        if (packet.Length < Ipv4Header.Size || packet[0] >> 4 != 4 || packet[9] != (byte)IpProtocol.Tcp)
        {
            return null;
        }

        int headerBytes = (packet[0] & 0xF) * 4;
        return ReadQuote(
            packet, headerBytes, IpAddress.ReadIPv4(packet[12..]), IpAddress.ReadIPv4(packet[16..]));
    }

    private static (TcpFlow Flow, uint Sequence)? ReadQuoteIPv6(ReadOnlySpan<byte> packet)
    {
        if (packet.Length < Ipv6Header.Size || packet[0] >> 4 != 6 || packet[6] != (byte)IpProtocol.Tcp)
        {
            return null;
        }

        return ReadQuote(packet, Ipv6Header.Size, IpAddress.ReadIPv6(packet[8..]), IpAddress.ReadIPv6(packet[24..]));
    }

    private static (TcpFlow Flow, uint Sequence)? ReadQuote(
        ReadOnlySpan<byte> packet, int headerBytes, IpAddress source, IpAddress destination)
    {
        if (headerBytes < Ipv4Header.Size || packet.Length < headerBytes + QuotedTcpBytes)
        {
            return null;
        }

        ReadOnlySpan<byte> segment = packet[headerBytes..];
        TcpFlow flow = new(
            source,
            BinaryPrimitives.ReadUInt16BigEndian(segment),
            destination,
            BinaryPrimitives.ReadUInt16BigEndian(segment[2..]));
        return (flow, BinaryPrimitives.ReadUInt32BigEndian(segment[4..]));
    }
}
