using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>GET /v1/activity</c>: what a host does just now, for whoever watches it. Counters only grow; two documents and
/// the time between them make rates.
/// </summary>
public sealed record ActivityDocument
{
    public string Schema { get; set; } = "wayleave.activity.v1";

    public required string Host { get; init; }

    /// <summary>When it was taken, on the host's clock.</summary>
    public required long UptimeUs { get; init; }

    public required IReadOnlyList<DeviceActivityDocument> Devices { get; init; }

    public required IReadOnlyList<HolderDocument> Holders { get; init; }

    /// <summary>Programs of this machine that have something by the broker, and how much.</summary>
    public required IReadOnlyList<ProgramDocument> Programs { get; init; }

    public required RetirementsDocument Retirements { get; init; }

    /// <summary>Memory that was taken back and is neither in use nor free, oldest first.</summary>
    public required IReadOnlyList<QuarantinedDocument> Quarantine { get; init; }

    /// <summary>Bytes on their way between devices that went through system memory.</summary>
    public required long StagingBytes { get; init; }
}

/// <summary>A device. What it has not (memory, faults) is absent.</summary>
public sealed record DeviceActivityDocument
{
    public required string Name { get; init; }

    /// <summary><c>gpu</c>, <c>accelerator</c>, <c>vfio</c>, <c>nvme</c>, <c>rdma</c> or <c>ethernet</c>.</summary>
    public required string Type { get; init; }

    /// <summary>Payload over its PCIe link towards it.</summary>
    public required long InBytes { get; init; }

    /// <summary>Payload over its PCIe link away from it.</summary>
    public required long OutBytes { get; init; }

    public ulong? MemoryTotalBytes { get; init; }

    public ulong? MemoryUsedBytes { get; init; }

    /// <summary>Taken back without sufficient proof so far.</summary>
    public ulong? MemoryQuarantinedBytes { get; init; }

    /// <summary>Accesses to memory that was not mapped at that moment; of an RDMA NIC.</summary>
    public long? Faults { get; init; }

    /// <summary>Evictions and restores; of a GPU.</summary>
    public long? Moves { get; init; }

    /// <summary>What stopped it, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>Why somebody reaches an object.</summary>
public enum HoldKind
{
    /// <summary>It was lent to a peer, who reaches it over RDMA.</summary>
    Lease,

    /// <summary>The host sends it to another host.</summary>
    Transfer,

    /// <summary>Commands of a client reach it, on a GPU.</summary>
    Compute,

    /// <summary>A network connection sends it, or receives into it.</summary>
    Network,

    /// <summary>A process of this machine maps it.</summary>
    Mapping,

    /// <summary>A process of this machine has registered it for its peers.</summary>
    Key,
}

/// <summary>Somebody who reaches an object just now.</summary>
public sealed record HolderDocument
{
    public required HoldKind Kind { get; init; }

    /// <summary>Of the lease, the transfer, the context or the buffer; 0 for what has none.</summary>
    public required ulong Id { get; init; }

    /// <summary>The peer's address, or who it is on this machine.</summary>
    public required string Holder { get; init; }

    public required string Device { get; init; }

    /// <summary>Empty for who uses a device and no object of it.</summary>
    public required string ObjectName { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>Of a lease.</summary>
    public LeaseAccess? Access { get; init; }

    /// <summary>Of a lease and of a key.</summary>
    public ImporterKind? Region { get; init; }

    /// <summary>Whether its end has begun.</summary>
    public required bool Ending { get; init; }
}

/// <summary>A process that has something by the broker.</summary>
public sealed record ProgramDocument
{
    public required int ProcessId { get; init; }

    public required uint UserId { get; init; }

    /// <summary>What it calls itself.</summary>
    public required string Name { get; init; }

    /// <summary>It has ended; what it had is not free yet.</summary>
    public required bool Dead { get; init; }

    /// <summary>What it has, in bytes and pieces; what it has none of is absent.</summary>
    public required IReadOnlyDictionary<string, long> Accounts { get; init; }
}

/// <summary>Memory that was taken back since the host started, replaced and deleted objects included.</summary>
public sealed record RetirementsDocument
{
    /// <summary>Ended, whatever the proof was.</summary>
    public required long Revokes { get; init; }

    /// <summary>Begun and not ended yet.</summary>
    public required int InProgress { get; init; }

    /// <summary>How many ended with a proof of each grade: <c>Retired</c>, <c>Drained</c> and so on.</summary>
    public required IReadOnlyDictionary<string, long> Grades { get; init; }

    /// <summary>How many times evidence came later, and memory left quarantine.</summary>
    public required long ReleasedLate { get; init; }
}

/// <summary>An object whose memory waits for evidence.</summary>
public sealed record QuarantinedDocument
{
    public required ulong Id { get; init; }

    public required string Device { get; init; }

    public required string ObjectName { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>Of the last proof.</summary>
    public required RetirementGrade Grade { get; init; }

    /// <summary>Importers that have not shown that they stopped; empty when a fence is what is missing.</summary>
    public required IReadOnlyList<string> WaitsFor { get; init; }
}
