using System.Globalization;

namespace Wayleave.Lab;

/// <summary>What <c>lab/run</c> was asked.</summary>
internal sealed record CommandLine
{
    internal const string Usage = """
        usage: lab/run TEST... | --all    [--time-limit SECONDS] [--keep] [--record] [--json] [-v]
               lab/run --list             [--json]
               lab/run --fetch            fetch a newer kernel, and what tests need, into the cache
               lab/run [--packages A,B] [--time-limit SECONDS] [--keep] -- COMMAND [ARGUMENT...]
                                          run a command of yours in the guest; its exit code is ours
        """;

    public IReadOnlyList<string> Tests { get; private init; } = [];

    public IReadOnlyList<string> Command { get; private init; } = [];

    public IReadOnlyList<string> Packages { get; private init; } = [];

    public bool All { get; private init; }

    public bool List { get; private init; }

    public bool Fetch { get; private init; }

    public bool Keep { get; private init; }

    public bool Record { get; private init; }

    public bool Json { get; private init; }

    public bool Verbose { get; private init; }

    public bool Help { get; private init; }

    public TimeSpan? TimeLimit { get; private init; }

    /// <summary>Reads the arguments.</summary>
    /// <exception cref="LabException">They are not understood.</exception>
    internal static CommandLine Parse(IReadOnlyList<string> arguments)
    {
        CommandLine line = new();
        for (int i = 0; i < arguments.Count; i++)
        {
            string argument = arguments[i];
            string Value() => ++i < arguments.Count
                ? arguments[i]
                : throw new LabException(ExitCodes.Usage, $"{argument} needs a value", Usage);
            if (argument == "--")
            {
                line = line with { Command = [.. arguments.Skip(i + 1)] };
                break;
            }

            line = argument switch
            {
                "--all" => line with { All = true },
                "--list" => line with { List = true },
                "--fetch" => line with { Fetch = true },
                "--keep" => line with { Keep = true },
                "--record" => line with { Record = true },
                "--json" => line with { Json = true },
                "-v" or "--verbose" => line with { Verbose = true },
                "-h" or "--help" => line with { Help = true },
                "--time-limit" => line with { TimeLimit = Seconds(Value()) },
                "--packages" => line with { Packages = Value().Split(',', StringSplitOptions.RemoveEmptyEntries) },
                _ when argument.StartsWith('-') =>
                    throw new LabException(ExitCodes.Usage, $"no option {argument}", Usage),
                _ => line with { Tests = [.. line.Tests, argument] },
            };
        }

        int ways = (line.Tests.Count > 0 || line.All ? 1 : 0) + (line.List ? 1 : 0) + (line.Fetch ? 1 : 0)
            + (line.Command.Count > 0 ? 1 : 0) + (line.Help ? 1 : 0);
        return ways == 1
            ? line
            : throw new LabException(ExitCodes.Usage, "name tests, or one of the ways below", Usage);
    }

    private static TimeSpan Seconds(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int seconds)
        && seconds is > 0 and <= 86400
            ? TimeSpan.FromSeconds(seconds)
            : throw new LabException(ExitCodes.Usage, $"--time-limit {text}: seconds, 1 to 86400");
}
