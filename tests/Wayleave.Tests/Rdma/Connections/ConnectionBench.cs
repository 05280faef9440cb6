using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma.Connections;

/// <summary>Two nodes with a connection manager each; B listens to port 7174.</summary>
internal sealed class ConnectionBench
{
    public const ushort Port = 7174;

    public ConnectionBench(
        ConnectionManagerOptions? options = null, int backlog = 4, bool listens = true, bool ipv6 = false)
    {
        Link = ipv6 ? new TestLink(addressA: "fd77::1", addressB: "fd77::2") : new TestLink();
        Link.Filter = (from, packet) => Loses?.Invoke(from, Name(packet.Span)) != true;
        ManagerA = new ConnectionManager(Link.A.Device, options);
        ManagerB = new ConnectionManager(Link.B.Device, options);
        if (listens)
        {
            Assert.Equal(Errno.Success, ManagerB.Listen(Port, backlog, out CmListener? listener));
            Listener = listener;
        }
    }

    public TestLink Link { get; }

    public ConnectionManager ManagerA { get; }

    public ConnectionManager ManagerB { get; }

    public CmListener? Listener { get; }

    /// <summary>Takes packets away: by sender, and by name of the message.</summary>
    public Func<TestNode, string, bool>? Loses { get; set; }

    /// <summary>The name of the message in a datagram to queue pair 1, else of its opcode.</summary>
    public static string Name(ReadOnlySpan<byte> packet)
    {
        Assert.Equal(DropReason.None, PacketView.TryParse(packet, out PacketView view));
        return view.DestQp == 1 && MadHeader.TryParse(view.Payload, out MadHeader header)
            ? header.Attribute.ToString()
            : OpcodeTraits.NameOf(view.Opcode);
    }

    public CmConnection Connect(out QueuePair pair, CmParameters? parameters = null)
    {
        pair = Link.A.CreatePair();
        Assert.Equal(
            Errno.Success,
            ManagerA.Connect(
                Link.Now, Link.B.Gid, Port, pair, parameters ?? new CmParameters(), out CmConnection? connection));
        return connection!;
    }

    /// <summary>B accepts the next request.</summary>
    public CmConnection Accept(out QueuePair pair, CmParameters? parameters = null)
    {
        CmEvent request = Expect(ManagerB, CmEventKind.ConnectRequest);
        pair = Link.B.CreatePair();
        Assert.Equal(
            Errno.Success, ManagerB.Accept(Link.Now, request.Connection, pair, parameters ?? new CmParameters()));
        return request.Connection;
    }

    /// <summary>A connection, made.</summary>
    public (CmConnection A, CmConnection B) Establish()
    {
        CmConnection a = Connect(out _);
        Link.Run();
        CmConnection b = Accept(out _);
        Link.Run();
        Expect(ManagerA, CmEventKind.Established);
        Expect(ManagerB, CmEventKind.Established);
        return (a, b);
    }

    /// <summary>A message each way, received.</summary>
    public void SendBothWays(QueuePair a, QueuePair b)
    {
        MemoryRegion regionA = Link.A.Register(Link.A.Allocate(4096));
        MemoryRegion regionB = Link.B.Register(Link.B.Allocate(4096));
        Assert.Equal(Errno.Success, a.PostReceive(
            new ReceiveWorkRequest(1), new Sge(regionA.Iova, 64, regionA.Key)));
        Assert.Equal(Errno.Success, b.PostReceive(
            new ReceiveWorkRequest(2), new Sge(regionB.Iova, 64, regionB.Key)));
        SendWorkRequest send = new() { Opcode = WorkRequestOpcode.Send };
        Assert.Equal(Errno.Success, a.PostSendInline(send, [1, 2, 3, 4]));
        Link.Run();
        Assert.Equal(Errno.Success, b.PostSendInline(send, [5, 6, 7, 8]));
        Link.Run();
        Assert.Equal(1UL, Assert.Single(TestNode.Poll(a.ReceiveCompletionQueue)).WrId);
        Assert.Equal(2UL, Assert.Single(TestNode.Poll(b.ReceiveCompletionQueue)).WrId);
    }

    public static CmEvent Expect(ConnectionManager manager, CmEventKind kind)
    {
        Assert.True(manager.PollEvent(out CmEvent cmEvent), $"no event, but {kind} was expected");
        Assert.Equal(kind, cmEvent.Kind);
        return cmEvent;
    }

    public static void ExpectNothing(ConnectionManager manager) => Assert.False(manager.PollEvent(out _));

    /// <summary>A MAD from A's address straight into B, as any program could send it.</summary>
    public List<(CmMessageId Id, byte[] Mad)> Inject(byte[] mad, Gid? source = null)
    {
        Gid from = source ?? Link.A.Gid;
        IcrcFlow flow = new(from, Link.B.Gid, 50_000, 4791);
        byte[] packet = new RawPacket(Opcode.UdSendOnly, 0)
        {
            DestQp = 1,
            Deth = new Deth(0x8001_0000, 1),
            Payload = mad,
        }.Build(flow);
        Link.B.Port.HandleDatagrams(from, 50_000, packet, packet.Length, 0, Link.Now);
        List<(CmMessageId, byte[])> answers = [];
        byte[] buffer = new byte[65536];
        while (Link.B.Port.PollTransmit(Link.Now, buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                ReadOnlySpan<byte> bytes = buffer.AsSpan(at, transmit.SegmentBytes);
                Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView view));
                Assert.True(MadHeader.TryParse(view.Payload, out MadHeader header));
                answers.Add((header.Attribute, view.Payload.ToArray()));
            }
        }

        return answers;
    }

    /// <summary>A request as A would make it.</summary>
    public CmRequest Request(uint localId = 0x1111) => new()
    {
        LocalId = localId,
        ServiceId = CmRequest.ServiceIdOf(Port),
        NodeGuid = 0xABCD,
        QpNumber = 0x77,
        ResponderResources = 1,
        InitiatorDepth = 4,
        StartingPsn = 0x4C5E2F,
        PathMtu = 3,
        LocalGid = Link.A.Gid,
        RemoteGid = Link.B.Gid,
        IPVersion = Link.A.Gid.IsIPv4 ? 4 : 6,
    };

    public static byte[] Bytes(CmRequest request, ulong transactionId = 0x55)
    {
        byte[] mad = new byte[MadHeader.MadBytes];
        request.WriteTo(mad, transactionId);
        return mad;
    }

    public static byte[] Bytes(CmNotice notice, ulong transactionId = 0x55)
    {
        byte[] mad = new byte[MadHeader.MadBytes];
        notice.WriteTo(mad, transactionId);
        return mad;
    }
}
