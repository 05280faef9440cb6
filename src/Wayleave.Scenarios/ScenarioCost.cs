namespace Wayleave.Scenarios;

/// <summary>What a defence costs, counted over every order of a scenario.</summary>
/// <param name="What">In words, with the unit: <c>bytes pinned</c>.</param>
/// <param name="Least">In the order that has the least.</param>
/// <param name="Most">In the order that has the most.</param>
public sealed record ScenarioCost(string What, long Least, long Most)
{
    public override string ToString() => Least == Most ? $"{What}: {Least}" : $"{What}: {Least} to {Most}";
}
