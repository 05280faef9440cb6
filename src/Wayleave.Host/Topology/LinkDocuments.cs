using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary><c>GET /v1/links</c>: what has crossed every link and every route since the host started.</summary>
public sealed record LinksDocument
{
    public string Schema { get; set; } = "wayleave.links.v1";

    public required string Host { get; init; }

    /// <summary>When it was taken, on the host's clock.</summary>
    public required long UptimeUs { get; init; }

    /// <summary>Every link of the trees, idle ones included, in the order of the tree.</summary>
    public required IReadOnlyList<LinkDocument> Links { get; init; }

    /// <summary>Every path that was used.</summary>
    public required IReadOnlyList<PathDocument> Paths { get; init; }

    /// <summary>
    /// Bytes that were put into host memory only to be fetched by another device. Each is counted once.
    /// </summary>
    public required long StagingBytes { get; init; }

    /// <summary>Requests that an IOMMU refused to translate.</summary>
    public required long IommuFaults { get; init; }
}

/// <summary>The link above a function. Both directions are seen from the host bridge.</summary>
/// <param name="Name">Of the function at the lower end.</param>
/// <param name="Address">Of the same.</param>
/// <param name="Above">The bridge, or the host bridge, at the upper end.</param>
/// <param name="Depth">0 on a root bus.</param>
/// <param name="UpBytes">Payload towards the host bridge.</param>
/// <param name="DownBytes">Payload away from it.</param>
public sealed record LinkDocument(string Name, string Address, string Above, int Depth, long UpBytes, long DownBytes);

/// <summary>One client, one owner, one route.</summary>
/// <param name="Client">Who asked; <c>cpu</c> is the processor.</param>
/// <param name="Owner">Whose memory it is; absent for system memory.</param>
/// <param name="Route">By which way.</param>
/// <param name="ReadBytes">What came to the client.</param>
/// <param name="WrittenBytes">What left the client.</param>
public sealed record PathDocument(string Client, string? Owner, PeerRoute Route, long ReadBytes, long WrittenBytes);
