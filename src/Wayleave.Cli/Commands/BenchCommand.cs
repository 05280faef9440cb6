using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Devices.Rdma;
using Wayleave.Host.Benchmarks;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench</c>: measures between this process and a second one, which it starts itself (<c>bench passive</c>,
/// hidden).
/// </summary>
internal static class BenchCommand
{
    private const string PassiveName = "passive";

    public static Command Create()
    {
        Command command = new("bench", "Measure what the data path does here, between two processes")
        {
            CreateTest(BenchmarkTest.WriteBw, "RDMA WRITE bandwidth"),
            CreateTest(BenchmarkTest.ReadBw, "RDMA READ bandwidth"),
            CreateTest(BenchmarkTest.SendBw, "SEND bandwidth"),
            CreateTest(BenchmarkTest.WriteLat, "RDMA WRITE latency: half a round trip, both sides polling"),
            CreateTest(BenchmarkTest.SendLat, "SEND latency: half a round trip, both sides polling"),
            CreateTest(BenchmarkTest.Revoke, "Time to take memory back while a peer writes to it"),
            CreateTest(BenchmarkTest.UdpLimit, "What two sockets carry with no protocol at all"),
            BenchCopyCommand.Create(),
            BenchDriveReadCommand.Create(),
            BenchTcpReceiveCommand.Create(),
            CreatePassive(),
        };
        foreach (Command memory in BenchMemoryCommand.Create().Concat(BenchLocalCommand.Create()))
        {
            command.Add(memory);
        }

        return command;
    }

    private static Command CreateTest(BenchmarkTest test, string description)
    {
        BenchmarkOptions defaults = BenchmarkOptions.DefaultsOf(test);
        Option<long?> size = Parsing.SizeOption("--size", $"Bytes of a message (default {defaults.SizeBytes})");
        Option<long?> region =
            Parsing.SizeOption("--region", "Memory the messages walk over: 4MiB is hot, 64MiB is cold");
        Option<int> mtu = new("--mtu")
        {
            Description = "Payload bytes of a packet: 256, 512, 1024, 2048 or 4096",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.MtuBytes,
        };
        Option<int> pairs = Number("--qps", "Queue pairs", defaults.QueuePairs);
        Option<int> depth = Number("--depth", "Requests in flight per queue pair", defaults.Depth);
        Option<int> beside = Number(
            "--beside", "Latency: so many more queue pairs, kept full of WRITEs of 64 KiB meanwhile", defaults.Beside);
        Option<int> ahead = Number(
            "--firsts-ahead", "Of WRITEs and answers, so many begin before their turn; 0 keeps all packets in order",
            defaults.FirstsAhead);
        Option<int> iterations =
            Number("--iterations", "Operations of a round; 0 goes by --duration", defaults.Iterations);
        Option<TimeSpan?> duration = Parsing.DurationOption("--duration", "Length of a round (default 1s)");
        Option<int> rounds = Number("--rounds", "Rounds; the results are their medians", defaults.Rounds);
        Option<bool> withLimit = new("--with-limit")
        {
            Description = "Run a round of udp-limit before each round, and print the median ratio",
        };
        Option<bool> withOne = new("--with-one")
        {
            Description = "Run a round with one queue pair, 64 deep, before each round, and print the median ratio",
        };
        Option<long?> socketBuffer = Parsing.SizeOption(
            "--socket-buffer", "SO_RCVBUF and SO_SNDBUF to ask for; 0 for what a host asks for (default 208KiB)");
        Option<FaultOptions?> faults = Parsing.FaultsOption();
        Command command = new(Benchmark.NameOf(test), description)
        {
            size, region, mtu, pairs, beside, depth, ahead, iterations, duration, rounds, withLimit, withOne,
            socketBuffer, faults,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            BenchmarkOptions options = defaults with
            {
                SizeBytes = ReadInt(parsed.GetValue(size), "--size") ?? defaults.SizeBytes,
                RegionBytes = parsed.GetValue(region) ?? defaults.RegionBytes,
                MtuBytes = parsed.GetValue(mtu),
                QueuePairs = parsed.GetValue(pairs),
                Beside = parsed.GetValue(beside),
                Depth = parsed.GetValue(depth),
                FirstsAhead = parsed.GetValue(ahead),
                Iterations = parsed.GetValue(iterations),
                Duration = parsed.GetValue(duration) ?? defaults.Duration,
                Rounds = parsed.GetValue(rounds),
                WithLimit = parsed.GetValue(withLimit),
                WithOne = parsed.GetValue(withOne),
                SocketBufferBytes =
                    ReadInt(parsed.GetValue(socketBuffer), "--socket-buffer") ?? defaults.SocketBufferBytes,
                Faults = parsed.GetValue(faults),
            };
            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            CommandContext context = new(parsed);
            BenchmarkReport report = await Benchmark
                .RunAsync(options, SelfProgram.With("bench", PassiveName), cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                BenchmarkTable.Write(report, context.Out);
            }

            return report.TakeBack is { LateBytes: > 0 } ? ExitCode.Failed : ExitCode.Done;
        });
        return command;
    }

    private static Command CreatePassive()
    {
        Command command = new(PassiveName, "The other process of a benchmark") { Hidden = true };
        command.SetAction(async (parsed, _) =>
            await PassiveSide.RunAsync(Console.In, parsed.InvocationConfiguration.Output).ConfigureAwait(false));
        return command;
    }

    private static Option<int> Number(string name, string description, int value) => new(name)
    {
        Description = description,
        HelpName = "N",
        DefaultValueFactory = _ => value,
    };

    private static int? ReadInt(long? value, string name) => value switch
    {
        null => null,
        <= int.MaxValue => (int)value,
        _ => throw new UsageException($"{name}: less than 2 GiB, not {value}"),
    };
}
