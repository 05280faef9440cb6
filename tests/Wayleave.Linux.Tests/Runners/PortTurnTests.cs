using System.Net;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux.Tests.Linux;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>What a turn leaves behind is done by somebody: the socket was full, or the application went away.</summary>
public sealed class PortTurnTests
{
    // A driver that sleeps on would sleep for an hour.

    // Nobody answers for 192.0.2.2: what is sent queues behind the address resolution and fills the socket.
    private static readonly string[] s_deadEnd =
    [
        "link add wl0 type veth peer name wl1",
        "addr add 192.0.2.1/24 dev wl0",
        "link set wl1 up",
        "link set wl0 up",
    ];

    [Fact]
    public void A_turn_ends_when_the_socket_is_full_although_a_doorbell_rings() => NetworkNamespace.Run(s_deadEnd, () =>
    {
        using DeadEnd end = new(new PortDriverOptions { HasEngine = false });
        end.FillSocket();
        end.Post();
        Assert.True(end.Port.HasDoorbell);
        Assert.False(end.Driver.TryProgress());
        Assert.Equal(2, end.Driver.SendStalls);
    });

    [Fact]
    public void The_engine_sends_what_the_socket_did_not_take_as_soon_as_there_is_room() =>
        NetworkNamespace.Run(s_deadEnd, () =>
        {
            using DeadEnd end = new(
                new PortDriverOptions { EngineIdleSpin = TimeSpan.Zero, EngineSleepMax = TimeSpan.FromHours(1) });
            end.FillSocket();
            int sent = end.Sent;
            Assert.Null(NetworkNamespace.Ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:02 dev wl0"));
            Assert.True(SpinWait.SpinUntil(() => end.Sent > sent, Patience.Max));
        });

    [Fact]
    public void An_acknowledgement_that_waited_for_the_application_is_sent_when_it_does_not_come_back()
    {
        PortDriverOptions sleepy = new() { EngineIdleSpin = TimeSpan.Zero, EngineSleepMax = TimeSpan.FromHours(1) };
        using Node a = new("127.0.0.2", new PortDriverOptions { HasEngine = false });
        using Node b = new("127.0.0.3", sleepy);
        a.Connect(b);
        b.Connect(a);
        for (int i = 1; i <= 300; i++)
        {
            // An empty WRITE needs no key. The target's application looks until it is there, and no longer.
            a.Post([]);
            a.Driver.TryProgress();
            long received = i;
            Assert.True(SpinWait.SpinUntil(
                () =>
                {
                    b.Driver.TryProgress();
                    return b.Port.Stats.PacketsReceived >= received;
                },
                Patience.Max));
            Assert.True(SpinWait.SpinUntil(() => a.TryComplete(), Patience.Max), $"no acknowledgement for WRITE {i}");
        }
    }

    [Fact]
    public void Nobody_begins_another_turn_while_control_work_waits_for_the_token()
    {
        // One super-packet a turn, and another request is posted while the first is being sent: the thread that sends
        // would go on with that at once.
        using Node a = new("127.0.0.2", new PortDriverOptions { HasEngine = false, BatchSuperPackets = 1 });
        using Node b = new("127.0.0.3", new PortDriverOptions { HasEngine = false });
        a.Connect(b);
        b.Connect(a);
        int sentBefore = -1;
        Thread control = new(() => a.Driver.WithToken(() => sentBefore = a.Sent));
        bool waited = false;
        a.HandleSent = () =>
        {
            a.HandleSent = null;
            control.Start();
            waited = SpinWait.SpinUntil(() => a.Driver.ControlWaiters == 1, Patience.Max);
            a.Post([]);
        };
        a.Post([]);
        a.Driver.TryProgress();
        control.Join();
        Assert.True(waited);
        Assert.Equal(1, sentBefore);
        Assert.Equal(2, a.Sent); // what was left to whoever had the token is not forgotten
    }

    /// <summary>A port with one queue pair, its driver, and nothing else.</summary>
    private class Node : IDisposable, IKeySource, IDatagramTap
    {
        private readonly RdmaDevice _device;
        private readonly CompletionQueue _completions;
        private readonly QueuePair _pair;
        private readonly Gid _gid;
        private readonly ushort _udpPort;
        private uint _key;
        private int _sent;

        public Node(string address, PortDriverOptions options, int? sendBufferBytes = null)
        {
            UdpEndpoint endpoint = UdpEndpoint.Bind(
                EndpointAddress.From(IPAddress.Parse(address), 0), new() { SendBufferBytes = sendBufferBytes });
            _gid = new Gid(endpoint.LocalAddress.High, endpoint.LocalAddress.Low);
            _udpPort = endpoint.LocalAddress.Port;
            HostContext host = new(TimeProvider.System);
            _device = new RdmaDevice(
                host,
                new PciFabric(),
                new PciFunction("0000:01:00.0", "nic"),
                new RdmaDeviceOptions { Gid = _gid, UdpPort = _udpPort },
                this);
            Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(256, out CompletionQueue? completions));
            _completions = completions!;
            _pair = CreatePair();
            Driver = new PortDriver(_device.Port, endpoint, host, options, this);
        }

        public PortDriver Driver { get; }

        public RdmaPort Port => _device.Port;

        public int Sent => Volatile.Read(ref _sent);

        /// <summary>Runs under the token, behind each super-packet that was sent.</summary>
        public Action? HandleSent { get; set; }

        public void Connect(Node peer) => Connect(peer._gid, peer._udpPort, peer._pair.QpNumber);

        public void Post(ReadOnlySpan<byte> data) => Assert.Equal(
            Errno.Success,
            _pair.PostSendInline(
                new SendWorkRequest { Opcode = WorkRequestOpcode.RdmaWrite, Flags = SendFlags.Signaled }, data));

        public bool TryComplete()
        {
            Driver.TryProgress();
            WorkCompletion[] found = new WorkCompletion[1];
            return _completions.Poll(found) == 1;
        }

        public uint NextUInt32() => ++_key;

        void IDatagramTap.Sent(
            Gid destination, ushort destinationPort, ReadOnlySpan<byte> bytes, int segmentBytes, TimeSpan now)
        {
            Interlocked.Increment(ref _sent);
            HandleSent?.Invoke();
        }

        public void Received(
            Gid source,
            ushort sourcePort,
            Gid destination,
            ReadOnlySpan<byte> bytes,
            int segmentBytes,
            TimeSpan now)
        {
        }

        public void Dispose() => Driver.Dispose();

        protected void Connect(Gid gid, ushort udpPort, uint qpNumber)
        {
            QueuePairAttributes attributes = new()
            {
                AccessFlags = AccessFlags.RemoteWrite,
                AddressVector = new AddressVector(gid, udpPort),
                PathMtu = PathMtu.Mtu1024,
                DestQpNumber = qpNumber,
                Timeout = 0,
            };
            Driver.WithToken(() =>
            {
                Modify(
                    QueuePairState.Init,
                    QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port
                        | QueuePairAttributeMask.AccessFlags);
                Modify(
                    QueuePairState.ReadyToReceive,
                    QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
                        | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn
                        | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer);
                Modify(
                    QueuePairState.ReadyToSend,
                    QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount
                        | QueuePairAttributeMask.RnrRetry | QueuePairAttributeMask.SqPsn
                        | QueuePairAttributeMask.MaxRdAtomic);
            });

            void Modify(QueuePairState state, QueuePairAttributeMask mask) => Assert.Equal(
                Errno.Success, _pair.Modify(attributes with { State = state }, mask | QueuePairAttributeMask.State));
        }

        private QueuePair CreatePair()
        {
            while (!_device.Port.TryEnter())
            {
            }

            Errno errno = _device.TryCreateQueuePair(
                _device.CreateProtectionDomain(), _completions, _completions, new(), out QueuePair? pair);
            _device.Port.Exit();
            Assert.Equal(Errno.Success, errno);
            return pair!;
        }
    }

    private sealed class DeadEnd : Node
    {
        private static readonly byte[] s_data = new byte[64];

        public DeadEnd(PortDriverOptions options)
            : base("192.0.2.1", options, sendBufferBytes: 4096) =>
            Connect(Gid.FromIPv4(0xC0000202), 9, qpNumber: 7);

        public void Post() => Post(s_data);

        /// <summary>Sends until the socket takes no more: exactly one super-packet is left.</summary>
        public void FillSocket()
        {
            while (Driver.SendStalls == 0)
            {
                Post();
                Driver.TryProgress();
            }
        }
    }
}
