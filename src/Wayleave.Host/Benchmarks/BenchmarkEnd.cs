using System.Net;
using System.Runtime;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Ports;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// One side of a benchmark: a whole host with one GPU and one NIC, memory of it that is registered, and queue pairs.
/// Both sides are the same; what they do with it differs.
/// </summary>
internal sealed class BenchmarkEnd : IAsyncDisposable
{
    public const string GpuName = "gpu0";

    // Room for both buffers of a take-back besides the region.
    private const long SlackBytes = 64L << 20;

    private readonly WayleaveHost _host;
    private readonly QueuePair[] _all;
    private readonly uint[] _psns;
    private readonly DmaPort _processor;

    private BenchmarkEnd(
        WayleaveHost host,
        DeviceObject o,
        MemoryRegion region,
        CompletionQueue sends,
        CompletionQueue receives,
        CompletionQueue? besideSends,
        QueuePair[] pairs,
        int measured,
        uint[] psns)
    {
        (_host, Object, Region, Sends, Receives, _psns) = (host, o, region, sends, receives, psns);
        (BesideSends, _all, Pairs, BesidePairs) = (besideSends, pairs, pairs[..measured], pairs[measured..]);
        _processor = new DmaPort(host.Fabric.Processor);
    }

    public WayleaveHost Host => _host;

    public NicHandle Nic => _host.Nics[0];

    public DeviceObject Object { get; }

    public MemoryRegion Region { get; }

    public CompletionQueue Sends { get; }

    public CompletionQueue Receives { get; }

    /// <summary>What is measured.</summary>
    public QueuePair[] Pairs { get; }

    /// <summary>What is busy meanwhile.</summary>
    public QueuePair[] BesidePairs { get; }

    /// <summary>Where their sends complete; null if there are none.</summary>
    public CompletionQueue? BesideSends { get; }

    /// <summary>What the peer must know of this end.</summary>
    public EndMessage Message => new(
        [.. _all.Select((pair, i) => PairMessage.From(Nic.DescribeEnd(pair, _psns[i])))],
        Region.Key,
        Region.Iova,
        Region.LengthBytes);

    public static WayleaveHostOptions HostOptions(BenchmarkOptions options) => new()
    {
        Faults = options.Faults,
        Socket = options.SocketBufferBytes == 0
            ? new UdpEndpointOptions()
            : new UdpEndpointOptions
            {
                ReceiveBufferBytes = options.SocketBufferBytes,
                SendBufferBytes = options.SocketBufferBytes,
            },
    };

    /// <param name="options">What both ends have.</param>
    /// <param name="address">This end's.</param>
    /// <param name="engineProcessor">Where the thread that serves a sleeping application stays; null: anywhere.</param>
    public static async Task<BenchmarkEnd> OpenAsync(BenchmarkOptions options, string address, int? engineProcessor)
    {
        long granule = GpuConfig.GranuleBytes;
        long vram = (options.EffectiveRegionBytes + SlackBytes + granule - 1) / granule * granule;
        WayleaveHost host = await WayleaveHost.StartAsync(
            new HostConfig
            {
                Name = "bench",
                Gpus = [new GpuConfig { Name = GpuName, VramBytes = vram, SystemPoolBytes = 0 }],
                Nvmes = [],
                Nics =
                [
                    new NicConfig
                    {
                        Address = IPAddress.Parse(address),
                        UdpPort = 0,
                        PathMtuBytes = options.MtuBytes,
                        FirstsAhead = options.FirstsAhead,
                    },
                ],
            },
            HostOptions(options) with { Driver = new PortDriverOptions { EngineProcessor = engineProcessor } })
            .ConfigureAwait(false);
        try
        {
            NicHandle nic = host.Nics[0];
            DeviceObject o = await host.Objects.CreateAsync(
                GpuName, "region", (ulong)options.EffectiveRegionBytes, StorageKind.Movable).ConfigureAwait(false);
            ProtectionDomain domain = nic.Device.CreateProtectionDomain();
            MemoryRegion region = await nic.RegisterAsync(
                domain,
                o.Buffer,
                new MemoryRegionRequest(
                    0,
                    o.SizeBytes,
                    0,
                    AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead,
                    ImporterKind.Dynamic)).ConfigureAwait(false);

            // Touched once, as any memory that holds data: the first write to a page is not what is measured.
            await host.Objects.ForEachPieceAsync(o, (_, bytes) => bytes.Fill(0xA5)).ConfigureAwait(false);
            int entries = options.MeasuredDepth * options.QueuePairs;
            CompletionQueue sends = nic.CreateCompletionQueue(entries);
            CompletionQueue receives = nic.CreateCompletionQueue(entries);
            QueuePairCapabilities measured = new()
            {
                MaxSendWr = options.MeasuredDepth,
                MaxReceiveWr = options.MeasuredDepth,
            };
            QueuePairCapabilities beside = new() { MaxSendWr = options.Depth, MaxReceiveWr = options.Depth };
            CompletionQueue? besideSends =
                options.Beside == 0 ? null : nic.CreateCompletionQueue(options.Depth * options.Beside);
            QueuePair[] pairs = new QueuePair[options.QueuePairs + options.Beside];
            uint[] psns = new uint[pairs.Length];
            for (int i = 0; i < pairs.Length; i++)
            {
                pairs[i] = i < options.QueuePairs
                    ? nic.CreateQueuePair(domain, sends, receives, measured)
                    : nic.CreateQueuePair(domain, besideSends!, receives, beside);
                psns[i] = nic.ChoosePsn();
            }

            return new BenchmarkEnd(
                host, o, region, sends, receives, besideSends, pairs, options.QueuePairs, psns);
        }
        catch
        {
            await host.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Connects queue pair i with the peer's queue pair i.</summary>
    public void Connect(EndMessage peer)
    {
        for (int i = 0; i < _all.Length; i++)
        {
            Nic.Connect(_all[i], peer.Pairs[i].ToEnd(), AccessFlags.RemoteWrite | AccessFlags.RemoteRead, _psns[i]);
        }
    }

    /// <summary>
    /// The region's bytes as the processor sees them, from its start. Nobody moves this object, so the span stays valid
    /// until the end is disposed.
    /// </summary>
    public Span<byte> Bytes(int lengthBytes)
    {
        Span<byte> bytes = default;
        bool found = Object.Memory.Addresses.TryLocate(0, out DeviceAddress start, out ulong contiguous)
            && contiguous >= (ulong)lengthBytes
            && _processor.TryWrite(start, lengthBytes, out bytes) == Errno.Success;
        return found && bytes.Length == lengthBytes
            ? bytes
            : throw new InvalidOperationException($"the first {lengthBytes} bytes of {Object} are not in one piece");
    }

    public CounterSample Sample(long operations = 0, long bytes = 0)
    {
        ref readonly RdmaStats stats = ref Nic.Device.Port.Stats;
        return new CounterSample
        {
            AllocatedBytes = GC.GetTotalAllocatedBytes(precise: true),
            CompiledMethods = JitInfo.GetCompiledMethodCount(),
            Retransmits = stats.Retransmits,
            Timeouts = stats.Timeouts,
            Probes = stats.Probes,
            SequenceNaks = stats.NaksPsnSequenceSent,
            SocketDrops = Nic.ReadSocketStats().Drops,
            Operations = operations,
            Bytes = bytes,
        };
    }

    public ValueTask DisposeAsync() => _host.DisposeAsync();
}
