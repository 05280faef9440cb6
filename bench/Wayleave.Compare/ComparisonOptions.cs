namespace Wayleave.Compare;

/// <summary>What a user may say to a comparison.</summary>
/// <param name="Rounds">How often everything is measured, in turns.</param>
/// <param name="IsJson">Whether a script reads the result.</param>
/// <param name="Tests">Those that were named; none means all.</param>
public sealed record ComparisonOptions(int Rounds, bool IsJson, IReadOnlySet<string> Tests)
{
    private const int DefaultRounds = 5;

    /// <summary>Reads the command line; of one that makes no sense it says how it should look.</summary>
    /// <param name="comparison">Name of the program.</param>
    /// <param name="arguments">What it was called with.</param>
    /// <param name="tests">Names of which a user may choose some.</param>
    /// <returns>Null if the line makes no sense.</returns>
    public static ComparisonOptions? Parse(string comparison, string[] arguments, params IEnumerable<string> tests)
    {
        string[] known = [.. tests.Distinct()];
        HashSet<string> wanted = [];
        int rounds = DefaultRounds;
        bool json = false;
        for (int i = 0; i < arguments.Length; i++)
        {
            bool isRounds = arguments[i] == "--rounds" && i + 1 < arguments.Length;
            if (arguments[i] == "--json")
            {
                json = true;
            }
            else if (isRounds && int.TryParse(arguments[i + 1], out rounds) && rounds > 0)
            {
                i++;
            }
            else if (known.Contains(arguments[i]))
            {
                wanted.Add(arguments[i]);
            }
            else
            {
                string which = known.Length > 0 ? $" [{string.Join('|', known)}]..." : "";
                Console.Error.WriteLine($"usage: {comparison} [--rounds N] [--json]{which}");
                return null;
            }
        }

        return new ComparisonOptions(rounds, json, wanted);
    }

    /// <summary>Whether a test was asked for.</summary>
    public bool Wants(string test) => Tests.Count == 0 || Tests.Contains(test);
}
