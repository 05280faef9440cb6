using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Scenarios;
using Wayleave.Simulation;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave check</c>: runs the shipped code through the orders of its steps, scenario by scenario, and shows an
/// order that goes wrong so that it can be read and played again.
/// </summary>
internal static class CheckCommand
{
    private const string InterleaveSwitch = "Wayleave.Interleave";

    public static Command Create() => new(
        "check", "Run the shipped code through every order of its steps, and known bugs with the defence off")
    {
        CreateList(),
        CreateRun(),
        CreateReplay(),
    };

    private static Command CreateList()
    {
        Command command = new("list", "List the scenarios and the defences that can be taken away");
        command.SetAction(parsed => List(new CommandContext(parsed)));
        return command;
    }

    private static Command CreateRun()
    {
        Argument<string?> name = new("NAME")
        {
            Description = "A scenario; wayleave check list names them",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Option<bool> all = new("--all")
        {
            Description = "Every scenario, and every defence taken away, which must be noticed",
        };
        Option<long?> schedules = new("--schedules")
        {
            Description = "At most so many orders of each scenario (default: all, or 1000 drawn)",
            HelpName = "N",
        };
        Option<ulong> seed = new("--seed")
        {
            Description = "Where drawn orders start",
            HelpName = "S",
            DefaultValueFactory = _ => 1,
        };
        Option<string?> breakName = new("--break")
        {
            Description = "Take one defence of the scenario away, and show what happens",
            HelpName = "NAME",
        };
        Option<string?> orders = new("--orders")
        {
            Description = "Where orders come from (default: what the scenario says): all, random, priorities",
            HelpName = "KIND",
        };
        orders.AcceptOnlyFromAmong("all", "random", "priorities");
        Option<int> steps = new("--steps")
        {
            Description = "Steps after which an order counts as endless",
            HelpName = "N",
            DefaultValueFactory = _ => Explorer.DefaultStepLimit,
        };
        Command command = new("run", "Explore one scenario, or all")
        {
            name,
            all,
            schedules,
            seed,
            breakName,
            orders,
            steps,
        };
        command.SetAction((parsed, cancellation) =>
        {
            EnableInterleaving();
            string? only = parsed.GetValue(name);
            string? broken = parsed.GetValue(breakName);
            if (parsed.GetValue(all) == (only is not null))
            {
                throw new UsageException(only is null
                    ? "check run: name a scenario, or say --all"
                    : $"check run: {only} or --all, not both");
            }

            if (only is null && broken is not null)
            {
                throw new UsageException("--break: belongs to one scenario; --all takes every defence away by itself");
            }

            CheckOptions options = new(
                AtLeastOne("--schedules", parsed.GetValue(schedules)),
                parsed.GetValue(seed),
                OrdersOf(parsed.GetValue(orders)),
                (int)AtLeastOne("--steps", parsed.GetValue(steps))!);
            CheckRun run = new(new CommandContext(parsed), options, TimeProvider.System, cancellation);
            return Task.FromResult(only is null ? run.All() : Run(run, Find(only), broken));
        });
        return command;
    }

    private static Command CreateReplay()
    {
        Argument<string> name = new("NAME") { Description = "The scenario" };
        Argument<string> trail = new("TRAIL") { Description = "What a failure printed after its name" };
        Command command = new("replay", "Play one recorded order again, step by step; fails if the order goes wrong")
        {
            name,
            trail,
        };
        command.SetAction(parsed =>
        {
            EnableInterleaving();
            NamedScenario scenario = Find(parsed.GetRequiredValue(name));
            return Replay(new CommandContext(parsed), scenario, parsed.GetRequiredValue(trail));
        });
        return command;
    }

    private static OrderSource? OrdersOf(string? name) => name switch
    {
        "all" => OrderSource.Exhaustive,
        "random" => OrderSource.Random,
        "priorities" => OrderSource.Priorities,
        _ => null,
    };

    private static int List(CommandContext context)
    {
        if (context.IsJson)
        {
            context.WriteJson(CheckListDocument.Of(ScenarioCatalog.All), CheckJson.Default.CheckListDocument);
            return ExitCode.Done;
        }

        TablePrinter table = new("SCENARIO", "ORDERS", "DEFENCE THAT CAN BE TAKEN AWAY");
        foreach (NamedScenario scenario in ScenarioCatalog.All)
        {
            string[] breaks = scenario.Broken.Count == 0 ? ["-"] : [.. scenario.Broken.Select(b => b.Name)];
            table.Add(scenario.Name, scenario.IsExhaustive ? "all" : "drawn", breaks[0]);
            foreach (string more in breaks.Skip(1))
            {
                table.Add("", "", more);
            }
        }

        table.WriteTo(context.Out);
        return ExitCode.Done;
    }

    private static int Run(CheckRun run, NamedScenario scenario, string? breakName) =>
        run.One(scenario, breakName is null ? null : FindBreak(scenario, breakName));

    private static int Replay(CommandContext context, NamedScenario scenario, string text)
    {
        ScenarioTrail trail = Parse(text);
        BrokenVariant? broken = trail.Break is null ? null : FindBreak(scenario, trail.Break);
        if (trail.Version != ScenarioTrail.VersionOf(scenario, broken))
        {
            throw new UsageException(Foreign(scenario, trail));
        }

        Func<Choices, Scenario> build = broken?.Build ?? scenario.Build;
        FailedRun? failure = Explorer.TryReplay(build, trail.Decisions, out IReadOnlyList<RunStep> steps);
        if (failure is { Kind: FailureKind.Trail })
        {
            throw new UsageException($"check replay {scenario.Name}: {failure.Problem}");
        }

        if (context.IsJson)
        {
            CheckReplayDocument document = CheckReplayDocument.Of(scenario, broken, text, steps, failure);
            context.WriteJson(document, CheckJson.Default.CheckReplayDocument);
        }
        else
        {
            CheckStory.Write(context.Out, steps);
            context.Out.WriteLine(failure is null ? "nothing went wrong in this order" : failure.Problem);
        }

        return failure is null ? ExitCode.Done : ExitCode.Failed;
    }

    // A trail that fits another scenario is most likely a mistake in NAME; otherwise the scenario has changed.
    private static string Foreign(NamedScenario scenario, ScenarioTrail trail)
    {
        foreach (NamedScenario other in ScenarioCatalog.All)
        {
            BrokenVariant? broken = other.Broken.FirstOrDefault(b => b.Name == trail.Break);
            if ((broken is not null || trail.Break is null) && ScenarioTrail.VersionOf(other, broken) == trail.Version)
            {
                return $"check replay {scenario.Name}: the trail belongs to {other.Name}";
            }
        }

        return $"check replay {scenario.Name}: the trail belongs to another version of the scenario; explore it again";
    }

    private static ScenarioTrail Parse(string text)
    {
        try
        {
            return ScenarioTrail.Parse(text);
        }
        catch (FormatException e)
        {
            throw new UsageException($"check replay: {e.Message}");
        }
    }

    private static NamedScenario Find(string name) =>
        ScenarioCatalog.Find(name)
        ?? throw Unknown($"there is no scenario {name}", name, ScenarioCatalog.All.Select(s => s.Name));

    private static BrokenVariant FindBreak(NamedScenario scenario, string name) =>
        scenario.Broken.FirstOrDefault(b => b.Name == name)
        ?? throw Unknown($"{scenario.Name} has no defence {name}", name, scenario.Broken.Select(b => b.Name));

    private static UsageException Unknown(string problem, string name, IEnumerable<string> known) =>
        new(NearNames.Of(name, known) is [_, ..] near
            ? $"check: {problem}; did you mean {string.Join(" or ", near)}?"
            : $"check: {problem}; wayleave check list names them");

    private static long? AtLeastOne(string option, long? value) =>
        value < 1 ? throw new UsageException($"{option}: {value} is too few; at least 1") : value;

    // Some scenarios explore lock-free code between its interleaving points. Those are removed by the compiler in every
    // other command, so this comes before any of that code runs.
    private static void EnableInterleaving() => AppContext.SetSwitch(InterleaveSwitch, isEnabled: true);
}
