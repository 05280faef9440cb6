using System.CommandLine;
using Wayleave.Scenarios.TakeBack;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave compare take-back</c>: one workload under every way to take memory back from devices.</summary>
internal static class CompareCommand
{
    public static Command Create() => new("compare", "Compare ways of doing the same, on the same work")
    {
        CreateTakeBack(),
    };

    private static Command CreateTakeBack()
    {
        TakeBackOptions defaults = new();
        Argument<string[]> strategies = new("STRATEGY")
        {
            Description = "One or more of: " + string.Join(", ", TakeBackStrategy.All.Select(s => s.Name))
                + "; a mix of them: " + string.Join(", ", TakeBackStrategy.Mixes.Select(s => s.Name))
                + ", or any three as GPU+MEMORY+BUFFER (default: all)",
            Arity = ArgumentArity.ZeroOrMore,
        };
        Option<TimeSpan?> duration = Parsing.DurationOption(
            "--duration", "Simulated time for which each runs (default 20ms)");
        Option<int> orders = new("--orders")
        {
            Description = "Orders of a small workload that are drawn to look for circles; 0 for none",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.ExploredOrders,
        };
        Option<ulong> seed = new("--seed")
        {
            Description = "Where drawn orders start",
            HelpName = "S",
            DefaultValueFactory = _ => defaults.Seed,
        };
        Option<string?> svg = new("--svg") { Description = "Write a chart as well", HelpName = "FILE" };
        Command command = new("take-back", "Two GPUs, a NIC and a process's memory that is wanted back")
        {
            strategies, duration, orders, seed, svg,
        };
        command.SetAction((parsed, cancellation) =>
        {
            TakeBackOptions options = defaults with
            {
                Strategies = parsed.GetValue(strategies) ?? [],
                Duration = parsed.GetValue(duration) ?? defaults.Duration,
                ExploredOrders = parsed.GetValue(orders),
                Seed = parsed.GetValue(seed),
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
            TakeBackReport report = TakeBackComparison.Run(options, cancellation);
            if (parsed.GetValue(svg) is { } file)
            {
                File.WriteAllText(file, TakeBackChart.Draw(report));
            }

            context.Out.Write(context.IsJson ? report.ToJson() + "\n" : TakeBackText.Format(report));

            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }
}
