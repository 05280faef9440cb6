using Wayleave.Core.Buffers;

namespace Wayleave.Host.Control;

/// <summary><c>GET /v1/buffers</c>: what <c>/sys/kernel/debug/dma_buf/bufinfo</c> shows of a kernel.</summary>
public sealed record BuffersDocument
{
    public string Schema { get; set; } = "wayleave.buffers.v1";

    public required string Host { get; init; }

    public required IReadOnlyList<BufferDocument> Buffers { get; init; }

    /// <summary>Fences of which programs have descriptors.</summary>
    public required IReadOnlyList<SyncFileDocument> SyncFiles { get; init; }
}

/// <summary>A buffer that is not released, or whose memory is in quarantine for a program that holds it.</summary>
public sealed record BufferDocument
{
    public required ulong Id { get; init; }

    public required string Name { get; init; }

    /// <summary>Whose memory.</summary>
    public required string Exporter { get; init; }

    public required StorageKind Storage { get; init; }

    public required ulong SizeBytes { get; init; }

    public required int References { get; init; }

    public required bool Revoked { get; init; }

    public required IReadOnlyList<BufferUserDocument> Users { get; init; }

    /// <summary>Fences of its reservation, one text for each.</summary>
    public required IReadOnlyList<string> Fences { get; init; }

    /// <summary>Programs that have it by the broker; null for a buffer of the host's own.</summary>
    public BufferHoldersDocument? Holders { get; init; }
}

/// <summary>A device, or a processor's mapping, that uses a buffer.</summary>
/// <param name="Name">Of the importer or mapping.</param>
/// <param name="Device">Whose addresses it uses; <c>cpu</c> for a processor's mapping.</param>
/// <param name="Holder">On whose behalf.</param>
/// <param name="Kind">How it holds on to the memory.</param>
/// <param name="State">Of its mapping.</param>
/// <param name="Pins">That it holds.</param>
public sealed record BufferUserDocument(
    string Name, string Device, string Holder, ImporterKind Kind, MappingState State, int Pins);

/// <summary>A fence that programs have as a descriptor.</summary>
/// <param name="Name">Given at a merge, or made from what it is.</param>
/// <param name="Fence">What signals it.</param>
/// <param name="State"><c>pending</c>, <c>signaled</c>, or <c>forced</c> in the place of its owner.</param>
/// <param name="Error">Of one that has signalled with an error, else null.</param>
/// <param name="Program">On whose account the descriptor is.</param>
/// <param name="Processes">Who has a copy, once per copy, as far as this user may look.</param>
public sealed record SyncFileDocument(
    string Name, string Fence, string State, string? Error, int Program, IReadOnlyList<int> Processes);

/// <summary>Processes that hold a buffer, by number.</summary>
/// <param name="Owner">Who allocated it.</param>
/// <param name="Numbers">Who has a number for it on a connection; once per number.</param>
/// <param name="Descriptors">Who has a copy of a descriptor that stands for it, as far as this user may look.</param>
/// <param name="Mappings">On whose account mappings are.</param>
public sealed record BufferHoldersDocument(
    int Owner, IReadOnlyList<int> Numbers, IReadOnlyList<int> Descriptors, IReadOnlyList<int> Mappings);
