using Wayleave.Core.Fences;

namespace Wayleave.Core.Retirement;

/// <summary>
/// What one importer did since it was told to stop using one mapping. The importer records, a proof quotes. An importer
/// that is told again while that mapping lasts goes on recording here. Host lock held by the caller.
/// </summary>
public sealed class ImporterEvidence(HostContext host, bool wasMapped)
{
    private Fence? _fence;

    /// <summary>Whether a mapping existed when the importer was told.</summary>
    public bool WasMapped { get; } = wasMapped;

    public TimeSpan? AcknowledgedAt { get; private set; }

    /// <summary>The key that died, if the importer handed out one.</summary>
    public uint? Key { get; private set; }

    public TimeSpan? KeyDeadAt { get; private set; }

    public TimeSpan? GateClosedAt { get; private set; }

    /// <summary>Users inside the gate when it closed.</summary>
    public long InsideAtClose { get; private set; }

    public TimeSpan? DrainedAt { get; private set; }

    public TimeSpan? UnmappedAt { get; private set; }

    /// <summary>
    /// What the record amounts to. A forced fence is no evidence that the importer stopped: until its owner signals it
    /// after all, it leaves nothing above the key.
    /// </summary>
    public RetirementGrade Grade =>
        _fence is { IsForced: true, HasEnded: false }
            ? (KeyDeadAt is null ? RetirementGrade.Acknowledged : RetirementGrade.KeyDead)
        : IsUnused || IsOver ? RetirementGrade.Retired
        : DrainedAt is not null ? RetirementGrade.Drained
        : KeyDeadAt is not null ? RetirementGrade.KeyDead
        : AcknowledgedAt is not null ? RetirementGrade.Acknowledged
        : RetirementGrade.None;

    // An importer without a gate vouches by the unmap itself; one with a gate also shows that it is empty.
    private bool IsOver => UnmappedAt is not null && (GateClosedAt is null || DrainedAt is not null) && HasStopped;

    // Nothing was mapped when the importer was told; a fence says that it had to stop something all the same.
    private bool IsUnused => !WasMapped && HasStopped;

    private bool HasStopped => _fence is null or { HasEnded: true };

    // The mapping that this is about still exists.
    internal bool IsOpen => WasMapped && UnmappedAt is null;

    /// <summary>
    /// The key answers with an access error from now on, and its number is not used again before it is deregistered.
    /// </summary>
    public void RecordKeyDead(uint key) => (Key, KeyDeadAt) = (key, host.Now);

    /// <summary>The gate of the mapping is closed, with <paramref name="inside"/> users still in it.</summary>
    public void RecordGateClosed(long inside) => (GateClosedAt, InsideAtClose) = (host.Now, inside);

    /// <summary>The last user has left the closed gate.</summary>
    public void RecordDrained() => DrainedAt = host.Now;

    internal void RecordAcknowledged(Fence? fence)
    {
        AcknowledgedAt ??= host.Now;
        _fence = HasStopped ? fence : _fence;
    }

    internal void RecordUnmapped() => UnmappedAt = host.Now;
}
