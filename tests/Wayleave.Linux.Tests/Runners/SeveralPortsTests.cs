using System.Collections.Concurrent;
using System.Net;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Perftest;
using Wayleave.Host.Transfers;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>A NIC with two addresses, each a port with a socket of its own.</summary>
public sealed class SeveralPortsTests
{
    private const int Bytes = 1 << 20;
    private const int Writes = 64;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    private static readonly string[] s_cable =
    [
        "link set lo up",
        "link add wl0 type veth peer name wl1",
        "addr add 192.0.2.1/24 dev wl0",
        "link set wl1 up",
        "link set wl0 up",
    ];

    [Theory(Timeout = Patience.TestMs)]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Queue_pairs_of_one_NIC_write_over_both_ports_and_one_that_is_down_holds_up_its_own(bool isDown)
    {
        await using WayleaveHost a = await StartAsync("127.0.0.2", "127.0.0.12");
        await using WayleaveHost b = await StartAsync("127.0.0.3", "127.0.0.13");
        await using End source = await End.OpenAsync(a);
        await using End target = await End.OpenAsync(b);
        source.Memory.Bytes(0, Bytes).Fill(0x5A);
        QueuePair[] pairs = [.. Enumerable.Range(1, 2).Select(port => Connect(source, target, port))];
        if (isDown)
        {
            b.Nics[0].Driver.WithToken(() => b.Nics[0].Device.Port.SetPortState(2, PortState.Down));
        }

        for (int i = 0; i < Writes; i++)
        {
            foreach (QueuePair pair in pairs)
            {
                Post(pair, source, target, (ulong)i);
            }
        }

        int[] done = new int[2];
        WorkCompletion[] found = new WorkCompletion[16];
        Assert.True(
            SpinWait.SpinUntil(
                () =>
                {
                    source.Nic.Driver.TryProgress();
                    foreach (WorkCompletion completion in found.AsSpan(0, source.Completions.Poll(found)))
                    {
                        Assert.Equal(WorkCompletionStatus.Success, completion.Status);
                        done[completion.QpNumber == pairs[0].QpNumber ? 0 : 1]++;
                    }

                    return done[0] == Writes && (done[1] == Writes || isDown);
                },
                Patience.Max),
            $"{done[0]} and {done[1]} of {Writes}");
        Assert.Equal(-1, target.Memory.Bytes(0, Bytes).IndexOfAnyExcept((byte)0x5A));
        for (int port = 0; port < 2; port++)
        {
            long received = target.Nic.Ports[port].Link.Counters.BytesReceived;
            bool carries = port == 0 || !isDown;
            Assert.True(carries ? received > Writes * (long)Bytes : done[port] == 0, $"port {port + 1}: {received}");
        }
    }

    // By number, or by themselves when the cable of port 1 is pulled.
    [Theory(Timeout = Patience.TestMs)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_lease_and_what_is_transferred_under_it_go_over_port_2(bool isNamed)
    {
        await using WayleaveHost owner = await StartAsync("127.0.0.2", "127.0.0.12");
        await using WayleaveHost user = await StartAsync("127.0.0.3", "127.0.0.13");
        if (!isNamed)
        {
            foreach (NicHandle nic in (NicHandle[])[owner.Nics[0], user.Nics[0]])
            {
                nic.Driver.WithToken(() => nic.Device.Port.SetPortState(1, PortState.Down));
            }
        }

        DeviceObject lent = await owner.Objects.CreateAsync("gpu0", "lent", Bytes, StorageKind.Movable, Cancellation);
        DeviceObject local = await user.Objects.CreateAsync("gpu0", "local", Bytes, StorageKind.Movable, Cancellation);
        await using Connection connection = await Connection.OpenAsync(
            user.Nics[0], local, port: isNamed ? 2 : null);
        Lease lease = await owner.Leases.LendAsync(
            lent,
            new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, connection.Local) { Port = isNamed ? 2 : null });
        connection.Connect(lease.Local);
        Assert.Equal("127.0.0.12", lease.Local.Gid.ToString());
        Assert.Equal("127.0.0.13", connection.Local.Gid.ToString());
        BulkTransfer transfer = new(
            user.Nics[0].Driver, connection.QueuePair, connection.Completions, user.Context)
        {
            StallMax = Patience.Max,
        };
        WorkCompletionStatus status = await Task.Run(() => transfer.Run(
            BulkDirection.Write,
            new BulkRange(0, connection.Region.Key, lease.Region.Iova, lease.Region.Key, Bytes),
            Cancellation));
        Assert.Equal(WorkCompletionStatus.Success, status);
        Assert.True(owner.Nics[0].Ports[1].Link.Counters.BytesReceived > Bytes);
        Assert.Equal(0, owner.Nics[0].Ports[0].Link.Counters.BytesReceived);
        await owner.Leases.EndAsync(lease);
    }

    [Fact]
    public async Task A_lease_over_a_port_that_a_NIC_does_not_have_is_refused()
    {
        await using WayleaveHost owner = await StartAsync("127.0.0.2", "127.0.0.12");
        DeviceObject lent = await owner.Objects.CreateAsync("gpu0", "lent", Bytes, StorageKind.Movable, Cancellation);
        NicHandle nic = owner.Nics[0];
        QueuePair pair = nic.CreateQueuePair(nic.Device.CreateProtectionDomain(), nic.PassiveCompletions);
        ConnectionEnd peer = nic.DescribeEnd(pair, 1);
        LeaseRequest request = new(LeaseAccess.Write, ImporterKind.Dynamic, peer);
        foreach (int port in (int[])[0, 3])
        {
            WayleaveException refused = await Assert.ThrowsAsync<WayleaveException>(
                () => owner.Leases.LendAsync(lent, request with { Port = port }));
            Assert.Equal(Errno.EINVAL, refused.Errno);
        }
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task Connections_by_address_are_made_over_each_port()
    {
        string[] listening = [Loopback.NextAddress(), Loopback.NextAddress()];
        await using WayleaveHost a = await StartAsync(
            Loopback.NextAddress(), Loopback.NextAddress(), AddressVector.RoceUdpPort);
        await using WayleaveHost b = await StartAsync(listening[0], listening[1], AddressVector.RoceUdpPort);
        (NicHandle active, NicHandle passive) = (a.Nics[0], b.Nics[0]);
        for (int port = 1; port <= 2; port++)
        {
            using RdmaListener listener = passive.ConnectionsOf(port).Listen(7000);
            ProtectionDomain domain = active.Device.CreateProtectionDomain();
            QueuePair one = active.CreateQueuePair(domain, active.CreateCompletionQueue(8));
            QueuePair other = passive.CreateQueuePair(
                passive.Device.CreateProtectionDomain(), passive.CreateCompletionQueue(8));
            Task<RdmaConnection> connecting = active.ConnectionsOf(port).ConnectAsync(
                new IPEndPoint(IPAddress.Parse(listening[port - 1]), 7000),
                one,
                cancellation: Cancellation);
            RdmaConnectionRequest request = await listener.AcceptAsync(Cancellation);
            await using RdmaConnection accepted = await request.AcceptAsync(other, cancellation: Cancellation);
            await using RdmaConnection made = await connecting;
            Assert.Equal((QueuePairState.ReadyToSend, QueuePairState.ReadyToSend), (one.State, other.State));
            Assert.True(passive.Ports[port - 1].Link.Counters.PacketsReceived > 0);
            Assert.Equal(port == 1, passive.Ports[1].Link.Counters.PacketsReceived == 0);
        }
    }

    [Fact]
    public void A_cable_that_is_pulled_and_comes_back_is_an_event_of_its_port() => NetworkNamespace.Run(s_cable, () =>
    {
        // The sockets are bound on this thread, whose namespace has the cable.
#pragma warning disable xUnit1031 // the namespace is this thread's
        WayleaveHost host = StartAsync("127.0.0.2", "192.0.2.1").GetAwaiter().GetResult();
        try
        {
            NicHandle nic = host.Nics[0];
            Assert.Equal(["lo", "wl0"], nic.Ports.Select(p => p.InterfaceName));
            ConcurrentQueue<AsyncEvent> events = [];
            nic.Driver.EventRaised = events.Enqueue;
            Assert.Null(NetworkNamespace.Ip("link set wl1 down"));
            Assert.True(SpinWait.SpinUntil(() => !events.IsEmpty, Patience.Max));
            Assert.Equal((PortState.Active, PortState.Down), (nic.Ports[0].Link.State, nic.Ports[1].Link.State));
            Assert.Null(NetworkNamespace.Ip("link set wl1 up"));
            Assert.True(SpinWait.SpinUntil(() => events.Count == 2, Patience.Max));
            Assert.Equal(
                [
                    new AsyncEvent(AsyncEventType.PortError, 0, Port: 2),
                    new AsyncEvent(AsyncEventType.PortActive, 0, Port: 2),
                ],
                events);
        }
        finally
        {
            host.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
#pragma warning restore xUnit1031
    });

    private static Task<WayleaveHost> StartAsync(string address, string further, int udpPort = 0) =>
        WayleaveHost.StartAsync(
            new HostConfig
            {
                Nics =
                [
                    new NicConfig
                    {
                        Address = IPAddress.Parse(address),
                        UdpPort = udpPort,
                        FurtherPorts = [new NicPortConfig { Address = IPAddress.Parse(further), UdpPort = udpPort }],
                    },
                ],
                Gpus = [new GpuConfig { VramBytes = 4 << 20, SystemPoolBytes = 4 << 20 }],
            },
            new WayleaveHostOptions());

    private static QueuePair Connect(End source, End target, int port)
    {
        const AccessFlags Access = AccessFlags.RemoteWrite;
        QueuePair a = source.Nic.CreateQueuePair(source.Region.Domain, source.Completions);
        QueuePair b = target.Nic.CreateQueuePair(target.Region.Domain, target.Completions);
        (uint psnOfA, uint psnOfB) = (source.Nic.ChoosePsn(), target.Nic.ChoosePsn());
        source.Nic.Connect(a, target.Nic.DescribeEnd(b, psnOfB, port), Access, psnOfA, port);
        target.Nic.Connect(b, source.Nic.DescribeEnd(a, psnOfA, port), Access, psnOfB, port);
        return a;
    }

    private static void Post(QueuePair pair, End source, End target, ulong wrId)
    {
        SendWorkRequest write = new()
        {
            WrId = wrId,
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = SendFlags.Signaled,
            RKey = target.Region.Key,
        };
        Assert.Equal(Errno.Success, pair.PostSend(write, new Sge(0, Bytes, source.Region.Key)));
    }

    /// <summary>A host's memory, registered.</summary>
    private sealed class End(NicHandle nic, PerftestMemory memory) : IAsyncDisposable
    {
        public NicHandle Nic => nic;

        public PerftestMemory Memory => memory;

        public MemoryRegion Region => memory.Region;

        public CompletionQueue Completions { get; } = nic.CreateCompletionQueue(512);

        public static async Task<End> OpenAsync(WayleaveHost host)
        {
            NicHandle nic = host.Nics[0];
            return new End(nic, await PerftestMemory.OpenAsync(
                host,
                nic,
                "memory",
                Bytes,
                AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
                nic.Device.CreateProtectionDomain()));
        }

        public async ValueTask DisposeAsync() => await memory.CloseAsync();
    }
}
