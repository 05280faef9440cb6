using System.Collections.Concurrent;
using System.Net;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Perftest;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>A NIC with two addresses, each a port with a socket of its own.</summary>
public sealed class SeveralPortsTests
{
    private const int Bytes = 1 << 20;
    private const int Writes = 64;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);

    private static readonly string[] s_cable =
    [
        "link set lo up",
        "link add wl0 type veth peer name wl1",
        "addr add 192.0.2.1/24 dev wl0",
        "link set wl1 up",
        "link set wl0 up",
    ];

    [Theory(Timeout = 120_000)]
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
                s_patience),
            $"{done[0]} and {done[1]} of {Writes}");
        Assert.Equal(-1, target.Memory.Bytes(0, Bytes).IndexOfAnyExcept((byte)0x5A));
        for (int port = 0; port < 2; port++)
        {
            long received = target.Nic.Ports[port].Link.Counters.BytesReceived;
            bool carries = port == 0 || !isDown;
            Assert.True(carries ? received > Writes * (long)Bytes : done[port] == 0, $"port {port + 1}: {received}");
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
            Assert.True(SpinWait.SpinUntil(() => !events.IsEmpty, s_patience));
            Assert.Equal((PortState.Active, PortState.Down), (nic.Ports[0].Link.State, nic.Ports[1].Link.State));
            Assert.Null(NetworkNamespace.Ip("link set wl1 up"));
            Assert.True(SpinWait.SpinUntil(() => events.Count == 2, s_patience));
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

    private static Task<WayleaveHost> StartAsync(string address, string further) => WayleaveHost.StartAsync(
        new HostConfig
        {
            Nics =
            [
                new NicConfig
                {
                    Address = IPAddress.Parse(address),
                    UdpPort = 0,
                    FurtherPorts = [new NicPortConfig { Address = IPAddress.Parse(further), UdpPort = 0 }],
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
