using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host.Benchmarks.Local;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench local</c>: what it costs to hand memory to another program, which it starts itself
/// (<c>bench local-peer</c>, hidden).
/// </summary>
internal static class BenchLocalCommand
{
    private const string PeerName = "local-peer";

    public static IEnumerable<Command> Create() => [CreateLocal(), CreatePeer()];

    private static Command CreateLocal()
    {
        LocalBenchmarkOptions defaults = new();
        Option<long?> size = Parsing.SizeOption("--size", $"Bytes of the buffer (default {defaults.SizeBytes})");
        Option<int> iterations = new("--iterations")
        {
            Description = "Operations that count",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.Iterations,
        };
        Option<bool> pin = new("--pin")
        {
            Description = "Keep the two programs on a processor each",
        };
        Command command = new("local", "Memory handed to another program by descriptor, beside copies")
        {
            size, iterations, pin,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            LocalBenchmarkOptions options = defaults with
            {
                SizeBytes = (int)Math.Min(parsed.GetValue(size) ?? defaults.SizeBytes, int.MaxValue),
                Iterations = parsed.GetValue(iterations),
                Pins = parsed.GetValue(pin),
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
            LocalBenchmarkReport report = await LocalBenchmark.RunAsync(
                options,
                (meeting, broker) => SelfProgram.With("bench", PeerName, meeting, broker),
                cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                Write(report, context.Out);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static Command CreatePeer()
    {
        Argument<string> meeting = new("MEETING"), broker = new("BROKER");
        Command command = new(PeerName, "The importer of a local benchmark") { meeting, broker };
        command.Hidden = true;
        command.SetAction(parsed => LocalPeer.Run(parsed.GetValue(meeting)!, parsed.GetValue(broker)!));
        return command;
    }

    private static void Write(LocalBenchmarkReport report, TextWriter output)
    {
        TablePrinter table = new(
            "OPERATION", ">COUNT", ">t_min[us]", ">t_med[us]", ">99%[us]", ">t_max[us]", ">BW[MiB/s]", ">OF A COPY");
        foreach (LocalBenchmarkResult result in report.Results)
        {
            table.Add(
                result.What,
                result.Latency.Count.ToString(CultureInfo.InvariantCulture),
                Number(result.Latency.MinUs),
                Number(result.Latency.MedianUs),
                Number(result.Latency.P99Us),
                Number(result.Latency.MaxUs),
                result.BytesPerS is { } rate ? Number(rate / (1 << 20)) : "",
                result.RatioToCopy is { } ratio ? Number(ratio) : "");
        }

        table.WriteTo(output);
    }

    private static string Number(double value) => value.ToString("F2", CultureInfo.InvariantCulture);
}
