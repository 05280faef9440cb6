using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Host.Benchmarks.Copies;
using Wayleave.Host.Configuration;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench copy</c>: copies by the GPUs' engines between every pair of devices, as a matrix.
/// </summary>
internal static class BenchCopyCommand
{
    public static Command Create()
    {
        CopyBenchmarkOptions defaults = new();
        Option<string?> config = new("--config")
        {
            Description = "The devices and their topology; by default two GPUs, an accelerator and a drive below one "
                + "switch",
            HelpName = "F",
        };
        Option<long[]> sizes = new("--size")
        {
            Description = "Bytes of a copy; more than once for several matrices (default 64KiB, 1MiB and 64MiB)",
            HelpName = "SIZE",
            CustomParser = result => Parsing.Sizes(result, "--size"),
        };
        Option<long?> region = Parsing.SizeOption(
            "--region", "Memory at either end that the copies walk over: 64MiB is cold (default), 1MiB is hot");
        Option<int> depth = Number("--depth", "Copies in the ring of an engine at once", defaults.Depth);
        Option<int> rounds = Number(
            "--rounds", "Rounds, each after one of plain copies; the results are their medians", defaults.Rounds);
        Option<TimeSpan?> duration = Parsing.DurationOption("--duration", "Length of a round (default 50ms)");
        Command command = new("copy", "Copies between the memories of every two devices, as a matrix")
        {
            config, sizes, region, depth, rounds, duration,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            long[]? bytes = parsed.GetValue(sizes);
            CopyBenchmarkOptions options = defaults with
            {
                Depth = parsed.GetValue(depth),
                Rounds = parsed.GetValue(rounds),
                RegionBytes = (int)Math.Min(parsed.GetValue(region) ?? defaults.RegionBytes, int.MaxValue),
                Duration = parsed.GetValue(duration) ?? defaults.Duration,
                SizesBytes = bytes is { Length: > 0 }
                    ? [.. bytes.Select(b => (int)Math.Min(b, int.MaxValue))]
                    : defaults.SizesBytes,
            };
            if (parsed.GetValue(config) is { } file)
            {
                options = options with
                {
                    Config = ConfigurationLoader.Load(
                        file, new Dictionary<string, string>(), Environment.GetEnvironmentVariable).Config,
                };
            }

            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            CommandContext context = new(parsed);
            CopyBenchmarkReport report = await CopyBenchmark.RunAsync(options, cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                CopyMatrix.Write(report, context.Out);
            }

            return report.Cells.Any(c => c.Status == CopyStatus.Failed) ? ExitCode.Failed : ExitCode.Done;
        });
        return command;
    }

    private static Option<int> Number(string name, string description, int value) => new(name)
    {
        Description = description,
        HelpName = "N",
        DefaultValueFactory = _ => value,
    };
}
