namespace Wayleave.Compare;

/// <summary>Ours and theirs, measured one after the other, in the same unit.</summary>
public readonly record struct RatioSample(double Ours, double Theirs)
{
    /// <summary>Ours over theirs.</summary>
    public double Ratio => Ours / Theirs;
}

/// <summary>One ratio that a comparison measures.</summary>
/// <param name="Group">What a user names it by.</param>
/// <param name="Test">What of ours.</param>
/// <param name="Peer">Beside what.</param>
/// <param name="Unit">Of both figures.</param>
/// <param name="Bar">What was promised of the ratio, or null.</param>
public abstract record Comparison(string Group, string Test, string Peer, string Unit, Bar? Bar);

/// <summary>Both sides are run once in each round.</summary>
public sealed record ComparisonInTurns(string Group, string Test, string Peer, string Unit, Bar? Bar)
    : Comparison(Group, Test, Peer, Unit, Bar)
{
    /// <summary>Runs ours.</summary>
    public required Func<double> Ours { get; init; }

    /// <summary>Runs the peer.</summary>
    public required Func<double> Theirs { get; init; }

    /// <summary>What has to be done before the peer can run, or null; then only ours runs.</summary>
    public string? Missing { get; init; }
}

/// <summary>One program runs both sides in turns by itself, for so many rounds as it is told.</summary>
public sealed record ComparisonInOneRun(string Group, string Test, string Peer, string Unit, Bar? Bar)
    : Comparison(Group, Test, Peer, Unit, Bar)
{
    /// <summary>Runs a number of rounds; at least one comes back.</summary>
    public required Func<int, IReadOnlyList<RatioSample>> Run { get; init; }
}
