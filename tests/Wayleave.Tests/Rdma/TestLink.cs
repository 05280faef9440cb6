using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>
/// Two nodes and the wire between them. Time moves only when told; a datagram is delivered when <see cref="Step"/> says
/// so, unless <see cref="Filter"/> takes it away.
/// </summary>
internal sealed class TestLink
{
    private readonly byte[] _buffer = GC.AllocateArray<byte>(65536, pinned: true);

    public TestLink(
        Func<RdmaDeviceOptions, RdmaDeviceOptions>? configureA = null,
        Func<RdmaDeviceOptions, RdmaDeviceOptions>? configureB = null,
        string addressA = "10.77.0.1",
        string addressB = "10.77.0.2")
    {
        A = new TestNode(addressA, 1, configureA);
        B = new TestNode(addressB, 2, configureB);
    }

    public TestNode A { get; }

    public TestNode B { get; }

    public TimeSpan Now { get; private set; } = TimeSpan.FromSeconds(1);

    /// <summary>Called for every datagram, with the sender and the packet; false loses it.</summary>
    public Func<TestNode, ReadOnlyMemory<byte>, bool>? Filter { get; set; }

    /// <summary>Names of all packets, in the order they were sent: <c>A RC_WRITE_FIRST a00000</c>.</summary>
    public List<string> Log { get; } = [];

    /// <summary>A queue pair on each side, connected.</summary>
    public (QueuePair A, QueuePair B) Connect(
        Func<QueuePairAttributes, QueuePairAttributes>? configureA = null,
        Func<QueuePairAttributes, QueuePairAttributes>? configureB = null,
        QueuePairCapabilities? capabilities = null,
        IcrcMode icrc = IcrcMode.OwnIdentification,
        int depth = 256)
    {
        QueuePair a = A.CreatePair(TestNode.CreateCompletionQueue(depth), capabilities);
        QueuePair b = B.CreatePair(TestNode.CreateCompletionQueue(depth), capabilities);
        QueuePairAttributes defaults = new Connection().Attributes;
        QueuePairAttributes ofA = defaults with
        {
            AddressVector = new AddressVector(B.Gid, Icrc: icrc),
            DestQpNumber = b.QpNumber,
        };
        QueuePairAttributes ofB = defaults with
        {
            AddressVector = new AddressVector(A.Gid, Icrc: icrc),
            DestQpNumber = a.QpNumber,
            SqPsn = defaults.RqPsn,
            RqPsn = defaults.SqPsn,
        };
        new Connection { Attributes = configureA?.Invoke(ofA) ?? ofA }.Apply(a);
        new Connection { Attributes = configureB?.Invoke(ofB) ?? ofB }.Apply(b);
        return (a, b);
    }

    /// <summary>Carries packets both ways until nobody sends any more. Time stands still.</summary>
    public void Run()
    {
        while (Step(A, B) | Step(B, A))
        {
        }
    }

    /// <summary>Moves time on, in one jump, and lets the timers act.</summary>
    public void Advance(TimeSpan by)
    {
        Now += by;
        A.Clock.Advance(by);
        B.Clock.Advance(by);
        A.Port.HandleTimeout(Now);
        B.Port.HandleTimeout(Now);
    }

    /// <summary>
    /// Jumps from deadline to deadline until nothing is sent and no timer runs, or until so much time has passed.
    /// </summary>
    public void RunFor(TimeSpan limit)
    {
        TimeSpan end = Now + limit;
        Run();
        while (NextDeadline is { } next && next <= end)
        {
            Advance(next > Now ? next - Now : TimeSpan.FromTicks(1));
            Run();
        }

        if (Now < end)
        {
            Advance(end - Now);
            Run();
        }
    }

    public TimeSpan? NextDeadline =>
        (A.Port.NextDeadline, B.Port.NextDeadline) switch
        {
            ({ } a, { } b) => a < b ? a : b,
            ({ } a, null) => a,
            (null, { } b) => b,
            _ => null,
        };

    /// <summary>
    /// Sends everything that a node has to send, and delivers it packet by packet, or batch by batch without a filter.
    /// </summary>
    public bool Step(TestNode from, TestNode to)
    {
        bool any = false;
        while (from.Port.PollTransmit(Now, _buffer, out Transmit transmit))
        {
            any = true;
            Assert.Contains(to.Port.Links, l => l.Gid == transmit.Destination);
            Deliver(from, to, transmit);
        }

        return any;
    }

    private void Deliver(TestNode from, TestNode to, in Transmit transmit)
    {
        bool whole = Filter is null;
        PortLink left = from.Port.Links[transmit.Port - 1];
        Gid destination = transmit.Destination;
        int port = to.Port.Links.Single(l => l.Gid == destination).Number;
        ushort identification = 0;
        for (int at = 0; at < transmit.LengthBytes; at += transmit.SegmentBytes, identification++)
        {
            int length = Math.Min(transmit.SegmentBytes, transmit.LengthBytes - at);
            ReadOnlyMemory<byte> packet = _buffer.AsMemory(at, length);
            Log.Add($"{(ReferenceEquals(from, A) ? 'A' : 'B')} {Describe(packet.Span)}");
            if (!whole && Filter!(from, packet))
            {
                to.Port.HandleDatagrams(
                    left.Gid, left.UdpPort, packet.Span, length, 0, Now, identification, port);
            }
        }

        if (whole)
        {
            to.Port.HandleDatagrams(
                left.Gid,
                left.UdpPort,
                _buffer.AsSpan(0, transmit.LengthBytes),
                transmit.SegmentBytes,
                trafficClass: 0,
                Now,
                port: port);
        }
    }

    public static string Describe(ReadOnlySpan<byte> bytes)
    {
        Assert.Equal(DropReason.None, PacketView.TryParse(bytes, out PacketView packet));
        string text = $"{OpcodeTraits.NameOf(packet.Opcode)} {packet.Psn:x6}";
        if (packet.Traits.Has(ExtensionHeaders.Aeth))
        {
            text += $" {packet.Aeth.Syndrome:x2} msn={packet.Aeth.Msn}";
        }

        return packet.AckRequest ? text + " A" : text;
    }
}
