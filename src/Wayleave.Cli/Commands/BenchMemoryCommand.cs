using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host.Benchmarks.Memory;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench fault</c>, <c>migrate</c>, <c>register</c> and <c>fence-hop</c>: what memory of processes, and
/// work that waits for other work, costs in the model.
/// </summary>
internal static class BenchMemoryCommand
{
    private const long UserFaultBytes = 1 << 20;

    public static IEnumerable<Command> Create() =>
    [
        Create(MemoryBenchmarkTest.Fault, "fault", "From a device's miss until the page is in its reach"),
        Create(MemoryBenchmarkTest.Migrate, "migrate", "Pages to a device's memory and home, beside plain copies"),
        Create(MemoryBenchmarkTest.Register, "register", "Memory pinned for a NIC, and again through the cache"),
        Create(MemoryBenchmarkTest.FenceHop, "fence-hop", "Jobs in turns on two GPUs, each waiting for the last"),
    ];

    private static Command Create(MemoryBenchmarkTest test, string name, string description)
    {
        MemoryBenchmarkOptions defaults = MemoryBenchmarkOptions.DefaultsOf(test);
        Option<long?> size = Parsing.SizeOption("--size", $"Bytes of memory (default {defaults.SizeBytes})");
        Option<int> iterations = new("--iterations")
        {
            Description = "Operations, or rounds of them, that count",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.Iterations,
        };
        Option<bool> uffd = new("--uffd")
        {
            Description = "Fault on real memory that this process serves (userfaultfd), beside the same in C",
        };
        Command command = new(name, description) { size, iterations };
        if (test == MemoryBenchmarkTest.Fault)
        {
            command.Add(uffd);
        }

        command.SetAction((parsed, cancellation) =>
        {
            bool isReal = test == MemoryBenchmarkTest.Fault && parsed.GetValue(uffd);
            MemoryBenchmarkOptions options = defaults with
            {
                SizeBytes = parsed.GetValue(size) ?? (isReal ? UserFaultBytes : defaults.SizeBytes),
                Iterations = parsed.GetValue(iterations),
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
            MemoryBenchmarkReport report = isReal
                ? UserFaultBenchmark.Run(options, cancellation)
                : MemoryBenchmark.Run(options, cancellation);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                Write(report, context.Out);
            }

            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    private static void Write(MemoryBenchmarkReport report, TextWriter output)
    {
        TablePrinter table = new(
            "OPERATION",
            ">COUNT",
            ">t_min[us]",
            ">t_med[us]",
            ">99%[us]",
            ">t_max[us]",
            ">BW[MiB/s]",
            ">OF A COPY",
            ">OF C");
        foreach (MemoryBenchmarkResult result in report.Results)
        {
            table.Add(
                result.What,
                result.Latency.Count.ToString(CultureInfo.InvariantCulture),
                Number(result.Latency.MinUs),
                Number(result.Latency.MedianUs),
                Number(result.Latency.P99Us),
                Number(result.Latency.MaxUs),
                result.BytesPerS is { } rate ? Number(rate / (1 << 20)) : "",
                result.RatioToCopy is { } ratio ? Number(ratio) : "",
                result.RatioToPeer is { } peer ? Number(peer) : "");
        }

        table.WriteTo(output);
    }

    private static string Number(double value) => value.ToString("F2", CultureInfo.InvariantCulture);
}
