namespace Wayleave.Host.Topology;

/// <summary>How a transfer went at its ends: <c>explanation</c> of <c>wayleave cp --explain --json</c>.</summary>
/// <param name="Ends">One for each host that has device memory in it.</param>
public sealed record TransferExplanationDocument(IReadOnlyList<TransferEndDocument> Ends);

/// <summary>One end of a transfer.</summary>
public sealed record TransferEndDocument
{
    /// <summary><c>this process</c>, or the host as the user named it.</summary>
    public required string Host { get; init; }

    /// <summary>
    /// How the NIC, or the drive, reached the device's memory; a refusal is the reason for what was staged.
    /// </summary>
    public required RouteDocument Route { get; init; }

    /// <summary>
    /// What crossed the links. Only of this process, which did nothing else; those of a running host count everybody.
    /// </summary>
    public LinksDocument? Links { get; init; }

    /// <summary>What passed through host memory on its way; absent where only the host could tell.</summary>
    public long? StagingBytes { get; init; }
}
