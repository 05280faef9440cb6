using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs;
using Wayleave.Linux.Tests.Linux;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>Groups of a port that runs: their sockets come and go beside its engine.</summary>
public sealed class MulticastPortTests
{
    private const uint QKey = 0x1111;
    private static readonly Gid s_group = Gid.FromIPv4(0xEF4D0201);

    // An engine that is not woken would sleep for an hour.
    private static readonly PortDriverOptions s_sleepy =
        new() { EngineIdleSpin = TimeSpan.Zero, EngineSleepMax = TimeSpan.FromHours(1) };

    [Fact]
    public void An_engine_that_sleeps_hears_of_a_group_that_was_joined_meanwhile()
    {
        using Node sender = new(Loopback.NextAddress(), new() { HasEngine = false });
        using Node receiver = new(Loopback.NextAddress(), s_sleepy);
        Assert.Equal(Errno.Success, receiver.Driver.Attach(receiver.Pair, s_group));
        for (int i = 0; i < 5; i++)
        {
            sender.SendToGroup(s_group, receiver.UdpPort);
            receiver.Await(1); // by nobody but the engine
        }

        Assert.Equal(1, receiver.CountSockets(s_group));
        Assert.Equal(Errno.Success, receiver.Driver.Detach(receiver.Pair, s_group));
        receiver.AwaitNoSocket(s_group);
        Assert.Equal(Errno.EINVAL, receiver.Driver.Detach(receiver.Pair, s_group));
    }

    [Fact]
    public void Several_devices_of_a_machine_are_in_one_group()
    {
        // Which all of them have to do on the same UDP port, as two hosts would.
        string one = Loopback.NextAddress(), two = Loopback.NextAddress();
        using Node a = new(one, s_sleepy, AddressVector.RoceUdpPort), b = new(two, s_sleepy, AddressVector.RoceUdpPort);
        Assert.All([a, b], n => Assert.Equal(Errno.Success, n.Driver.Attach(n.Pair, s_group)));
        a.SendToGroup(s_group, AddressVector.RoceUdpPort);
        a.Await(1); // its own copy
        b.Await(1);
        Assert.Equal(2, a.CountSockets(s_group));
    }

    [Fact]
    public void A_port_can_be_in_more_groups_than_one_sleep_watches_sockets()
    {
        const int Groups = 3 * UdpEndpoint.WaitMax;
        using Node node = new(Loopback.NextAddress(), s_sleepy);
        for (uint i = 0; i < Groups; i++)
        {
            Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, Gid.FromIPv4(0xEF4D1000 + i)));
        }

        for (uint i = 0; i < Groups; i++)
        {
            node.SendToGroup(Gid.FromIPv4(0xEF4D1000 + i), node.UdpPort);
            node.Await(1);
        }

        Assert.Equal(Groups, node.Pair.GroupCount);
        node.Driver.Dispose(); // with all of them
        node.AwaitNoSocket(Gid.FromIPv4(0xEF4D1000));
    }

    [Fact]
    public async Task Groups_come_and_go_while_datagrams_come_and_engine_and_application_drive()
    {
        using Node node = new(Loopback.NextAddress(), new() { EngineIdleSpin = TimeSpan.Zero });
        using Node sender = new(Loopback.NextAddress(), new() { HasEngine = false });
        Gid stays = Gid.FromIPv4(0xEF4D0301);
        Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, stays));
        Task changer = Task.Run(
            () =>
            {
                for (uint i = 0; i < 300; i++)
                {
                    Gid group = Gid.FromIPv4(0xEF4D0400 + (i % 7));
                    Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, group));
                    sender.SendToGroup(group, node.UdpPort);
                    Assert.Equal(Errno.Success, node.Driver.Detach(node.Pair, group));
                }
            },
            TestContext.Current.CancellationToken);
        while (!changer.IsCompleted)
        {
            node.TakeAll();
        }

        await changer;
        node.TakeAll();
        sender.SendToGroup(stays, node.UdpPort);
        node.Await(1);
        Assert.Equal(1, node.Pair.GroupCount);
        Assert.Null(node.Driver.Failure);
    }

    [Fact]
    public void A_copy_of_the_socket_of_a_group_that_was_left_does_not_end_the_engine()
    {
        // A forked child has one, however little it does with it.
        using Node sender = new(Loopback.NextAddress(), new() { HasEngine = false });
        using Node receiver = new(Loopback.NextAddress(), s_sleepy);
        Gid left = Gid.FromIPv4(0xEF4D0501), stays = Gid.FromIPv4(0xEF4D0502);
        Assert.Equal(Errno.Success, receiver.Driver.Attach(receiver.Pair, left));
        using Socket copy = SocketCopies.Of(new EndpointAddress(left.High, left.Low, receiver.UdpPort));
        Assert.Equal(Errno.Success, receiver.Driver.Detach(receiver.Pair, left));
        sender.SendToGroup(left, receiver.UdpPort);
        Assert.Equal(Errno.Success, receiver.Driver.Attach(receiver.Pair, stays)); // which wakes it
        for (int i = 0; i < 3; i++)
        {
            sender.SendToGroup(left, receiver.UdpPort);
            sender.SendToGroup(stays, receiver.UdpPort);
            receiver.Await(1);
        }

        Assert.Null(receiver.Driver.Failure);
    }

    [Fact]
    public void A_queue_pair_is_not_attached_to_a_group_whose_socket_could_not_be_made()
    {
        using Node node = new(Loopback.NextAddress(), s_sleepy);
        using UdpEndpoint other = UdpEndpoint.Bind(EndpointAddress.From(IPAddress.IPv6Loopback, 0));
        using GroupSockets sockets = new(node.Port, [other], [null], new byte[UdpEndpoint.SuperPacketBytesMax]);
        node.Driver.WithToken(
            () => Assert.Throws<ArgumentException>(() => sockets.Attach(node.Pair, s_group))); // and no LinuxException
        Assert.Equal(0, node.Pair.GroupCount);
        Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, s_group));
        Assert.Equal(1, node.CountSockets(s_group));
    }

    [Fact]
    public void A_turn_is_as_long_with_many_groups_as_with_one_and_each_has_its_turn()
    {
        const int Groups = 8, Each = 6, Most = 4;
        using Node sender = new(Loopback.NextAddress(), new() { HasEngine = false });
        using Node node = new(Loopback.NextAddress(), new() { HasEngine = false, BatchSuperPackets = Most });
        List<int> turns = [];
        node.Driver.TurnEnded = () => turns.Add(node.Destinations.Count);
        for (uint i = 0; i < Groups; i++)
        {
            Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, Gid.FromIPv4(0xEF4D0600 + i)));
        }

        for (uint i = 0; i < Groups * Each; i++)
        {
            sender.SendToGroup(Gid.FromIPv4(0xEF4D0600 + (i / Each)), node.UdpPort);
        }

        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                node.TakeAll();
                return node.Destinations.Count == Groups * Each;
            },
            Patience.Max));
        Assert.All(turns.Zip(turns.Skip(1)), pair => Assert.InRange(pair.Second - pair.First, 0, Most));
        Assert.Equal(Groups, node.Destinations.Take(Groups).Distinct().Count());
    }

    [Fact]
    public void A_capture_has_the_group_as_the_destination()
    {
        using Node node = new(Loopback.NextAddress(), s_sleepy);
        Assert.Equal(Errno.Success, node.Driver.Attach(node.Pair, s_group));
        node.SendToGroup(s_group, node.UdpPort);
        node.Await(1);
        Assert.Equal([s_group], node.Destinations);
    }

    /// <summary>A port with one queue pair of datagrams, whose receives are posted again when they are taken.</summary>
    private sealed class Node : IDisposable, IKeySource, IDatagramTap
    {
        private const int Receives = 16, ReceiveBytes = 64;

        private readonly RdmaDevice _device;
        private readonly HostContext _host = new(TimeProvider.System);
        private readonly CompletionQueue _completions;
        private readonly CompletionQueue _sends;
        private readonly ProtectionDomain _domain;
        private readonly MemoryRegion _region;
        private readonly byte[] _memory = GC.AllocateArray<byte>(Receives * ReceiveBytes, pinned: true);
        private readonly WorkCompletion[] _found = new WorkCompletion[Receives];
        private int _key;

        public Node(string address, PortDriverOptions options, ushort udpPort = 0)
        {
            UdpEndpoint endpoint = UdpEndpoint.Bind(EndpointAddress.From(IPAddress.Parse(address), udpPort));
            UdpPort = endpoint.LocalAddress.Port;
            PciFabric fabric = new();
            _device = new RdmaDevice(
                _host,
                fabric,
                new PciFunction("0000:01:00.0", "nic"),
                new RdmaDeviceOptions
                {
                    Gid = new Gid(endpoint.LocalAddress.High, endpoint.LocalAddress.Low),
                    UdpPort = UdpPort,
                },
                this);
            _domain = _device.CreateProtectionDomain();
            Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(256, out CompletionQueue? completions));
            _completions = completions!;
            Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(256, out CompletionQueue? sends));
            _sends = sends!;
            UserSpace space = new(_host, fabric, _device);
            ulong start = (ulong)Marshal.UnsafeAddrOfPinnedArrayElement(_memory, 0);
            Errno registered = space.TryRegister(
                _domain, start, Receives * ReceiveBytes, start, AccessFlags.LocalWrite, out MemoryRegion? region);
            Assert.Equal(Errno.Success, registered);
            _region = region!;
            Driver = new PortDriver(_device.Port, endpoint, _host, options, this);
            QueuePair? pair = null;
            Driver.WithToken(() =>
            {
                QueuePairRequest request = new(_domain, _sends, _completions, new())
                {
                    Type = QueuePairType.UnreliableDatagram,
                };
                Assert.Equal(Errno.Success, _device.TryCreateQueuePair(request, out pair));
                Modify(pair!, QueuePairState.Init);
                Modify(pair!, QueuePairState.ReadyToReceive);
                Modify(pair!, QueuePairState.ReadyToSend);
            });
            Pair = pair!;
            for (int i = 0; i < Receives; i++)
            {
                Receive((ulong)i);
            }
        }

        public PortDriver Driver { get; }

        public RdmaPort Port => _device.Port;

        public QueuePair Pair { get; }

        public ushort UdpPort { get; }

        /// <summary>Of what has come.</summary>
        public List<Gid> Destinations { get; } = [];

        public void SendToGroup(Gid group, ushort udpPort)
        {
            AddressHandle? to = null;
            Driver.WithToken(() => Assert.Equal(Errno.Success, _device.TryCreateAddressHandle(
                _domain, new AddressVector(group, udpPort), out to)));
            Errno errno = Pair.PostSendInline(
                new SendWorkRequest
                {
                    Opcode = WorkRequestOpcode.Send,
                    Flags = SendFlags.Signaled,
                    AddressHandle = to,
                    RemoteQpNumber = 0xFFFFFF,
                    RemoteQKey = QKey,
                },
                [1, 2, 3, 4]);
            Assert.Equal(Errno.Success, errno);
            WorkCompletion[] sent = new WorkCompletion[1];
            Assert.True(SpinWait.SpinUntil(
                () =>
                {
                    Driver.ProgressAfterPost();
                    return _sends.Poll(sent) == 1;
                },
                Patience.Max));
            Driver.WithToken(() => _device.DestroyAddressHandle(to!));
        }

        /// <summary>Only looks: somebody else has to bring it.</summary>
        public void Await(int receives) => Assert.True(SpinWait.SpinUntil(
            () => (receives -= Take()) == 0, Patience.Max));

        public void TakeAll()
        {
            do
            {
                Driver.TryProgress();
            }
            while (Take() > 0);
        }

        /// <summary>Of this machine, on this UDP port.</summary>
        public int CountSockets(Gid group)
        {
            string row = string.Create(
                CultureInfo.InvariantCulture,
                $" {System.Buffers.Binary.BinaryPrimitives.ReverseEndianness(group.IPv4):X8}:{UdpPort:X4} ");
            return File.ReadLines("/proc/net/udp").Count(l => l.Contains(row, StringComparison.Ordinal));
        }

        /// <summary>A process that another test starts has copies until it is another program.</summary>
        public void AwaitNoSocket(Gid group) => Assert.True(SpinWait.SpinUntil(
            () => CountSockets(group) == 0, Patience.Max));

        public uint NextUInt32() => (uint)Interlocked.Increment(ref _key) * 0x100;

        public void Sent(
            Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
        {
        }

        public void Received(
            Gid source,
            ushort sourcePort,
            Gid destination,
            ReadOnlySpan<byte> bytes,
            int segmentBytes,
            TimeSpan now) => Destinations.Add(destination);

        public void Dispose() => Driver.Dispose();

        private int Take()
        {
            int count = _completions.Poll(_found);
            foreach (WorkCompletion completion in _found.AsSpan(0, count))
            {
                Assert.Equal(
                    (WorkCompletionStatus.Success, 44u), (completion.Status, completion.ByteLength));
                Receive(completion.WrId);
            }

            return count;
        }

        private void Receive(ulong slot) => Assert.Equal(Errno.Success, Pair.PostReceive(
            new ReceiveWorkRequest(slot),
            new Sge(_region.Iova + (slot * ReceiveBytes), ReceiveBytes, _region.Key)));

        private static void Modify(QueuePair pair, QueuePairState state)
        {
            QueuePairTransitions.TryGet(
                pair.State, state, pair.Type, out QueuePairAttributeMask required, out _);
            Assert.Equal(Errno.Success, pair.Modify(
                new QueuePairAttributes { State = state, QKey = QKey }, required | QueuePairAttributeMask.State));
        }
    }
}
