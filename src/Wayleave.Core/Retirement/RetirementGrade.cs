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

    /// <summary>
    /// The gates are closed and empty, or the user is gone for good: no access is under way and none can start.
    /// </summary>
    Drained,

    /// <summary>Every fence was signalled by its owner, none forced, and every mapping is unmapped.</summary>
    Retired,
}

/// <summary>
/// The rules by which evidence becomes a grade: the one place for whoever collects it and for whoever checks a proof
/// that somebody else has written. Pure.
/// </summary>
internal static class GradeRules
{
    /// <summary>What one importer's record amounts to.</summary>
    public static RetirementGrade OfImporter(in ImporterRecord r)
    {
        // A forced fence is no evidence that the importer stopped, whatever else it said in the same breath.
        if (r.Drain == DrainState.Forced && !r.IsStopped)
        {
            return r.IsKeyDead ? RetirementGrade.KeyDead : RetirementGrade.Acknowledged;
        }

        bool hasStopped = r.IsStopped || r.Drain is DrainState.None or DrainState.Ended;

        // An importer without a gate vouches by the unmap itself; one with a gate also shows that it is empty.
        bool isOver = r.IsUnmapped && (!r.HasGate || r.IsDrained || r.IsStopped) && hasStopped;

        // Nothing was mapped when the importer was told; a fence says that it had to stop something all the same.
        bool isUnused = !r.WasMapped && hasStopped;
        return isOver || isUnused ? RetirementGrade.Retired
            : r.IsDrained || r.IsStopped ? RetirementGrade.Drained
            : r.IsKeyDead ? RetirementGrade.KeyDead
            : r.IsAcknowledged ? RetirementGrade.Acknowledged
            : RetirementGrade.None;
    }

    /// <summary>Work whose fence is pending, or was signalled by somebody else, may still write.</summary>
    public static RetirementGrade WithFences(RetirementGrade grade, bool haveAllEnded) =>
        haveAllEnded || grade <= RetirementGrade.KeyDead ? grade : RetirementGrade.KeyDead;
}

/// <summary>What the rules look at.</summary>
internal readonly record struct ImporterRecord(
    bool WasMapped,
    bool IsAcknowledged,
    bool IsKeyDead,
    bool HasGate,
    bool IsDrained,
    bool IsUnmapped,
    bool IsStopped,
    DrainState Drain);
