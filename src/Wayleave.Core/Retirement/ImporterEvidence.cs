using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Core.Retirement;

/// <summary>
/// What one importer did since it was told to stop using one mapping. The importer records, a proof quotes, and a
/// revoke that waits looks again at every new line. An importer that is told again while that mapping lasts goes on
/// recording here. Host lock held by the caller.
/// </summary>
public sealed class ImporterEvidence(HostContext host, bool wasMapped)
{
    private Fence? _fence;
    private Action? _changed;

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

    /// <summary>How it is known that the user is gone for good; null while it is not.</summary>
    public StopCause? StoppedBy { get; private set; }

    public TimeSpan? StoppedAt { get; private set; }

    /// <summary>Who says that the user is gone, for people.</summary>
    public string? Witness { get; private set; }

    /// <summary>
    /// The fence by which the importer reports its drain: name, context and sequence number; or null.
    /// </summary>
    public string? DrainFence => _fence?.ToString();

    /// <summary>What became of that fence.</summary>
    public DrainState Drain =>
        _fence is null ? DrainState.None
        : _fence.HasEnded ? DrainState.Ended
        : _fence.IsForced ? DrainState.Forced
        : DrainState.Pending;

    /// <summary>What the record amounts to.</summary>
    public RetirementGrade Grade => GradeRules.OfImporter(new ImporterRecord(
        WasMapped,
        AcknowledgedAt is not null,
        KeyDeadAt is not null,
        GateClosedAt is not null,
        DrainedAt is not null,
        UnmappedAt is not null,
        StoppedAt is not null,
        Drain));

    // The mapping that this is about still exists.
    internal bool IsOpen => WasMapped && UnmappedAt is null;

    /// <summary>
    /// The key answers with an access error from now on, and its number is not used again before it is deregistered.
    /// </summary>
    public void RecordKeyDead(uint key)
    {
        (Key, KeyDeadAt) = (key, host.Now);
        Changed();
    }

    /// <summary>The gate of the mapping is closed, with <paramref name="inside"/> users still in it.</summary>
    public void RecordGateClosed(long inside) => (GateClosedAt, InsideAtClose) = (host.Now, inside);

    /// <summary>The last user has left the closed gate.</summary>
    public void RecordDrained()
    {
        DrainedAt = host.Now;
        Changed();
    }

    /// <summary>Runs at every new line, with the host lock held. It may hand the memory to somebody else.</summary>
    internal void Observe(Action observer) => _changed += observer;

    internal void RecordAcknowledged(Fence? fence)
    {
        AcknowledgedAt ??= host.Now;
        _fence = Drain is DrainState.None or DrainState.Ended ? fence : _fence;
        Changed();
    }

    internal void RecordUnmapped()
    {
        UnmappedAt = host.Now;
        Changed();
    }

    internal void RecordStopped(StopCause cause, string witness)
    {
        // The first witness counts.
        if (StoppedAt is null)
        {
            (StoppedBy, Witness, StoppedAt) = (cause, witness, host.Now);
            host.Trace("evidence.stopped", witness, (long)cause);
            Changed();
        }
    }

    /// <summary>
    /// Signals the drain in place of a user that is gone: nobody else ever would, and that the work has ended is known.
    /// </summary>
    internal void EndDrain() => _fence?.Signal(Errno.ECANCELED);

    private void Changed()
    {
        if (_changed is { } changed)
        {
            using SignalingSection suspended = SignalingSection.Suspend(); // the owner goes on, not the importer
            changed();
        }
    }
}
