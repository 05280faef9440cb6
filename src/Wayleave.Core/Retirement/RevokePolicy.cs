namespace Wayleave.Core.Retirement;

/// <summary>What the owner asks of a revoke: how sure it wants to be, and by when.</summary>
public sealed record RevokePolicy
{
    /// <summary>
    /// Memory below this grade stays in quarantine. At least <see cref="RetirementGrade.Acknowledged"/>: memory is
    /// never given out on time alone.
    /// </summary>
    public RetirementGrade RequiredGrade { get; init; } = RetirementGrade.Retired;

    /// <summary>When the owner stops waiting. The memory does not come back by this; it goes to quarantine.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Why, for people and proofs.</summary>
    public string Reason { get; init; } = "taken back by the owner";
}
