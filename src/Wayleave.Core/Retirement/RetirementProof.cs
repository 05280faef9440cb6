namespace Wayleave.Core.Retirement;

/// <summary>
/// Why the owner may give the memory to somebody else, or why it may not yet. A value: it does not change after it was
/// made, and it holds everything from which its grade follows, so that a reader need not trust the writer
/// (<see cref="ProofVerifier"/>). All times are on the clock of the owner's host, since the host started.
/// </summary>
public sealed record RetirementProof
{
    /// <summary>The version of this record's form that this program writes.</summary>
    public const int SchemaVersion = 1;

    /// <summary>The version of the form it was written in.</summary>
    public int Version { get; init; } = SchemaVersion;

    public required ulong BufferId { get; init; }

    public required string Buffer { get; init; }

    public required string Exporter { get; init; }

    public required ulong SizeBytes { get; init; }

    public required string Reason { get; init; }

    /// <summary>The lowest grade of all importers and fences.</summary>
    public required RetirementGrade Grade { get; init; }

    public required RetirementGrade RequiredGrade { get; init; }

    /// <summary>
    /// What the owner still has to hear; <see cref="QuarantineCause.None"/> when the proof is sufficient.
    /// </summary>
    public QuarantineCause Cause { get; init; }

    /// <summary>When the owner asked; from now on maps were refused.</summary>
    public required TimeSpan StartedAt { get; init; }

    /// <summary>Until when the owner waits; null in a proof that does not say.</summary>
    public TimeSpan? Deadline { get; init; }

    /// <summary>When every importer had been told; null when the reservation was never free.</summary>
    public required TimeSpan? InvalidatedAt { get; init; }

    /// <summary>When nobody could write any more (stage 1).</summary>
    public required TimeSpan? FencesSignaledAt { get; init; }

    /// <summary>When nobody could read any more either (stage 2), or when the owner stopped waiting.</summary>
    public required TimeSpan CompletedAt { get; init; }

    public required IReadOnlyList<ImporterProof> Importers { get; init; }

    public required IReadOnlyList<FenceProof> Fences { get; init; }

    /// <summary>Whether the owner's policy lets the memory go.</summary>
    public bool IsSufficient => Grade >= RequiredGrade;
}

/// <summary>One importer's part of a proof. A process that mapped the memory is one too, and pinned.</summary>
public sealed record ImporterProof
{
    public required string Importer { get; init; }

    public required string Device { get; init; }

    /// <summary>On whose behalf; null in a proof that does not say.</summary>
    public string? Holder { get; init; }

    public required Buffers.ImporterKind Kind { get; init; }

    public required RetirementGrade Grade { get; init; }

    public required bool WasMapped { get; init; }

    /// <summary>When it answered that it stops.</summary>
    public TimeSpan? AcknowledgedAt { get; init; }

    public required uint? Key { get; init; }

    public required TimeSpan? KeyDeadAt { get; init; }

    public required TimeSpan? GateClosedAt { get; init; }

    public required long InsideAtClose { get; init; }

    public required TimeSpan? DrainedAt { get; init; }

    public required TimeSpan? UnmappedAt { get; init; }

    /// <summary>The fence by which it reports its drain, or null when it needed none.</summary>
    public string? DrainFence { get; init; }

    /// <summary>What had become of that fence.</summary>
    public DrainState Drain { get; init; }

    /// <summary>How it is known that it is gone for good; null when it is not, or spoke for itself.</summary>
    public StopCause? StoppedBy { get; init; }

    public TimeSpan? StoppedAt { get; init; }

    /// <summary>Who says that it is gone.</summary>
    public string? Witness { get; init; }
}

/// <summary>One fence that the revoke had to wait for.</summary>
/// <param name="Fence">Name, context and sequence number.</param>
/// <param name="SignaledAt">Null while it is pending.</param>
/// <param name="IsForced">Signalled by somebody else than its owner; no evidence.</param>
/// <param name="HasEnded">Its owner said that the work has ended, in time or after it was forced.</param>
public sealed record FenceProof(string Fence, TimeSpan? SignaledAt, bool IsForced, bool HasEnded)
{
    /// <summary>Why the work failed, if it did: it has ended all the same.</summary>
    public Errno Error { get; init; }
}
