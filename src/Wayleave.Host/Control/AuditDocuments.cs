using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Audits;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/objects/{device}/{name}/audits</c>: take the object back, give its memory to a new owner and mark it.
/// Answered by a stream of <see cref="AuditEventDocument"/>, one per line.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record StartAuditDocument
{
    /// <summary>Of the mark; the same seed makes the same bytes.</summary>
    public required ulong Seed { get; init; }

    public int TimeoutMs { get; init; } = 5000;

    public string? Reason { get; init; }
}

/// <summary>What a line of the stream of an audit says.</summary>
public enum AuditEventKind
{
    /// <summary>The first line: the object was taken back and its memory is marked.</summary>
    Audit,

    /// <summary>Once a second: the host is alive.</summary>
    Heartbeat,

    /// <summary>A last line: somebody ended the audit.</summary>
    Ended,

    /// <summary>A last line: the host stops. A stream that ends without a last line was cut.</summary>
    HostStops,
}

/// <summary>One line of the stream of an audit.</summary>
public sealed record AuditEventDocument
{
    public string Schema { get; set; } = "wayleave.audit_event.v1";

    public required AuditEventKind Event { get; init; }

    /// <summary>On the host's clock, in microseconds since it started.</summary>
    public required double AtUs { get; init; }

    public AuditDocument? Audit { get; init; }
}

/// <summary>An audit that has started. It lasts as long as the stream that it came on.</summary>
public sealed record AuditDocument
{
    public string Schema { get; init; } = "wayleave.audit.v1";

    public required ulong Id { get; init; }

    public required ulong Seed { get; init; }

    /// <summary>How much of the new owner's memory was the old one's.</summary>
    public required ulong OverlapBytes { get; init; }

    public required ProofDocument Proof { get; init; }

    internal static AuditDocument From(TakeBackAudit audit) => new()
    {
        Id = audit.Id,
        Seed = audit.Seed,
        OverlapBytes = audit.OverlapBytes,
        Proof = ProofDocument.From(audit.Proof),
    };
}

/// <summary><c>GET /v1/audits/{id}</c>: what an audit finds at this moment.</summary>
public sealed record AuditFindingsDocument
{
    public string Schema { get; init; } = "wayleave.audit_findings.v1";

    /// <summary>Bytes of the reclaimed memory that changed after the proof, found by reading them.</summary>
    public required long LateWriteBytes { get; init; }

    /// <summary>Payload that came for the dead keys and was refused.</summary>
    public required long RejectedBytes { get; init; }

    /// <summary>Whether a new registration got the number of a dead key.</summary>
    public required bool KeyReused { get; init; }

    public required long InspectedBytes { get; init; }

    public required IReadOnlyList<AuditedRegionDocument> Regions { get; init; }

    internal static AuditFindingsDocument From(AuditFindings findings, IEnumerable<MemoryRegion> regions) => new()
    {
        LateWriteBytes = findings.LateWriteBytes,
        RejectedBytes = findings.RejectedBytes,
        KeyReused = findings.KeyReused,
        InspectedBytes = findings.InspectedBytes,
        Regions = [.. regions.Select(AuditedRegionDocument.From)],
    };
}

/// <summary>A region whose key died with the take-back.</summary>
public sealed record AuditedRegionDocument
{
    public required uint Key { get; init; }

    public required long PlacedBytes { get; init; }

    public required long RejectedBytes { get; init; }

    /// <summary>Absent when nothing was ever placed.</summary>
    public uint? LastPlacedPsn { get; init; }

    /// <summary>Absent when nothing was refused yet.</summary>
    public uint? FirstRefusedPsn { get; init; }

    internal static AuditedRegionDocument From(MemoryRegion region) => new()
    {
        Key = region.Key,
        PlacedBytes = region.BytesPlaced,
        RejectedBytes = region.BytesRejected,
        LastPlacedPsn = region.BytesPlaced == 0 ? null : region.LastPlacedPsn,
        FirstRefusedPsn = region.FirstRejectedPsn,
    };
}
