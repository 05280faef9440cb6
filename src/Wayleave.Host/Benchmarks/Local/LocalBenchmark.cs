using System.Buffers;
using System.Diagnostics;
using System.Net.Sockets;
using Wayleave.Client;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Benchmarks.Local;

// Two processes. This one has the host and the program that exports; the other imports, and takes the times of what it
// does itself. A hand-over begins before the descriptor is sent and ends when the importer has read the first byte:
// both look at one clock, the machine's. It is measured as fast as one can follow the other, as those that it is held
// against measure, and again with nothing done for milliseconds before each, when everybody has gone to sleep. Both by
// the descriptor alone and with the pages beside it, in turns.

/// <summary>
/// Measures what it costs to hand memory to another program by descriptor, beside copies: <c>wayleave bench local</c>.
/// </summary>
public sealed class LocalBenchmark
{
    private const int RestedMax = 300;

    // Longer than anybody looks for something to do before it sleeps.
    private static readonly TimeSpan s_rest = TimeSpan.FromMilliseconds(3);

    private readonly LocalBenchmarkOptions _options;
    private readonly MessageSocket _peer;
    private readonly BrokerClient _client;

    private LocalBenchmark(LocalBenchmarkOptions options, MessageSocket peer, BrokerClient client) =>
        (_options, _peer, _client) = (options, peer, client);

    /// <summary>Runs the benchmark to its end.</summary>
    /// <param name="options">What is measured.</param>
    /// <param name="startPeer">How to start a process that runs <see cref="LocalPeer.Run"/>, by both paths.</param>
    /// <param name="cancellation">Between two operations.</param>
    /// <exception cref="ArgumentException">An option is out of its range.</exception>
    /// <exception cref="WayleaveException">The other process has ended.</exception>
    public static async Task<LocalBenchmarkReport> RunAsync(
        LocalBenchmarkOptions options,
        Func<string, string, ProcessStartInfo> startPeer,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(startPeer);
        options.Validate();
        string root = Directory.CreateTempSubdirectory("wayleave-bench-").FullName;
        Process? process = null;
        try
        {
            await using WayleaveHost host = await WayleaveHost.StartAsync(new HostConfig
            {
                Name = "bench",
                Nics = [new NicConfig { Address = System.Net.IPAddress.Loopback, UdpPort = 0 }],
                Nvmes = [],
                Gpus = [new GpuConfig { VramBytes = options.SizeBytes + (64L << 20), SystemPoolBytes = 0 }],
                Broker = new BrokerConfig { SocketPath = Path.Combine(root, "broker") },
            }).ConfigureAwait(false);
            using BrokerServer server = BrokerServer.Start(host, Environment.GetEnvironmentVariable)!;
            string meeting = Path.Combine(root, "meeting");
            using Socket listener = MessageSocket.Listen(meeting, 1);
            process = Process.Start(startPeer(meeting, server.SocketPath))!;
            using MessageSocket peer = new(await listener.AcceptAsync(cancellation).ConfigureAwait(false));
            using BrokerClient client = BrokerClient.Connect(server.SocketPath, "bench");
            IReadOnlyList<LocalBenchmarkResult> results = await Task.Factory.StartNew(
                () => new LocalBenchmark(options, peer, client).Measure(cancellation),
                cancellation,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default).ConfigureAwait(false);
            return new LocalBenchmarkReport
            {
                SizeBytes = options.SizeBytes,
                Processors = Environment.ProcessorCount,
                Results = results,
            };
        }
        finally
        {
            End(process);
            Directory.Delete(root, recursive: true);
        }
    }

    private List<LocalBenchmarkResult> Measure(CancellationToken cancellation)
    {
        ClientDevice device = _client.OpenDevice("gpu0");
        using ClientBuffer buffer = device.Allocate("bench", (ulong)_options.SizeBytes);
        using ClientMapping mapping = buffer.Map(keepsPages: true);
        new Random(1).NextBytes(mapping.Memory.Span);
        List<LocalBenchmarkResult> results = [];
        if (_options.Pins)
        {
            LocalMessages.Send(_peer, [(long)LocalVerb.Stay, 0, 0, 0]);
            ProcessorAffinity.TryKeepProcessOn(1);
        }

        HandOver(buffer, mapping, results, cancellation);
        Copy(buffer, mapping.Memory, results, cancellation);
        Ring(results, cancellation);
        return results;
    }

    private void HandOver(
        ClientBuffer buffer, ClientMapping mapping, List<LocalBenchmarkResult> results, CancellationToken cancellation)
    {
        HandOverTimes alone = new(), paged = new(), restedAlone = new(), restedPaged = new();
        for (int round = -WarmUps; round < _options.Iterations; round++)
        {
            HandOverOnce(buffer, mapping, sendsPages: false, alone, round, cancellation);
            HandOverOnce(buffer, mapping, sendsPages: true, paged, round, cancellation);
        }

        for (int round = -1; round < Math.Min(_options.Iterations, RestedMax); round++)
        {
            Thread.Sleep(s_rest);
            HandOverOnce(buffer, mapping, sendsPages: false, restedAlone, round, cancellation);
            Thread.Sleep(s_rest);
            HandOverOnce(buffer, mapping, sendsPages: true, restedPaged, round, cancellation);
        }

        results.Add(Result("export", "a descriptor for the buffer", alone.Export));
        results.Add(Result("import_and_map", "imported and mapped", alone.Mapped));
        results.Add(Result("first_byte", "the same until the first byte is read", alone.First));
        results.Add(Result(
            "hand_over_alone", "descriptor sent, until the first byte is read there", alone.HandedOver));
        results.Add(Result("import_with_pages", "imported and mapped, by pages that came with it", paged.Mapped));
        results.Add(Result(
            "hand_over", "descriptor and pages sent, until the first byte is read there", paged.HandedOver));
        results.Add(Result("touch", "every page read for the first time", alone.Touched));
        results.Add(Result("unmap_and_close", "let go", alone.LetGo));
        results.Add(Result("rested_import_and_map", "imported and mapped, all asleep before", restedAlone.Mapped));
        results.Add(Result(
            "rested_hand_over_alone", "handed over by descriptor alone, all asleep before", restedAlone.HandedOver));
        results.Add(Result("rested_hand_over", "handed over with pages, all asleep before", restedPaged.HandedOver));
    }

    private void HandOverOnce(
        ClientBuffer buffer,
        ClientMapping mapping,
        bool sendsPages,
        HandOverTimes times,
        int round,
        CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        Span<long> one = stackalloc long[3], two = stackalloc long[2];
        BitConverter.TryWriteBytes(mapping.Memory.Span, (long)round);
        long start = Stopwatch.GetTimestamp();
        using FileDescriptor descriptor = buffer.Export();
        FileDescriptor[] sent = sendsPages ? [descriptor, mapping.Pages!] : [descriptor];
        long exported = Stopwatch.GetTimestamp();
        LocalMessages.Send(_peer, [(long)LocalVerb.HandOver, round, 0, 0], sent);
        LocalMessages.Receive(_peer, one);
        LocalMessages.Receive(_peer, two);
        Keep(times.Export, exported - start, round);
        Keep(times.Mapped, one[0], round);
        Keep(times.First, one[1], round);
        Keep(times.HandedOver, one[2] - exported, round);
        Keep(times.Touched, two[0], round);
        Keep(times.LetGo, two[1], round);
    }

    private void Copy(
        ClientBuffer buffer, Memory<byte> memory, List<LocalBenchmarkResult> results, CancellationToken cancellation)
    {
        List<double> plain = [], mapped = [], read = [], mappedRatio = [], readRatio = [];
        using FileDescriptor descriptor = buffer.Export();
        using MemoryHandle pin = memory.Pin();
        int iterations = _options.Iterations + WarmUps;
        LocalMessages.Send(
            _peer,
            [(long)LocalVerb.Copy, iterations, Environment.ProcessId, (long)ProcessMemory.AddressOf(pin)],
            descriptor);
        Span<long> times = stackalloc long[3];
        for (int round = -WarmUps; round < _options.Iterations; round++)
        {
            cancellation.ThrowIfCancellationRequested();
            LocalMessages.Receive(_peer, times);
            Keep(plain, times[0], round);
            Keep(mapped, times[1], round);
            KeepRatio(mappedRatio, times[0], times[1], round);
            if (times[2] > 0)
            {
                Keep(read, times[2], round);
                KeepRatio(readRatio, times[0], times[2], round);
            }
        }

        results.Add(Result("copy", "a plain copy within the importer", plain, moves: true));
        results.Add(Result("copy_mapped", "one copy out of the mapping", mapped, moves: true, mappedRatio));
        if (read.Count > 0) // a kernel may keep processes from tracing each other
        {
            results.Add(Result("copy_read", "one copy by process_vm_readv", read, moves: true, readRatio));
        }
    }

    private void Ring(List<LocalBenchmarkResult> results, CancellationToken cancellation)
    {
        List<double> nothing = [], copies = [];
        LocalMessages.Send(_peer, [(long)LocalVerb.Ring, _options.Iterations + WarmUps, 0, 0]);
        Span<long> times = stackalloc long[2];
        for (int round = -WarmUps; round < _options.Iterations; round++)
        {
            cancellation.ThrowIfCancellationRequested();
            LocalMessages.Receive(_peer, times);
            Keep(nothing, times[0], round);
            Keep(copies, times[1], round);
        }

        results.Add(Result("ring", "a command in a ring and its completion, both spinning", nothing));
        results.Add(Result("ring_copy", "4 KiB copied by a command in a ring", copies));
    }

    private int WarmUps => Math.Max(1, _options.Iterations / 10);

    private LocalBenchmarkResult Result(
        string name, string what, List<double> times, bool moves = false, List<double>? ratios = null)
    {
        LatencyResult latency = Samples.Summarize([.. times]);
        return new LocalBenchmarkResult(
            name,
            what,
            latency,
            moves ? _options.SizeBytes / latency.MedianUs * 1e6 : null,
            ratios is null ? null : Samples.Median(ratios));
    }

    private static void Keep(List<double> samples, long ticks, int round)
    {
        if (round >= 0)
        {
            samples.Add(TimeSpan.FromTicks(ticks).TotalMicroseconds * TimeSpan.TicksPerSecond / Stopwatch.Frequency);
        }
    }

    private static void KeepRatio(List<double> ratios, long plain, long other, int round)
    {
        if (round >= 0)
        {
            ratios.Add((double)plain / other);
        }
    }

    private static void End(Process? process)
    {
        if (process is null)
        {
            return;
        }

        if (!process.WaitForExit(TimeSpan.FromSeconds(5)))
        {
            process.Kill();
            process.WaitForExit();
        }

        process.Dispose();
    }

    /// <summary>Samples in microseconds of one hand-over after the other.</summary>
    private sealed class HandOverTimes
    {
        public List<double> Export { get; } = [];

        public List<double> Mapped { get; } = [];

        public List<double> First { get; } = [];

        public List<double> HandedOver { get; } = [];

        public List<double> Touched { get; } = [];

        public List<double> LetGo { get; } = [];
    }
}
