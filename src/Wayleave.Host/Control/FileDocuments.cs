using System.Text.Json.Serialization;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/objects/{id}/file</c>: opens the file that an object in a drive's memory buffer is a window to. Answered
/// by the same.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record OpenFileDocument
{
    /// <summary>Of the file, which may be much larger than the window.</summary>
    public required ulong SizeBytes { get; init; }
}

/// <summary>
/// <c>POST /v1/objects/{id}/file/writes</c>: the drive writes a part of the window to the file. Answered by the same
/// when it has.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record WriteFileDocument
{
    /// <summary>Of the first byte in the window; a multiple of 4096.</summary>
    public required ulong WindowOffset { get; init; }

    /// <summary>Of the first byte in the file; a multiple of 4096.</summary>
    public required ulong FileOffset { get; init; }

    /// <summary>Whole blocks of 4096, or up to the end of the file.</summary>
    public required ulong LengthBytes { get; init; }
}

/// <summary>
/// <c>POST /v1/objects/{id}/file/commit</c>, with a <see cref="CommitObjectDocument"/>: what became of the file.
/// </summary>
public sealed record StoredFileDocument
{
    public string Schema { get; set; } = "wayleave.store.v1";

    public required string Drive { get; init; }

    public required string Name { get; init; }

    public required ulong Bytes { get; init; }

    /// <summary>Of the content as it was read back, lower-case hexadecimal.</summary>
    public required string Sha256 { get; init; }

    /// <summary>Bytes that passed through system memory on their way from the wire to the drive.</summary>
    public required ulong StagingBytes { get; init; }

    /// <summary>Of the memory buffer's part: why neither the peer nor the drive can use it any more.</summary>
    public required ProofDocument MemoryBuffer { get; init; }
}
