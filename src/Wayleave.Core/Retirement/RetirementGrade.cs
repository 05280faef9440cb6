namespace Wayleave.Core.Retirement;

/// <summary>
/// How sure the owner is that no write of the old use can land any more. Each grade includes the ones before it.
/// </summary>
public enum RetirementGrade
{
    /// <summary>Nothing is known; at most a time-out passed.</summary>
    None,

    /// <summary>The importer said that it stops.</summary>
    Acknowledged,

    /// <summary>The key by which the memory was reached is dead: number kept, every use refused.</summary>
    KeyDead,

    /// <summary>The gates are closed and empty: no access is under way and none can start.</summary>
    Drained,

    /// <summary>Every fence was signalled by its owner, none forced, and every mapping is unmapped.</summary>
    Retired,
}
