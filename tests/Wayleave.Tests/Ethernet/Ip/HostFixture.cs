using System.Buffers.Binary;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet.Ip;

/// <summary>A host above a real NIC port, fed with frames; what it sends is parsed as its peer would.</summary>
internal sealed class HostFixture
{
    private readonly byte[] _buffer = new byte[SuperFrame.BufferBytes];

    public HostFixture(Func<IpHostOptions, IpHostOptions>? options = null)
    {
        Nic = new NicFixture(ready: false);
        IpHostOptions given = new()
        {
            HardwareAddress = TestFrame.Ours,
            Addresses =
            [
                new InterfaceAddress(TestFrame.Address("10.0.0.1"), 24),
                new InterfaceAddress(TestFrame.Address("fd00::1"), 64),
            ],
            Tcp = new TcpEndpointOptions { SynCookies = SynCookieMode.Never },
        };
        Host = new IpHost(options?.Invoke(given) ?? given, new byte[16], new SplitMix64(1), Nic.Port);
    }

    public NicFixture Nic { get; }

    public IpHost Host { get; }

    public IpStats Stats => Host.Stats;

    public TimeSpan Now { get; private set; }

    /// <summary>A frame comes from the link.</summary>
    public void Receive(byte[] frame, VirtioNetHeader link = default)
    {
        FrameDrop drop = Nic.Port.HandleFrame(frame, link, Now);
        Assert.True(drop == FrameDrop.None, $"the NIC dropped it: {drop}");
        Nic.Port.Deliver(Host, 16, Now);
    }

    /// <summary>What the host sends next, with the layout that a peer sees; null for nothing.</summary>
    public byte[]? Take(out FrameLayout layout)
    {
        layout = default;
        SuperFrame frame = new(_buffer, Nic.Port.Dma);
        if (!Nic.Port.PollTransmit(Host, Now, ref frame))
        {
            return null;
        }

        byte[] bytes = frame.Bytes.ToArray();
        FrameDrop drop = FrameParser.Parse(bytes, frame.Link, out layout);
        Assert.True(drop == FrameDrop.None, $"what was sent is no good frame: {drop}");
        return bytes;
    }

    public byte[] Take()
    {
        byte[]? frame = Take(out _);
        Assert.NotNull(frame);
        return frame;
    }

    public void ExpectNothing() => Assert.Null(Take(out _));

    public void Wait(TimeSpan duration)
    {
        Now += duration;
        Host.HandleTimeout(Now);
    }

    public static byte[] Arp(bool isRequest, string sender, MacAddress mac, string target, MacAddress? to = null)
    {
        byte[] frame = new byte[60];
        new EthernetHeader(to ?? MacAddress.Broadcast, mac, EtherType.Arp).WriteTo(frame);
        new ArpPacket(isRequest, mac, TestFrame.Address(sender), default, TestFrame.Address(target))
            .WriteTo(frame.AsSpan(14));
        return frame;
    }

    public static byte[] Ndp(
        in NeighbourMessage message, string source, string destination, MacAddress to, byte hopLimit = 255)
    {
        byte[] body = new byte[NeighbourMessage.Size];
        (message with { LinkAddress = message.LinkAddress ?? TestFrame.Theirs }).WriteTo(body);
        if (message.LinkAddress is null)
        {
            body = body[..24];
        }

        TestFrame frame = new() { From = source, To = destination, Destination = to, HopLimit = hopLimit };
        return frame.Wrap(IpProtocol.IcmpV6, body, checksumOffset: 2);
    }

    public static byte[] IcmpError(byte type, byte code, uint rest, byte[] quoted, string from = "10.0.0.2")
    {
        byte[] body = new byte[8 + quoted.Length];
        (body[0], body[1]) = (type, code);
        BinaryPrimitives.WriteUInt32BigEndian(body.AsSpan(4), rest);
        quoted.CopyTo(body, 8);
        bool isIPv4 = !from.Contains(':', StringComparison.Ordinal);
        return new TestFrame { From = from, To = isIPv4 ? "10.0.0.1" : "fd00::1" }
            .Wrap(isIPv4 ? IpProtocol.Icmp : IpProtocol.IcmpV6, body, checksumOffset: 2);
    }
}
