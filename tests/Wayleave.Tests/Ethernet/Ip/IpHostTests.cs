using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Xunit;

namespace Wayleave.Tests.Ethernet.Ip;

/// <summary>What a host on a link does besides TCP: ARP, neighbour discovery, echo, errors.</summary>
public class IpHostTests
{
    private static readonly MacAddress s_allNodes = new(0x3333_0000_0001);
    private static readonly MacAddress s_solicited = new(0x3333_FF00_0001);

    [Fact]
    public void TCP_63_An_ARP_request_is_answered_and_its_sender_remembered()
    {
        HostFixture f = new();
        f.Receive(HostFixture.Arp(true, "10.0.0.2", TestFrame.Theirs, "10.0.0.1"));
        Assert.True(ArpPacket.TryParse(f.Take().AsSpan(14), out ArpPacket reply));
        Assert.Equal(
            new ArpPacket(
                false, TestFrame.Ours, TestFrame.Address("10.0.0.1"), TestFrame.Theirs, TestFrame.Address("10.0.0.2")),
            reply);
        Assert.Equal(1, f.Host.NeighbourCount);
        f.Receive(HostFixture.Arp(true, "10.0.0.3", TestFrame.Theirs, "10.0.0.9"));
        f.ExpectNothing();
        Assert.Equal(1, f.Host.NeighbourCount); // not for us: nobody is added
    }

    [Fact]
    public void TCP_63_A_neighbour_solicitation_is_answered_and_a_probe_for_our_address_to_all_nodes()
    {
        HostFixture f = new();
        IpAddress ours = TestFrame.Address("fd00::1");
        NeighbourMessage question = new() { IsSolicitation = true, Target = ours, LinkAddress = TestFrame.Theirs };
        f.Receive(HostFixture.Ndp(question, "fd00::2", "ff02::1:ff00:1", s_solicited));
        byte[] frame = f.Take();
        Assert.Equal(TestFrame.Theirs, MacAddress.FromBytes(frame));
        Assert.True(NeighbourMessage.TryParse(frame.AsSpan(54), out NeighbourMessage answer));
        Assert.Equal(
            new NeighbourMessage { IsSolicited = true, IsOverride = true, Target = ours, LinkAddress = TestFrame.Ours },
            answer);

        // Duplicate address detection has no source yet, and tells no link-layer address.
        f.Receive(HostFixture.Ndp(question with { LinkAddress = null }, "::", "ff02::1:ff00:1", s_solicited));
        frame = f.Take();
        Assert.Equal(s_allNodes, MacAddress.FromBytes(frame));
        Assert.True(NeighbourMessage.TryParse(frame.AsSpan(54), out answer));
        Assert.Equal((false, true, ours), (answer.IsSolicited, answer.IsOverride, answer.Target));
    }

    [Theory]
    [InlineData("10.0.0.2", "10.0.0.1", 0)]
    [InlineData("fd00::2", "fd00::1", 129)]
    public void TCP_63_An_echo_request_is_answered_with_its_own_bytes(string from, string to, byte type)
    {
        HostFixture f = new();
        TestFrame request = new() { From = from, To = to, Payload = TestFrame.Bytes(1000) };
        byte[] asked = request.Icmp();
        f.Receive(asked);
        byte[] reply = f.Take(out FrameLayout layout)!;
        Assert.Equal((to, from), (layout.Source.ToString(), layout.Destination.ToString()));
        Assert.Equal(type, reply[layout.TransportOffset]);
        Assert.Equal(asked[(layout.TransportOffset + 4)..], reply[(layout.TransportOffset + 4)..]);
    }

    [Theory]
    [InlineData("10.0.0.2", "10.0.0.1", 3, 3, 28)]
    [InlineData("fd00::2", "fd00::1", 1, 4, 148)]
    public void TCP_63_UDP_to_a_closed_port_is_unreachable(
        string from, string to, byte type, byte code, int quotedBytes)
    {
        HostFixture f = new();
        byte[] datagram = new TestFrame { From = from, To = to, Payload = TestFrame.Bytes(100) }.Udp();
        f.Receive(datagram);
        byte[] error = f.Take(out FrameLayout layout)!;
        ReadOnlySpan<byte> message = error.AsSpan(layout.TransportOffset);
        Assert.Equal((type, code), (message[0], message[1]));
        Assert.Equal(datagram[14..(14 + quotedBytes)], message[8..].ToArray());
    }

    [Fact]
    public void Answers_have_a_budget_and_groups_get_none()
    {
        HostFixture f = new(o => o with { AnswersPerSecond = 10, AnswersMax = 1000 });
        for (int i = 0; i < 100; i++)
        {
            f.Receive(new TestFrame().Icmp());
            f.Receive(new TestFrame().Udp());
        }

        Assert.InRange(f.Stats.EchoReplies, 5, 15);
        Assert.InRange(f.Stats.ErrorsSent, 5, 15);
        f.Wait(TimeSpan.FromSeconds(2));
        while (f.Take(out _) is not null)
        {
        }

        f.Receive(new TestFrame { Destination = MacAddress.Broadcast }.Icmp());
        f.Receive(new TestFrame { Destination = MacAddress.Broadcast, To = "10.0.0.255" }.Udp());
        f.ExpectNothing();
    }

    // H-22: whoever answers there answers everybody on the link, or itself.
    [Theory]
    [InlineData("10.0.0.255", "10.0.0.1")]
    [InlineData("10.0.0.3", "10.0.0.1")]
    [InlineData("fd00::3", "fd00::1")]
    public void H_22_What_comes_from_a_broadcast_or_from_another_of_our_addresses_is_not_answered(
        string from, string to)
    {
        HostFixture f = new(o => o with
        {
            Addresses =
            [
                .. o.Addresses,
                new InterfaceAddress(TestFrame.Address("10.0.0.3"), 24),
                new InterfaceAddress(TestFrame.Address("fd00::3"), 64),
            ],
        });
        Assert.Equal(Errno.Success, f.Host.Tcp.Listen(null, 5201, 4, out TcpListener? listener));
        TestFrame frame = new() { From = from, To = to, Payload = TestFrame.Bytes(10) };
        f.Receive(frame.Icmp());
        f.Receive(frame.Udp());
        f.Receive((frame with { Flags = TcpFlags.Syn, Payload = [] }).Tcp());
        f.ExpectNothing();
        Assert.Equal((3, 0, 0), (f.Stats.Martians, listener!.HalfOpenCount, f.Host.NeighbourCount));
    }

    // RFC 4443 3.4: the pointer is where the unknown protocol is named.
    [Theory]
    [InlineData(0, 6)]
    [InlineData(1, 40)]
    [InlineData(3, 56)]
    public void A_protocol_that_nobody_knows_is_pointed_at_behind_extension_headers_too(int extensions, uint place)
    {
        HostFixture f = new();
        byte[] headers = new byte[8 * extensions];
        for (int i = 0; i < extensions; i++)
        {
            headers[8 * i] = i + 1 < extensions ? (byte)IpProtocol.DestinationOptions : (byte)200;
            (headers[(8 * i) + 2], headers[(8 * i) + 3]) = (1, 4); // PadN
        }

        TestFrame frame = new()
        {
            From = "fd00::2",
            To = "fd00::1",
            Extensions = headers,
            FirstExtension = IpProtocol.DestinationOptions,
        };
        f.Receive(frame.Wrap((IpProtocol)200, new byte[20], checksumOffset: 2));
        byte[] error = f.Take(out FrameLayout layout)!;
        ReadOnlySpan<byte> message = error.AsSpan(layout.TransportOffset);
        Assert.Equal((4, 1), (message[0], message[1]));
        Assert.Equal(place, BinaryPrimitives.ReadUInt32BigEndian(message[4..]));
    }

    [Fact]
    public void A_SYN_waits_for_its_neighbour_and_three_questions_are_all()
    {
        HostFixture f = new();
        Assert.Equal(
            Errno.Success, f.Host.Connect(f.Now, TestFrame.Address("10.0.0.7"), 80, out TcpConnection? connection));
        Assert.True(ArpPacket.TryParse(f.Take().AsSpan(14), out ArpPacket question));
        Assert.Equal(
            (true, "10.0.0.7"), (question.IsRequest, question.TargetIp.ToString()));
        f.ExpectNothing();
        MacAddress mac = new(0x02_00_00_00_00_77);
        f.Receive(HostFixture.Arp(false, "10.0.0.7", mac, "10.0.0.1", TestFrame.Ours));
        byte[] syn = f.Take(out FrameLayout layout)!;
        Assert.Equal((mac, TcpFlags.Syn), (MacAddress.FromBytes(syn), layout.Tcp.Flags));
        Assert.NotNull(connection);

        HostFixture silent = new();
        Assert.Equal(Errno.Success, silent.Host.Connect(silent.Now, TestFrame.Address("fd00::7"), 80, out _));
        int questions = 0;
        for (int i = 0; i < 40; i++)
        {
            while (silent.Take(out FrameLayout asked) is { } frame)
            {
                questions += asked.Protocol == IpProtocol.IcmpV6
                    && frame[asked.TransportOffset] == NeighbourMessage.Solicitation ? 1 : 0;
            }

            silent.Wait(TimeSpan.FromMilliseconds(100));
        }

        Assert.Equal(1, silent.Stats.NeighboursFailed);
        Assert.InRange(questions, 3, 5); // and again for the SYN that is repeated
    }

    [Fact]
    public void Another_network_is_reached_by_the_gateway_or_not_at_all()
    {
        HostFixture f = new(o => o with { GatewayIPv4 = TestFrame.Address("10.0.0.254") });
        Assert.Equal(Errno.Success, f.Host.Connect(f.Now, TestFrame.Address("192.0.2.1"), 80, out _));
        Assert.True(ArpPacket.TryParse(f.Take().AsSpan(14), out ArpPacket question));
        Assert.Equal("10.0.0.254", question.TargetIp.ToString());
        Assert.Equal(Errno.ENETUNREACH, f.Host.Connect(f.Now, TestFrame.Address("2001:db8::1"), 80, out _));
    }

    [Fact]
    public void An_old_neighbour_is_asked_alone_and_used_meanwhile()
    {
        HostFixture f = new();
        f.Receive(HostFixture.Arp(true, "10.0.0.2", TestFrame.Theirs, "10.0.0.1"));
        f.Take();
        f.Wait(TimeSpan.FromSeconds(61));
        Assert.Equal(Errno.Success, f.Host.Connect(f.Now, TestFrame.Address("10.0.0.2"), 80, out _));
        f.Take(out FrameLayout first);
        Assert.Equal(TcpFlags.Syn, first.Tcp.Flags);
        byte[] question = f.Take();
        Assert.Equal(TestFrame.Theirs, MacAddress.FromBytes(question));
        Assert.True(ArpPacket.TryParse(question.AsSpan(14), out ArpPacket arp));
        Assert.True(arp.IsRequest);
    }

    [Fact]
    public void H_27_A_claim_to_our_address_is_counted_and_answered_once_in_ten_seconds()
    {
        HostFixture f = new();
        for (int i = 0; i < 100; i++)
        {
            f.Receive(HostFixture.Arp(true, "10.0.0.1", TestFrame.Theirs, "10.0.0.1"));
        }

        Assert.Equal(100, f.Stats.AddressConflicts);
        Assert.True(ArpPacket.TryParse(f.Take().AsSpan(14), out ArpPacket claim));
        Assert.Equal((TestFrame.Ours, "10.0.0.1"), (claim.SenderMac, claim.SenderIp.ToString()));
        f.ExpectNothing();
        Assert.Equal(0, f.Host.NeighbourCount);
    }

    [Fact]
    public void H_27_Answers_that_nobody_asked_for_and_malformed_messages_change_nothing()
    {
        HostFixture f = new(o => o with { NeighboursMax = 8 });
        NeighbourMessage answer = new()
        {
            Target = TestFrame.Address("fd00::2"),
            IsOverride = true,
            LinkAddress = TestFrame.Theirs,
        };
        for (int i = 0; i < 100; i++)
        {
            NeighbourMessage flood = answer with { Target = new IpAddress(answer.Target.High, (ulong)i + 100) };
            f.Receive(HostFixture.Ndp(flood, "fd00::2", "fd00::1", TestFrame.Ours));
        }

        NeighbourMessage question = new()
        {
            IsSolicitation = true,
            Target = TestFrame.Address("fd00::1"),
            LinkAddress = TestFrame.Theirs,
        };
        f.Receive(HostFixture.Ndp(question, "fd00::2", "fd00::1", TestFrame.Ours, hopLimit: 254));
        byte[] zeroLength = HostFixture.Ndp(question, "fd00::2", "fd00::1", TestFrame.Ours);
        byte[] body = zeroLength[54..];
        (body[2], body[3], body[25]) = (0, 0, 0);
        f.Receive(new TestFrame { From = "fd00::2", To = "fd00::1", HopLimit = 255 }
            .Wrap(IpProtocol.IcmpV6, body, checksumOffset: 2));
        f.ExpectNothing();
        Assert.Equal((0, 2), (f.Host.NeighbourCount, f.Stats.NeighbourErrors));

        // Who asks for us is remembered, up to a limit.
        for (int i = 0; i < 100; i++)
        {
            f.Receive(HostFixture.Arp(true, $"10.0.0.{i + 100}", TestFrame.Theirs, "10.0.0.1"));
            f.Take();
        }

        Assert.Equal(8, f.Host.NeighbourCount);
    }

    [Fact]
    public void H_28_An_ICMP_error_about_somebody_else_or_another_number_is_ignored()
    {
        HostFixture f = new();
        f.Receive(HostFixture.Arp(true, "10.0.0.2", TestFrame.Theirs, "10.0.0.1"));
        f.Take();
        Assert.Equal(
            Errno.Success, f.Host.Connect(f.Now, TestFrame.Address("10.0.0.2"), 80, out TcpConnection? connection));
        byte[] syn = f.Take();
        byte[] quote = syn[14..(14 + 28)];
        byte[] otherPort = [.. quote];
        otherPort[23] ^= 1;
        byte[] otherNumber = [.. quote];
        otherNumber[24] ^= 0x40;
        byte[] notOurs = [.. quote];
        notOurs[15] ^= 0x40;
        foreach (byte[] quoted in new[] { otherPort, otherNumber, notOurs, quote[..20], quote[..10], [] })
        {
            f.Receive(HostFixture.IcmpError(3, 3, 0, quoted));
        }

        Assert.Equal((TcpState.SynSent, 6, 0), (connection!.State, f.Stats.ErrorsIgnored, f.Stats.ErrorsTaken));
        f.Receive(HostFixture.IcmpError(3, 3, 0, quote));
        Assert.Equal((TcpState.Closed, Errno.ECONNREFUSED), (connection.State, connection.Error));
    }

    [Fact]
    public void A_segment_through_the_NIC_makes_a_connection_and_its_answer_is_a_good_frame()
    {
        HostFixture f = new();
        Assert.Equal(Errno.Success, f.Host.Tcp.Listen(null, 5201, 4, out TcpListener? listener));
        f.Receive(HostFixture.Arp(true, "10.0.0.2", TestFrame.Theirs, "10.0.0.1"));
        f.Take();
        f.Receive(new TestFrame { Flags = TcpFlags.Syn, Sequence = 999 }.Tcp());
        f.Take(out FrameLayout answer);
        Assert.Equal((TcpFlags.Syn | TcpFlags.Ack, 1000u), (answer.Tcp.Flags, answer.Tcp.Acknowledgement));
        Assert.Equal(1, listener!.HalfOpenCount);
        f.Receive(new TestFrame { Flags = TcpFlags.Syn, To = "10.0.0.99" }.Tcp());
        f.ExpectNothing();
        Assert.Equal(1, f.Stats.NotOurs);
    }
}
