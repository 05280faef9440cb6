using Wayleave.Core.Fences;

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

//   Proving --a revoke timed out, or cannot be proven--> Overdue
//      |                                                    |
//      +------every revoke has retired, all work ended------+--> Released

/// <summary>Memory whose old use may not have stopped. Host lock held by the caller.</summary>
public sealed class QuarantineEntry
{
    private readonly List<RevokeOperation> _operations = [];
    private readonly IReadOnlyList<Fence> _work;
    private readonly HostContext _host;
    private readonly Action _release;
    private Action? _released;
    private bool _isReleased;

    internal QuarantineEntry(HostContext host, IReadOnlyList<Fence> work, string name, ulong bytes, Action release)
    {
        (_host, _work, Name, Bytes, Since, _release) = (host, work, name, bytes, host.Now, release);
    }

    /// <summary>The revoke that took the memory back first; null for the old place of a move.</summary>
    public RevokeOperation? Operation => _operations.Count > 0 ? _operations[0] : null;

    /// <summary>All revokes whose proof the memory waits for.</summary>
    public IReadOnlyList<RevokeOperation> Operations => _operations;

    /// <summary>For people.</summary>
    public string Name { get; }

    public ulong Bytes { get; }

    /// <summary>Since when, on the host's clock.</summary>
    public TimeSpan Since { get; }

    public QuarantineState State =>
        _isReleased ? QuarantineState.Released
        : _operations.Exists(o => o.State == RevokeState.Quarantined) || OpenWork is not null ? QuarantineState.Overdue
        : QuarantineState.Proving;

    /// <summary>
    /// What is missing, of the first revoke that has not retired or the first work that has not ended.
    /// </summary>
    public QuarantineCause Cause =>
        Open is { } operation ? operation.Missing
        : OpenWork is not { } fence ? QuarantineCause.None
        : fence.IsForced ? QuarantineCause.FenceForced
        : QuarantineCause.WorkPending;

    /// <summary>On whose behalf it is held, each once: who has to give evidence.</summary>
    public IReadOnlyList<string> Holders => Open?.Holders() ?? (OpenWork is { } fence ? [fence.Name] : []);

    /// <summary>
    /// Runs <paramref name="callback"/> once the memory may have a new owner, after the lock was released; false when
    /// it may already and the callback was not kept.
    /// </summary>
    public bool TryAddRelease(Action callback)
    {
        _host.AssertHeld();
        if (_isReleased)
        {
            return false;
        }

        _released += callback;
        return true;
    }

    internal bool IsOpen => Open is not null || OpenWork is not null;

    internal Fence? OpenWork => _work.FirstOrDefault(f => !f.HasEnded);

    private RevokeOperation? Open => _operations.Find(o => o.State != RevokeState.Retired);

    internal bool IsHeldBy(string holder) =>
        _operations.Exists(o => o.State != RevokeState.Retired && o.IsHeldBy(holder)) || OpenWork?.Name == holder;

    internal void Add(RevokeOperation operation) => _operations.Add(operation);

    internal void Release()
    {
        _isReleased = true;
        _release();
        if (_released is { } callback)
        {
            _host.Defer(callback);
        }
    }

    public override string ToString() => $"{Name}, {Bytes} bytes, {State}: {Cause}";
}
