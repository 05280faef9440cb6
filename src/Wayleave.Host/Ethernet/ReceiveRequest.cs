using Wayleave.Core.Buffers;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Host.Ethernet;

/// <summary>What is to be received, by which queue, and where to.</summary>
public sealed record ReceiveRequest
{
    /// <summary>The receive queue that the memory is bound to and the port is steered to.</summary>
    public required int Queue { get; init; }

    /// <summary>The device whose memory the queue places payload in.</summary>
    public required string Device { get; init; }

    /// <summary>
    /// What becomes of the stream: an object of that name on <see cref="Device"/>, which then has to be a GPU. Null
    /// only hashes what has arrived. With <see cref="IsHttp"/> each request names its own.
    /// </summary>
    public string? Name { get; init; }

    /// <summary>Of that object: the stream must be exactly so long.</summary>
    public ulong? SizeBytes { get; init; }

    /// <summary>Null for each address of the NIC.</summary>
    public IpAddress? Address { get; init; }

    public ushort Port { get; init; } = 7480;

    /// <summary>
    /// Each connection brings one HTTP/1.1 request, <c>PUT /NAME</c>, until the reception ends. Otherwise it is for one
    /// connection, whose bytes are taken as they are.
    /// </summary>
    public bool IsHttp { get; init; }

    /// <summary>
    /// Static, as Linux binds: memory of a GPU that never moves, which nobody takes from the NIC before the reception
    /// is over. PinnedRevocable is an extension: memory that its owner can take back; connections with unread payload
    /// are reset then. Null for Static of a GPU, and PinnedRevocable of other devices, which refuse a static user.
    /// </summary>
    public ImporterKind? Kind { get; init; }

    /// <summary>Memory that is bound; a multiple of <see cref="ChunkBytes"/>.</summary>
    public ulong BufferBytes { get; init; } = 64 << 20;

    /// <summary>The unit in which the memory comes back: a power of two, at least 4096.</summary>
    public int ChunkBytes { get; init; } = NicOptions.PageBytes;

    /// <summary>The name of the object that is bound; null for <c>NIC-rxQUEUE</c>.</summary>
    public string? BufferName { get; init; }

    /// <summary>How long a request may bring nothing; infinite without HTTP unless it is given.</summary>
    public TimeSpan? StallMax { get; init; }

    internal HttpDefences HttpDefences { get; init; } = HttpDefences.All;
}

/// <summary>What one connection brought.</summary>
public sealed record ReceivedContent
{
    /// <summary>Who sent it: ADDRESS port PORT.</summary>
    public required string Peer { get; init; }

    /// <summary>The object that it became, or null.</summary>
    public string? Target { get; init; }

    /// <summary>Bytes of content.</summary>
    public required ulong Bytes { get; init; }

    /// <summary>Pieces of device memory that were read and given back.</summary>
    public required long Tokens { get; init; }

    /// <summary>Bytes of content that came in host memory: no chunk was free, or they were not split.</summary>
    public required ulong LinearBytes { get; init; }

    /// <summary>Bytes of content that passed through host memory on their way to where they are.</summary>
    public required ulong StagedBytes { get; init; }

    /// <summary>Bytes that the host read to learn what is asked for; none without HTTP.</summary>
    public required ulong HeadBytes { get; init; }

    /// <summary>Of the content, lower-case hexadecimal.</summary>
    public required string Sha256 { get; init; }

    /// <summary>From the first byte to the last.</summary>
    public required TimeSpan Elapsed { get; init; }
}
