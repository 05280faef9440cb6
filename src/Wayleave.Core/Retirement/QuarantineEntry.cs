namespace Wayleave.Core.Retirement;

/// <summary>Where memory in quarantine stands.</summary>
public enum QuarantineState
{
    /// <summary>It was taken back, and its owner waits for the proof.</summary>
    Proving,

    /// <summary>
    /// Its owner has stopped waiting. The cause says for what; evidence that comes late still releases it.
    /// </summary>
    Overdue,

    /// <summary>It may have a new owner.</summary>
    Released,
}

//   Proving --TimedOut, Unproven--> Overdue
//      |                               |
//      +--every revoke has retired-----+--> Released

/// <summary>Memory whose old use may not have stopped. Host lock held by the caller.</summary>
public sealed class QuarantineEntry
{
    private readonly List<RevokeOperation> _operations;
    private readonly Action _release;
    private bool _released;

    internal QuarantineEntry(RevokeOperation operation, string name, ulong bytes, TimeSpan since, Action release)
    {
        _operations = [operation];
        (Name, Bytes, Since, _release) = (name, bytes, since, release);
    }

    /// <summary>The revoke that took the memory back first.</summary>
    public RevokeOperation Operation => _operations[0];

    /// <summary>All revokes whose proof the memory waits for.</summary>
    public IReadOnlyList<RevokeOperation> Operations => _operations;

    /// <summary>For people.</summary>
    public string Name { get; }

    public ulong Bytes { get; }

    /// <summary>Since when, on the host's clock.</summary>
    public TimeSpan Since { get; }

    public QuarantineState State =>
        _released ? QuarantineState.Released
        : _operations.Exists(o => o.State == RevokeState.Quarantined) ? QuarantineState.Overdue
        : QuarantineState.Proving;

    /// <summary>What is missing, of the first revoke that has not retired.</summary>
    public QuarantineCause Cause => Open?.Missing ?? QuarantineCause.None;

    /// <summary>On whose behalf it is held, each once: who has to give evidence.</summary>
    public IReadOnlyList<string> Holders => Open?.Holders() ?? [];

    internal bool HaveAllRetired => Open is null;

    private RevokeOperation? Open => _operations.Find(o => o.State != RevokeState.Retired);

    internal bool IsHeldBy(string holder) =>
        _operations.Exists(o => o.State != RevokeState.Retired && o.IsHeldBy(holder));

    internal void Add(RevokeOperation operation) => _operations.Add(operation);

    internal void Release()
    {
        _released = true;
        _release();
    }

    public override string ToString() => $"{Name}, {Bytes} bytes, {State}: {Cause}";
}
