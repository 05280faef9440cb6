using System.Text.Json.Serialization;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Control;

/// <summary><c>GET /v1/objects</c>.</summary>
public sealed record ObjectsDocument
{
    public string Schema { get; set; } = "wayleave.objects.v1";

    public required string Host { get; init; }

    public required IReadOnlyList<ObjectDocument> Objects { get; init; }
}

/// <summary>A named piece of device memory, at one moment.</summary>
public sealed record ObjectDocument
{
    /// <summary>Unique in the host, and never used for another object.</summary>
    public required ulong Id { get; init; }

    public required string Device { get; init; }

    public required string Name { get; init; }

    public required ulong SizeBytes { get; init; }

    public required ObjectState State { get; init; }

    public required StorageKind Storage { get; init; }

    public required ObjectPlace Placement { get; init; }

    /// <summary>Evictions and restores so far.</summary>
    public required int Moves { get; init; }

    public required DateTimeOffset CreatedAt { get; init; }

    /// <summary>
    /// Of the content since the commit; absent when the writer did not say, or when the object was lent for writing.
    /// </summary>
    public string? Sha256 { get; init; }
}

/// <summary><c>POST /v1/objects</c>: memory under a name that appears with the commit.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record CreateObjectDocument
{
    public required string Device { get; init; }

    public required string Name { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>Null for what the device has: movable on a GPU.</summary>
    public StorageKind? Storage { get; init; }
}

/// <summary><c>POST /v1/objects/{id}/commit</c>.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record CommitObjectDocument
{
    /// <summary>
    /// What the content hashes to, lower-case hexadecimal. The host compares before the name appears.
    /// </summary>
    public string? Sha256 { get; init; }
}

/// <summary><c>POST /v1/objects/{device}/{name}/revoke</c>; answered by a <see cref="ProofDocument"/>.</summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record RevokeObjectDocument
{
    /// <summary>Memory below this grade stays in quarantine.</summary>
    public RetirementGrade Grade { get; set; } = RetirementGrade.Retired;

    /// <summary>When the owner stops waiting for the proof, in milliseconds.</summary>
    public int TimeoutMs { get; set; } = 5000;

    public string? Reason { get; init; }
}

/// <summary><c>GET /v1/objects/{device}/{name}/sha256</c>: of the bytes as they are now.</summary>
public sealed record DigestDocument
{
    public string Schema { get; set; } = "wayleave.digest.v1";

    public required ulong SizeBytes { get; init; }

    public required string Sha256 { get; init; }
}
