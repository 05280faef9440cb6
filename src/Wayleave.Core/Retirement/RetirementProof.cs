namespace Wayleave.Core.Retirement;

/// <summary>
/// Why the owner may give the memory to somebody else, or why it may not yet. A value: it does not change after it was
/// made. All times are on the clock of the owner's host, since the host started.
/// </summary>
public sealed record RetirementProof
{
    /// <summary>The version of this record's form.</summary>
    public const int SchemaVersion = 1;

    public required ulong BufferId { get; init; }

    public required string Buffer { get; init; }

    public required string Exporter { get; init; }

    public required ulong SizeBytes { get; init; }

    public required string Reason { get; init; }

    /// <summary>The lowest grade of all importers and fences.</summary>
    public required RetirementGrade Grade { get; init; }

    public required RetirementGrade RequiredGrade { get; init; }

    /// <summary>When the owner asked; from now on maps were refused.</summary>
    public required TimeSpan StartedAt { get; init; }

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

/// <summary>One importer's part of a proof.</summary>
public sealed record ImporterProof
{
    public required string Importer { get; init; }

    public required string Device { get; init; }

    public required Buffers.ImporterKind Kind { get; init; }

    public required RetirementGrade Grade { get; init; }

    public required bool WasMapped { get; init; }

    public required uint? Key { get; init; }

    public required TimeSpan? KeyDeadAt { get; init; }

    public required TimeSpan? GateClosedAt { get; init; }

    public required long InsideAtClose { get; init; }

    public required TimeSpan? DrainedAt { get; init; }

    public required TimeSpan? UnmappedAt { get; init; }
}

/// <summary>One fence that the revoke had to wait for.</summary>
/// <param name="Fence">Name, context and sequence number.</param>
/// <param name="SignaledAt">Null while it is pending.</param>
/// <param name="IsForced">Signalled by somebody else than its owner; no evidence.</param>
/// <param name="HasEnded">Its owner said that the work has ended, in time or after it was forced.</param>
public sealed record FenceProof(string Fence, TimeSpan? SignaledAt, bool IsForced, bool HasEnded);
