namespace Wayleave.Tests;

/// <summary>
/// How long a fuzz test hunts. The seeds are fixed; WAYLEAVE_FUZZ_ROUNDS multiplies the number of rounds.
/// </summary>
internal static class FuzzRounds
{
    private static readonly int s_factor =
        int.TryParse(Environment.GetEnvironmentVariable("WAYLEAVE_FUZZ_ROUNDS"), out int rounds) ? rounds : 1;

    /// <summary>So many, or a multiple.</summary>
    public static int Of(int rounds) => checked(rounds * s_factor);
}
