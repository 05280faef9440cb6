using System.Diagnostics;
using System.Net;
using Wayleave.Core.Retirement;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks;

/// <summary>Runs one benchmark: this process is the active side, a process of its own the passive one.</summary>
public sealed class Benchmark : IAsyncDisposable
{
    // Long enough for the second compilation of the hot path at both ends: the compiler's threads share two processors
    // with two that poll.
    private static readonly TimeSpan s_warmUp = TimeSpan.FromMilliseconds(1200);
    private static readonly TimeSpan s_warmUpMore = TimeSpan.FromMilliseconds(300);
    private const int WarmUpsMore = 8;
    private const int WarmMethods = 2; // compiled in one of these: the loops are none of them any more
    private static readonly TimeSpan s_refusalPatience = TimeSpan.FromSeconds(20);
    private const int LatencyIterations = 10_000;
    private const int TakeBacks = 5000;
    private const int EmptyRounds = 3;

    private readonly BenchmarkOptions _options;
    private readonly PassiveProcess _passive;
    private readonly CancellationToken _cancellation;
    private BenchmarkEnd? _end;
    private EndMessage? _peer;
    private UdpEndpoint? _limitSocket;
    private IPEndPoint? _limitPeer;

    private Benchmark(BenchmarkOptions options, PassiveProcess passive, CancellationToken cancellation) =>
        (_options, _passive, _cancellation) = (options, passive, cancellation);

    /// <param name="options">What to run.</param>
    /// <param name="passiveCommand">
    /// Starts a process that runs <see cref="PassiveSide.RunAsync(TextReader, TextWriter)"/>.
    /// </param>
    /// <param name="cancellation">Ends the test between two rounds.</param>
    /// <exception cref="ArgumentException">The options do not work together; names every problem.</exception>
    /// <exception cref="WayleaveException">Either side failed; says which and how.</exception>
    public static async Task<BenchmarkReport> RunAsync(
        BenchmarkOptions options, ProcessStartInfo passiveCommand, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(passiveCommand);
        options.Validate();
        await using Benchmark benchmark = new(options, PassiveProcess.Start(passiveCommand), cancellation);
        await benchmark.OpenAsync().ConfigureAwait(false);
        if (options.WithOne)
        {
            await using Benchmark one = new(options.One, PassiveProcess.Start(passiveCommand), cancellation);
            await one.OpenAsync().ConfigureAwait(false);
            return await benchmark.RunBandwidthAsync(one).ConfigureAwait(false);
        }

        return options.Test switch
        {
            BenchmarkTest.UdpLimit => await benchmark.RunLimitAsync().ConfigureAwait(false),
            BenchmarkTest.Revoke => await benchmark.RunTakeBacksAsync().ConfigureAwait(false),
            BenchmarkTest.WriteLat or BenchmarkTest.SendLat => await benchmark.RunLatencyAsync().ConfigureAwait(false),
            _ => await benchmark.RunBandwidthAsync(one: null).ConfigureAwait(false),
        };
    }

    /// <summary>The name on the command line.</summary>
    public static string NameOf(BenchmarkTest test) => test switch
    {
        BenchmarkTest.WriteBw => "write-bw",
        BenchmarkTest.ReadBw => "read-bw",
        BenchmarkTest.SendBw => "send-bw",
        BenchmarkTest.WriteLat => "write-lat",
        BenchmarkTest.SendLat => "send-lat",
        BenchmarkTest.Revoke => "revoke",
        _ => "udp-limit",
    };

    public async ValueTask DisposeAsync()
    {
        _passive.Dispose();
        _limitSocket?.Dispose();
        if (_end is not null)
        {
            await _end.DisposeAsync().ConfigureAwait(false);
        }
    }

    private BenchmarkEnd End => _end!;

    private EndMessage Peer => _peer!;

    private async Task OpenAsync()
    {
        PassiveReply opened = await AskAsync(
            new PassiveCommand(PassiveVerb.Open) { Options = _options }).ConfigureAwait(false);
        IPAddress active = IPAddress.Parse(_options.ActiveAddress);
        _limitSocket = UdpEndpoint.Bind(EndpointAddress.From(active, 0), BenchmarkEnd.HostOptions(_options).Socket);
        _limitPeer = new IPEndPoint(IPAddress.Parse(_options.PassiveAddress), opened.LimitPort!.Value);
        if (opened.End is { } peer)
        {
            _peer = peer;
            _end = await BenchmarkEnd.OpenAsync(_options, _options.ActiveAddress, engineProcessor: null)
                .ConfigureAwait(false);
            if (_options.Test != BenchmarkTest.Revoke)
            {
                _end.Connect(peer);
                await AskAsync(new PassiveCommand(PassiveVerb.Connect) { Peer = _end.Message }).ConfigureAwait(false);
            }
        }
    }

    private async Task<BenchmarkReport> RunBandwidthAsync(Benchmark? one)
    {
        BandwidthSender sender = new(End, Peer, _options);
        BandwidthSender? senderOfOne = one is null ? null : new(one.End, one.Peer, one._options);
        List<BenchmarkRound> rounds = [];
        await WarmUpAsync(sender).ConfigureAwait(false);
        if (one is not null)
        {
            await one.WarmUpAsync(senderOfOne!).ConfigureAwait(false);
        }

        Totals totals = await MeasureEmptyRoundAsync().ConfigureAwait(false);
        for (int i = 0; i < _options.Rounds; i++)
        {
            (double Sent, double Arrived)? limit = _options.WithLimit
                ? await MeasureLimitAsync(_options.Duration).ConfigureAwait(false)
                : null;
            double? rateOfOne = one is not null
                ? (await one.MeasureAsync(senderOfOne!, new Totals()).ConfigureAwait(false)).BytesPerS
                : null;
            (long operations, double rate) = await MeasureAsync(sender, totals).ConfigureAwait(false);
            rounds.Add(new BenchmarkRound
            {
                Operations = operations,
                BytesPerS = rate,
                LimitBytesPerS = limit?.Arrived,
                LimitSentBytesPerS = limit?.Sent,
                Ratio = rate / limit?.Arrived,
                OneBytesPerS = rateOfOne,
                OneRatio = rate / rateOfOne,
            });
        }

        return Report(totals) with { Rounds = rounds, Bandwidth = SummarizeBandwidth(rounds) };
    }

    // For a while, and then until neither process compiles anything: the compiler runs on a processor that one of the
    // two measured threads needs.
    private async Task WarmUpAsync(BandwidthSender sender)
    {
        await RunRoundAsync(sender.Run, s_warmUp, 0, new Totals()).ConfigureAwait(false);
        Totals totals = new();
        for (int i = 0; i < WarmUpsMore && (i == 0 || totals.CompiledMethods > WarmMethods); i++)
        {
            totals = new Totals();
            if (_options.WithLimit)
            {
                await MeasureLimitAsync(s_warmUpMore).ConfigureAwait(false);
            }

            await RunRoundAsync(sender.Run, s_warmUpMore, 0, totals).ConfigureAwait(false);
        }
    }

    // As above, by the time that rounds of a number of messages take.
    private static bool IsWarm(Totals totals, TimeSpan elapsed) => elapsed >= s_warmUp
        && (totals.CompiledMethods <= WarmMethods || elapsed >= s_warmUp + (WarmUpsMore * s_warmUpMore));

    private async Task<(long Operations, double BytesPerS)> MeasureAsync(BandwidthSender sender, Totals totals)
    {
        (long operations, TimeSpan elapsed) = await RunRoundAsync(
            sender.Run, _options.Duration, _options.Iterations, totals).ConfigureAwait(false);
        return (operations, operations * (double)_options.SizeBytes / elapsed.TotalSeconds);
    }

    private BandwidthResult SummarizeBandwidth(List<BenchmarkRound> rounds)
    {
        double median = Samples.Median(rounds.Select(r => r.BytesPerS!.Value));
        return new BandwidthResult
        {
            MedianBytesPerS = median,
            PeakBytesPerS = rounds.Max(r => r.BytesPerS!.Value),
            MedianMessagesPerS = median / _options.SizeBytes,
            Operations = rounds.Sum(r => r.Operations),
            MedianLimitBytesPerS = _options.WithLimit
                ? Samples.Median(rounds.Select(r => r.LimitBytesPerS!.Value))
                : null,
            MedianRatio = _options.WithLimit ? Samples.Median(rounds.Select(r => r.Ratio!.Value)) : null,
            MedianOneBytesPerS = _options.WithOne ? Samples.Median(rounds.Select(r => r.OneBytesPerS!.Value)) : null,
            MedianOneRatio = _options.WithOne ? Samples.Median(rounds.Select(r => r.OneRatio!.Value)) : null,
        };
    }

    private async Task<(long Operations, TimeSpan Elapsed)> RunRoundAsync(
        Func<TimeSpan, int, (long, TimeSpan)> run, TimeSpan duration, int iterations, Totals totals)
    {
        CounterSample theirs = await CountAsync(PassiveVerb.Start).ConfigureAwait(false);
        CounterSample ours = End.Sample();
        (long operations, TimeSpan elapsed) = await SpinAsync(() => run(duration, iterations)).ConfigureAwait(false);
        CounterSample oursAfter = End.Sample();
        totals.AddRound(ours, oursAfter, theirs, await CountAsync(PassiveVerb.Stop).ConfigureAwait(false), operations);
        return (operations, elapsed);
    }

    // The measured loop spins on a thread of its own: a worker of the pool that does not come back makes the pool start
    // others.
    private Task<(long Count, TimeSpan Elapsed)> SpinAsync(Func<(long, TimeSpan)> loop) => Task.Factory.StartNew(
        () =>
        {
            if (_options.IsPinned)
            {
                _ = ProcessorAffinity.TryStayOn(BenchmarkOptions.ActiveProcessor);
            }

            return loop();
        },
        CancellationToken.None,
        TaskCreationOptions.LongRunning,
        TaskScheduler.Default);

    /// <summary>
    /// What the two processes allocate to start and stop a round is no cost of the data path: it is deducted.
    /// </summary>
    private async Task<Totals> MeasureEmptyRoundAsync()
    {
        long least = long.MaxValue;
        for (int i = 0; i < EmptyRounds; i++)
        {
            Totals empty = new();
            await RunRoundAsync((_, _) => (0, TimeSpan.Zero), default, 0, empty).ConfigureAwait(false);
            least = Math.Min(least, empty.AllocatedBytes);
        }

        return new Totals { DeductedPerRound = least };
    }

    private async Task<BenchmarkReport> RunLatencyAsync()
    {
        PingPong pingPong = PingPong.Create(End, Peer, _options);
        BesideLoad? load = _options.Beside == 0 ? null : new BesideLoad(End, Peer, _options);
        int count = _options.Iterations != 0 ? _options.Iterations : LatencyIterations;
        long[] samples = new long[count];
        List<double> all = new(count * _options.Rounds);
        List<BenchmarkRound> rounds = [];
        long start = Stopwatch.GetTimestamp();
        Totals warm;
        do
        {
            warm = new Totals();
            await RunRoundAsync(Run, default, 0, warm).ConfigureAwait(false);
        }
        while (!IsWarm(warm, Stopwatch.GetElapsedTime(start)));
        Totals totals = await MeasureEmptyRoundAsync().ConfigureAwait(false);
        for (int i = 0; i < _options.Rounds; i++)
        {
            long before = load?.CompletedBytes ?? 0;
            (_, TimeSpan elapsed) = await RunRoundAsync(Run, default, 0, totals).ConfigureAwait(false);
            double[] half = [.. samples.Select(t => t * 1e6 / Stopwatch.Frequency / 2)];
            all.AddRange(half);
            rounds.Add(new BenchmarkRound
            {
                Operations = count,
                MedianUs = Samples.Median(half),
                BesideBytesPerS = (load?.CompletedBytes - before) / elapsed.TotalSeconds,
            });
        }

        (long, TimeSpan) Run(TimeSpan duration, int iterations)
        {
            long from = Stopwatch.GetTimestamp();
            pingPong.Ping(samples, load);
            return (2L * count, Stopwatch.GetElapsedTime(from)); // one message each way
        }

        return Report(totals) with
        {
            Rounds = rounds,
            Latency = Samples.Summarize([.. all]),
            Beside = load is null ? null : _options.Beside,
            MedianBesideBytesPerS =
                load is null ? null : Samples.Median(rounds.Select(r => r.BesideBytesPerS!.Value)),
        };
    }

    private async Task<BenchmarkReport> RunLimitAsync()
    {
        List<BenchmarkRound> rounds = [];
        await MeasureLimitAsync(s_warmUp).ConfigureAwait(false);
        for (int i = 0; i < _options.Rounds; i++)
        {
            (double sent, double arrived) = await MeasureLimitAsync(_options.Duration).ConfigureAwait(false);
            rounds.Add(new BenchmarkRound { BytesPerS = arrived, LimitSentBytesPerS = sent, Operations = 1 });
        }

        return Report(totals: null) with
        {
            Rounds = rounds,
            Bandwidth = SummarizeBandwidth(rounds),
        };
    }

    private async Task<(double Sent, double Arrived)> MeasureLimitAsync(TimeSpan duration)
    {
        await AskAsync(new PassiveCommand(PassiveVerb.StartLimit)).ConfigureAwait(false);
        (long sent, TimeSpan elapsed) = await SpinAsync(
            () => LimitBlast.Send(_limitSocket!, _limitPeer!, _options.MtuBytes, duration)).ConfigureAwait(false);
        CounterSample after = await CountAsync(PassiveVerb.StopLimit).ConfigureAwait(false);
        return (sent / elapsed.TotalSeconds, after.Bytes / elapsed.TotalSeconds);
    }

    private async Task<BenchmarkReport> RunTakeBacksAsync()
    {
        int count = _options.Iterations != 0 ? _options.Iterations : TakeBacks;
        TakeBackWriter writer = new(End, _options);
        double[] times = new double[count];
        int retired = 0;
        long voluntary = 0, involuntary = 0, late = 0, rejected = 0, placed = 0;
        for (int i = -WarmUpTakeBacks(count); i < count; i++)
        {
            EndMessage ours = writer.Renew();
            PassiveReply lent = await AskAsync(
                new PassiveCommand(PassiveVerb.Lend) { Peer = ours }).ConfigureAwait(false);
            writer.WriteUntilRefused(lent.End!, s_refusalPatience);
            PassiveReply inspected = await AskAsync(new PassiveCommand(PassiveVerb.Inspect)).ConfigureAwait(false);
            TakeBackSample sample = inspected.TakeBack!;
            late += sample.LateBytes; // counted in the warm-up too: it is never right
            if (i >= 0)
            {
                times[i] = sample.Microseconds;
                retired += sample.Grade == nameof(RetirementGrade.Retired) ? 1 : 0;
                voluntary += sample.VoluntarySwitches;
                involuntary += sample.InvoluntarySwitches;
                rejected += sample.RejectedBytes;
                placed += sample.BytesBefore;
            }
        }

        return Report(totals: null) with
        {
            TakeBack = new TakeBackResult
            {
                Time = Samples.Summarize(times),
                Retired = retired,
                VoluntarySwitches = voluntary,
                InvoluntarySwitches = involuntary,
                LateBytes = late,
                RejectedBytes = rejected,
                PlacedBytes = placed,
            },
        };
    }

    private static int WarmUpTakeBacks(int count) => Math.Min(count, 200);

    private BenchmarkReport Report(Totals? totals)
    {
        int packets = Math.Max(1, (_options.SizeBytes + _options.MtuBytes - 1) / _options.MtuBytes);
        return new BenchmarkReport
        {
            Test = NameOf(_options.Test),
            SizeBytes = _options.SizeBytes,
            RegionBytes = _options.EffectiveRegionBytes,
            MtuBytes = _options.MtuBytes,
            QueuePairs = _options.QueuePairs,
            Depth = _options.Depth,
            ReceiveBufferBytes = _limitSocket!.ReceiveBufferBytes,
            Processors = Environment.ProcessorCount,
            IsPinned = _options.IsPinned,
            AllocatedBytesPerOperation = totals?.PerOperation,
            AllocatedBytesPerPacket = totals?.PerOperation / packets,
            Retransmits = totals?.Retransmits,
            Timeouts = totals?.Timeouts,
            Probes = totals?.Probes,
            SequenceNaks = totals?.SequenceNaks,
            SocketDrops = totals?.SocketDrops,
        };
    }

    private async Task<CounterSample> CountAsync(PassiveVerb verb)
    {
        PassiveReply reply = await AskAsync(new PassiveCommand(verb)).ConfigureAwait(false);
        return reply.Counters!;
    }

    private Task<PassiveReply> AskAsync(PassiveCommand command)
    {
        _cancellation.ThrowIfCancellationRequested();
        return _passive.AskAsync(command, _cancellation);
    }

    private sealed class Totals
    {
        private long _operations;

        public long DeductedPerRound { get; init; }

        public long AllocatedBytes { get; private set; }

        public long CompiledMethods { get; private set; }

        public long Retransmits { get; private set; }

        public long Timeouts { get; private set; }

        public long Probes { get; private set; }

        public long SequenceNaks { get; private set; }

        public long SocketDrops { get; private set; }

        public double PerOperation => (double)AllocatedBytes / Math.Max(1, _operations);

        public void AddRound(
            CounterSample ours,
            CounterSample oursAfter,
            CounterSample theirs,
            CounterSample theirsAfter,
            long operations)
        {
            _operations += operations;
            AllocatedBytes -= DeductedPerRound;
            Add(ours, oursAfter);
            Add(theirs, theirsAfter);
        }

        private void Add(CounterSample before, CounterSample after)
        {
            AllocatedBytes += after.AllocatedBytes - before.AllocatedBytes;
            CompiledMethods += after.CompiledMethods - before.CompiledMethods;
            Retransmits += after.Retransmits - before.Retransmits;
            Timeouts += after.Timeouts - before.Timeouts;
            Probes += after.Probes - before.Probes;
            SequenceNaks += after.SequenceNaks - before.SequenceNaks;
            SocketDrops += after.SocketDrops - before.SocketDrops;
        }
    }
}
