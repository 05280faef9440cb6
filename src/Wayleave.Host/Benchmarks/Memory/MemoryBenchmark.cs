using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks.Memory;

// One thread, in this process: what is measured is the model's own work, with real bytes. Fault is from the miss until
// the device's table has the page, the host lock included; migrate is the whole operation, and takes turns with plain
// copies of as many bytes between the same places; register is the pin and the list of addresses.

/// <summary>
/// Measures faults, migrations and registrations: <c>wayleave bench fault</c>, <c>migrate</c>, <c>register</c>.
/// </summary>
public sealed class MemoryBenchmark : IMirror, IDeviceMemoryDriver, IDisposable
{
    private const int Page = PageFrame.SizeBytes;

    private readonly MemoryBenchmarkOptions _options;
    private readonly HostContext _host = new(TimeProvider.System);
    private readonly PciFabric _fabric = new();
    private readonly MappedMemory _bytes;
    private readonly MemorySystem _memory;
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly IntervalNotifier _notifier;
    private MirrorRange? _programmed;

    private MemoryBenchmark(MemoryBenchmarkOptions options)
    {
        options.Validate();
        _options = options;
        _bytes = MappedMemory.AllocateAnonymous(options.SizeBytes, hugePages: true);
        using (_host.Enter())
        {
            Core.Topology.MemoryWindow window = _fabric.AddWindow(_bytes.Memory, owner: null);
            _memory = new MemorySystem(_host);
            _memory.AddMemory(_bytes.Memory, window.Range.Start);
            _space = new AddressSpace(_memory, "benchmark");
            MapOperation map = _space.Map(new RegionRequest
            {
                LengthBytes = (ulong)options.SizeBytes,
                UsesHugePages = options.Test == MemoryBenchmarkTest.Migrate,
            });
            Finish(map);
            _range = map.Addresses;
            Require(_space.Subscribe(_range, this, out IntervalNotifier? notifier));
            _notifier = notifier!;
        }
    }

    /// <inheritdoc/>
    public string Name => "benchmark";

    /// <inheritdoc/>
    public object Owner => this;

    private int PageCount => (int)(_options.SizeBytes / Page);

    /// <summary>Runs a benchmark to its end, on this thread.</summary>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    /// <exception cref="OperationCanceledException">Between two operations.</exception>
    public static MemoryBenchmarkReport Run(MemoryBenchmarkOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        if (options.Test == MemoryBenchmarkTest.FenceHop)
        {
            List<double> before = CacheLineBenchmark.Run(options.Iterations, cancellation);
            List<double> hops = FenceHopBenchmark.Run(options.Iterations, cancellation);
            List<double> after = CacheLineBenchmark.Run(options.Iterations, cancellation);
            return Report(
                options,
                [
                    new("from one engine to another, both spinning", Samples.Summarize([.. hops])),
                    new("one cache line there, before", Samples.Summarize([.. before])),
                    new("one cache line there, after", Samples.Summarize([.. after])),
                ]);
        }

        using MemoryBenchmark benchmark = new(options);
        IReadOnlyList<MemoryBenchmarkResult> results = options.Test switch
        {
            MemoryBenchmarkTest.Fault => benchmark.Fault(cancellation),
            MemoryBenchmarkTest.Migrate => benchmark.Migrate(cancellation),
            _ => benchmark.Register(cancellation),
        };
        return Report(options, results);
    }

    /// <inheritdoc/>
    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        ArgumentNullException.ThrowIfNull(notifier);
        notifier.SetSequence(sequence);
        return InvalidateAnswer.Done;
    }

    /// <inheritdoc/>
    public bool TakesFolios => true;

    /// <inheritdoc/>
    public Errno Copy(PageCopies copies, out Fence? fence)
    {
        ArgumentNullException.ThrowIfNull(copies);
        fence = null;
        for (int i = 0; i < copies.Count;)
        {
            int count = copies.CountRun(i, out int pages);
            copies[i].Source!.BytesOf(pages).Span.CopyTo(copies[i].Destination.BytesOf(pages).Span);
            i += count;
        }

        return Errno.Success;
    }

    /// <inheritdoc/>
    public void HandleFree(PageFrame frame)
    {
    }

    /// <inheritdoc/>
    public void Dispose() => ((IDisposable)_bytes).Dispose();

    private List<MemoryBenchmarkResult> Fault(CancellationToken cancellation)
    {
        List<double> first = [], present = [];
        for (int round = -Math.Max(1, _options.Iterations / 10); round < _options.Iterations; round++)
        {
            cancellation.ThrowIfCancellationRequested();
            for (int page = 0; page < PageCount; page++)
            {
                Keep(first, FaultOne(page), round);
            }

            for (int page = 0; page < PageCount; page++)
            {
                Keep(present, FaultOne(page), round);
            }

            Locked(() => Finish(_space.Discard(_range)));
        }

        return
        [
            new("a page that nobody has touched: found, cleared, in reach", Samples.Summarize([.. first])),
            new("a page that the process has: in reach", Samples.Summarize([.. present])),
        ];
    }

    private double FaultOne(int page)
    {
        AddressRange one = new(_range.Start + ((ulong)page * Page), Page);
        long start = Stopwatch.GetTimestamp();
        using (_host.Enter())
        {
            MirrorRange look = new(_space, _notifier, one)
            {
                DefaultRequest = MirrorBits.Fault | MirrorBits.FaultWrite,
            };
            Finish(look.Update(Program));
        }

        double elapsed = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        if (_programmed is not { } programmed || programmed.Addresses != one || !programmed.Pages[0].IsWritable)
        {
            throw new InvalidOperationException("a fault ended, and the device does not have the page");
        }

        return elapsed;
    }

    private List<MemoryBenchmarkResult> Migrate(CancellationToken cancellation)
    {
        using MappedMemory vram = MappedMemory.AllocateAnonymous(_options.SizeBytes, hugePages: true);
        byte[] pattern = new byte[_options.SizeBytes];
        new Random(1).NextBytes(pattern);
        DeviceMemory device = null!;
        Locked(() =>
        {
            Finish(_space.Write(_range.Start, pattern));
            device = new DeviceMemory(_memory, this, vram.Memory);
        });
        List<double> out_ = [], home = [], copyOut = [], copyHome = [];
        for (int round = -Math.Max(1, _options.Iterations / 10); round < _options.Iterations; round++)
        {
            cancellation.ThrowIfCancellationRequested();
            Keep(copyOut, Time(() => _bytes.GetSpan().CopyTo(vram.GetSpan())), round);
            Keep(out_, Time(() => Locked(() => Finish(_space.MigrateToDevice(_range, device)))), round);
            Keep(copyHome, Time(() => vram.GetSpan().CopyTo(_bytes.GetSpan())), round);
            Keep(home, Time(() => Locked(() => Finish(_space.MigrateHome(_range, device)))), round);
        }

        byte[] seen = new byte[pattern.Length];
        Locked(() => Finish(_space.Read(_range.Start, seen)));
        if (!seen.AsSpan().SequenceEqual(pattern))
        {
            throw new InvalidOperationException("the bytes that came home are not those that went");
        }

        return
        [
            Moved("to the device", out_, copyOut),
            Moved("home", home, copyHome),
        ];
    }

    private MemoryBenchmarkResult Moved(string what, List<double> times, List<double> copies)
    {
        double median = Samples.Median(times);
        return new MemoryBenchmarkResult(
            what, Samples.Summarize([.. times]), _options.SizeBytes / median * 1e6, Samples.Median(copies) / median);
    }

    private List<MemoryBenchmarkResult> Register(CancellationToken cancellation)
    {
        RdmaDevice nic = new(
            _host, _fabric, new PciFunction("0000:03:00.0", "rdma0"), new RdmaDeviceOptions(), new Keys());
        ProtectionDomain domain = nic.CreateProtectionDomain();
        const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;
        byte[] one = new byte[1];
        for (ulong at = _range.Start; at < _range.End; at += Page)
        {
            ulong address = at;
            Locked(() => Finish(_space.Write(address, one)));
        }

        List<double> cold = [], cached = [], ended = [];
        RegionCache cache = new(nic, domain, _space, Access);
        for (int round = -1; round < _options.Iterations; round++)
        {
            cancellation.ThrowIfCancellationRequested();
            MemoryRegion? region = null;
            Keep(cold, Time(() => Locked(() => Require(cache.TryTake(_range, out region)))), round);
            Locked(() => cache.Return(region!));
            for (int again = 0; again < 100; again++)
            {
                Keep(cached, Time(() => Locked(() => Require(cache.TryTake(_range, out region)))), round);
                Locked(() => cache.Return(region!));
            }

            Keep(ended, Time(() => Locked(() => _ = cache.Clear())), round);
        }

        LatencyResult latency = Samples.Summarize([.. cold]);
        return
        [
            new("pinned, pages in memory", latency, _options.SizeBytes / latency.MedianUs * 1e6),
            new("again through the cache", Samples.Summarize([.. cached])),
            new("deregistered", Samples.Summarize([.. ended])),
        ];
    }

    private void Program(MirrorRange look) => _programmed = look;

    private void Locked(Action action)
    {
        using (_host.Enter())
        {
            action();
        }
    }

    private static double Time(Action action)
    {
        long start = Stopwatch.GetTimestamp();
        action();
        return Stopwatch.GetElapsedTime(start).TotalMicroseconds;
    }

    private static void Keep(List<double> samples, double value, int round)
    {
        if (round >= 0)
        {
            samples.Add(value);
        }
    }

    private static void Finish(SpaceOperation operation)
    {
        if (!operation.Proceed())
        {
            throw new InvalidOperationException($"{operation} waits, and nobody else is at work");
        }

        Require(operation.Errno);
    }

    private static MemoryBenchmarkReport Report(
        MemoryBenchmarkOptions options, IReadOnlyList<MemoryBenchmarkResult> results) => new()
        {
            Test = options.Test,
            SizeBytes = options.SizeBytes,
            Processors = Environment.ProcessorCount,
            Results = results,
        };

    private static void Require(Errno errno)
    {
        if (errno != Errno.Success)
        {
            throw new InvalidOperationException($"the benchmark failed: {errno}");
        }
    }

    private sealed class Keys : IKeySource
    {
        private uint _next = 0x100;

        public uint NextUInt32() => _next += 0x100;
    }
}
