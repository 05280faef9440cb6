using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// A conversation with one queue pair, in which the test plays the peer: it sends packets and says what must come back.
/// The queue pair expects PSN a00000 and starts its own requests at b00000; MTU 1024.
/// </summary>
internal sealed class Conversation
{
    public const uint First = 0xA00000;
    public const uint OwnFirst = 0xB00000;
    public const int Mtu = 1024;
    public const uint PeerQp = 0x11;
    public const int MemoryBytes = 1 << 16;

    private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);
    private readonly Queue<byte[]> _sent = [];
    private readonly IcrcFlow _flow;

    public Conversation(
        Func<QueuePairAttributes, QueuePairAttributes>? configure = null,
        Func<RdmaDeviceOptions, RdmaDeviceOptions>? options = null,
        QueuePairState upTo = QueuePairState.ReadyToSend,
        int depth = 64,
        QueuePairCapabilities? capabilities = null,
        AccessFlags access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
        RegistrationKind registration = RegistrationKind.SharedBuffer,
        CompletionQueue? completions = null)
    {
        Node = new TestNode("10.77.0.2", 3, options);
        Assert.True(Gid.TryParse("10.77.0.1", out Gid peer));
        PeerGid = peer;
        Completions = completions ?? TestNode.CreateCompletionQueue(depth);
        Pair = Node.CreatePair(Completions, capabilities);
        QueuePairAttributes attributes = new Connection().Attributes with
        {
            AddressVector = new AddressVector(peer),
            DestQpNumber = PeerQp,
            RqPsn = First,
            SqPsn = OwnFirst,
        };
        new Connection { Attributes = configure?.Invoke(attributes) ?? attributes }.Apply(Pair, upTo);
        Memory = Node.Allocate(MemoryBytes);
        Region = Node.Register(Memory, access, registration: registration);
        _flow = new IcrcFlow(peer, Node.Gid, 4791, 4791);
    }

    public TestNode Node { get; }

    public Gid PeerGid { get; }

    public QueuePair Pair { get; }

    public CompletionQueue Completions { get; }

    public TestMemory Memory { get; }

    public MemoryRegion Region { get; }

    /// <summary>What a test that looks at super-packets itself saw last.</summary>
    public string LastSent { get; set; } = "";

    public TimeSpan Now { get; private set; } = TimeSpan.FromSeconds(1);

    /// <summary>Moves time on and lets timers act.</summary>
    public void Wait(TimeSpan by)
    {
        Now += by;
        Node.Clock.Advance(by);
        Node.Port.HandleTimeout(Now);
    }

    /// <summary>Delivers a packet of the peer.</summary>
    public void Send(RawPacket packet) => Send(packet, PeerGid);

    public void Send(RawPacket packet, Gid source) =>
        SendBytes((packet.DestQp == 0 ? packet with { DestQp = Pair.QpNumber } : packet).Build(_flow), source);

    public void SendBytes(byte[] bytes, Gid? source = null) =>
        Node.Port.HandleDatagrams(source ?? PeerGid, 4791, bytes, bytes.Length, 0, Now);

    /// <summary>Middles of a WRITE in one super-packet.</summary>
    public void SendMiddles(uint psn, params byte[][] payloads) =>
        SendMiddles(Opcode.RcWriteMiddle, psn, payloads);

    /// <summary>Middles of any kind in one super-packet.</summary>
    public void SendMiddles(Opcode opcode, uint psn, params byte[][] payloads)
    {
        byte[] bytes = [.. payloads.SelectMany((payload, i) =>
            new RawPacket(opcode, psn + (uint)i) { DestQp = Pair.QpNumber, Payload = payload }
                .Build(_flow, (ushort)i))];
        Node.Port.HandleDatagrams(PeerGid, 4791, bytes, bytes.Length / payloads.Length, 0, Now);
    }

    public void SendWrite(
        uint psn, ulong offset, byte[] payload, uint? key = null, bool ack = true, ulong? address = null) => Send(
        new RawPacket(Opcode.RcWriteOnly, psn)
        {
            AckRequest = ack,
            Reth = new Reth(address ?? Region.Iova + offset, key ?? Region.Key, (uint)payload.Length),
            Payload = payload,
        });

    public void SendRead(uint psn, ulong offset, uint length, uint? key = null) => Send(
        new RawPacket(Opcode.RcReadRequest, psn)
        {
            AckRequest = true,
            Reth = new Reth(Region.Iova + offset, key ?? Region.Key, length),
        });

    public void SendSend(uint psn, byte[] payload, bool solicited = false) => Send(
        new RawPacket(Opcode.RcSendOnly, psn) { AckRequest = true, Solicited = solicited, Payload = payload });

    public void SendAck(uint psn, byte syndrome = Aeth.AckUnlimited, uint msn = 0) =>
        Send(new RawPacket(Opcode.RcAcknowledge, psn) { Aeth = new Aeth(syndrome, msn) });

    /// <summary>
    /// The next packet that the queue pair sends must be this one, as <see cref="TestLink.Describe"/> writes it.
    /// </summary>
    public byte[] Expect(string packet)
    {
        Collect();
        Assert.True(_sent.TryDequeue(out byte[]? sent), $"nothing was sent, but {packet} was expected");
        Assert.Equal(packet, TestLink.Describe(sent));
        return sent;
    }

    /// <summary>The next packet that the queue pair sends, whatever it is.</summary>
    public string Next()
    {
        Collect();
        Assert.True(_sent.TryDequeue(out byte[]? sent), "nothing was sent, but something was expected");
        return TestLink.Describe(sent);
    }

    /// <summary>Whatever it sends is of no interest.</summary>
    public void Drain()
    {
        Collect();
        _sent.Clear();
    }

    public void ExpectNothing()
    {
        Collect();
        Assert.Empty(_sent.Select(s => TestLink.Describe(s)));
    }

    public void ExpectState(QueuePairState state) => Assert.Equal(state, Pair.State);

    public WorkCompletion ExpectCompletion(ulong wrId, WorkCompletionStatus status)
    {
        WorkCompletion[] one = new WorkCompletion[1];
        Assert.True(Completions.Poll(one) == 1, $"no completion, but {wrId} {status} was expected");
        Assert.Equal((wrId, status), (one[0].WrId, one[0].Status));
        return one[0];
    }

    public void ExpectNoCompletion() => Assert.Equal(0, Completions.Count);

    public void PostReceive(ulong wrId, ulong offset, uint length) =>
        Assert.Equal(
            Core.Errno.Success,
            Pair.PostReceive(new ReceiveWorkRequest(wrId), new Sge(Region.Iova + offset, length, Region.Key)));

    public void Post(
        ulong wrId,
        WorkRequestOpcode opcode,
        ulong offset,
        uint length,
        SendFlags flags = SendFlags.Signaled,
        uint? key = null) =>
        Assert.Equal(Core.Errno.Success, Pair.PostSend(
            new SendWorkRequest
            {
                WrId = wrId,
                Opcode = opcode,
                Flags = flags,
                RemoteAddress = 0x2000_0000,
                RKey = 0x1234,
                Immediate = 0xCAFE_F00D,
            },
            new Sge(Region.Iova + offset, length, key ?? Region.Key)));

    /// <summary>Memory must be as it was made: all zero.</summary>
    public void ExpectUntouched() => Assert.All(Memory.Read(0, MemoryBytes), b => Assert.Equal(0, b));

    private void Collect()
    {
        while (Node.Port.PollTransmit(Now, _buffer, out Transmit transmit))
        {
            for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes)
            {
                _sent.Enqueue(_buffer.AsSpan(at, Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at)).ToArray());
            }
        }
    }
}
