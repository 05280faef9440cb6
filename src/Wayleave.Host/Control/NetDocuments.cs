using System.Text.Json.Serialization;
using Wayleave.Core.Buffers;
using Wayleave.Host.Ethernet;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/ethernets/{nic}/receives</c>: bind memory to a queue, steer a port there and receive; answered by a
/// stream of <see cref="NetEventDocument"/>, one per line. The reception lasts as long as its stream.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record ReceiveDocument
{
    public required int Queue { get; init; }

    /// <summary>Whose memory the queue places payload in.</summary>
    public required string Device { get; init; }

    /// <summary>The object that the stream becomes; absent to hash it only. Not with <see cref="Http"/>.</summary>
    public string? Name { get; init; }

    /// <summary>Of that object.</summary>
    public ulong? SizeBytes { get; init; }

    /// <summary>An address of the NIC; absent for each.</summary>
    public string? Address { get; init; }

    public int Port { get; init; } = 7480;

    /// <summary>Uploads by <c>PUT /NAME</c>, until the stream ends.</summary>
    public bool Http { get; init; }

    /// <summary>
    /// <c>static</c>, <c>pinned_revocable</c>, or absent: the latter also of a device that never takes memory back.
    /// </summary>
    public ImporterKind? Kind { get; init; }

    /// <summary>Memory that is bound.</summary>
    public ulong BufferBytes { get; init; } = 64 << 20;

    public int ChunkBytes { get; init; } = 4096;

    /// <summary>The object that is bound; absent for <c>NIC-rxQUEUE</c>.</summary>
    public string? BufferName { get; init; }

    /// <summary>Fail when nothing comes for so long; -1 for never. Absent: 30 s with HTTP, never without.</summary>
    public int? StallTimeoutMs { get; init; }
}

/// <summary>
/// <c>POST /v1/ethernets/{nic}/sends</c>: send an object from device memory, or a file by way of one; answered by a
/// stream of <see cref="NetEventDocument"/>, one per line. The send lasts as long as its stream.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record SendDocument
{
    /// <summary>Of the object; of a file, where it is read to first.</summary>
    public required string Device { get; init; }

    /// <summary>The object; absent for a file.</summary>
    public string? Name { get; init; }

    /// <summary>An absolute path of the host's machine; only by its Unix socket.</summary>
    public string? Path { get; init; }

    /// <summary>Where to.</summary>
    public required string Address { get; init; }

    public required int Port { get; init; }
}

/// <summary>What a line of the stream of a reception or a send says.</summary>
public enum NetEventKind
{
    /// <summary>The first line of a reception: it listens.</summary>
    Listening,

    /// <summary>The first line of a send: it is about to connect.</summary>
    Connecting,

    /// <summary>Ten times a second: how far it is.</summary>
    Progress,

    /// <summary>A connection brought its content.</summary>
    Received,

    /// <summary>An HTTP request was refused, or its connection broke.</summary>
    Refused,

    /// <summary>A last line: the connection of a reception was the only one, or everything is sent.</summary>
    Done,

    /// <summary>A last line: it failed; the line says how.</summary>
    Failed,

    /// <summary>A last line: the host stops. A stream that ends without a last line was cut.</summary>
    HostStops,
}

/// <summary>One line of the stream of a reception or a send.</summary>
public sealed record NetEventDocument
{
    public string Schema { get; set; } = "wayleave.net_event.v1";

    public required NetEventKind Event { get; init; }

    /// <summary>On the host's clock, in microseconds since it started.</summary>
    public required double AtUs { get; init; }

    /// <summary>Content that has arrived so far; of a send, what went into frames.</summary>
    public long Bytes { get; init; }

    public ListeningDocument? Listening { get; init; }

    public ReceivedDocument? Received { get; init; }

    public RefusedDocument? Refused { get; init; }

    public SentDocument? Sent { get; init; }

    /// <summary>Of a failure: its error number's name, the operation, the reason and what to do.</summary>
    public string? Errno { get; init; }

    public string? Operation { get; init; }

    public string? Reason { get; init; }

    public string? Remedy { get; init; }
}

/// <summary>Where a reception listens, and into what.</summary>
public sealed record ListeningDocument
{
    public required string Nic { get; init; }

    /// <summary>Where senders connect to.</summary>
    public required IReadOnlyList<string> Addresses { get; init; }

    public required int Port { get; init; }

    public required int Queue { get; init; }

    /// <summary>DEVICE/NAME of what is bound.</summary>
    public required string Buffer { get; init; }

    public required ulong BufferBytes { get; init; }

    public required int ChunkBytes { get; init; }

    /// <summary><c>static</c> or <c>pinned_revocable</c>.</summary>
    public required string Kind { get; init; }

    /// <summary>How the NIC reaches the memory.</summary>
    public required string Route { get; init; }
}

/// <summary>What one connection brought.</summary>
public sealed record ReceivedDocument
{
    public required string Peer { get; init; }

    /// <summary>DEVICE/NAME of what it became; absent when it was only hashed.</summary>
    public string? Target { get; init; }

    public required ulong Bytes { get; init; }

    public required long ElapsedUs { get; init; }

    public required long BytesPerS { get; init; }

    public required long Tokens { get; init; }

    public required ulong LinearBytes { get; init; }

    public required ulong StagedBytes { get; init; }

    public required ulong HeadBytes { get; init; }

    public required string Sha256 { get; init; }

    internal static ReceivedDocument From(ReceivedContent stream) => new()
    {
        Peer = stream.Peer,
        Target = stream.Target,
        Bytes = stream.Bytes,
        ElapsedUs = (long)stream.Elapsed.TotalMicroseconds,
        BytesPerS = (long)(stream.Bytes / Math.Max(stream.Elapsed.TotalSeconds, 1e-6)),
        Tokens = stream.Tokens,
        LinearBytes = stream.LinearBytes,
        StagedBytes = stream.StagedBytes,
        HeadBytes = stream.HeadBytes,
        Sha256 = stream.Sha256,
    };
}

/// <summary>A request that did not become an object.</summary>
public sealed record RefusedDocument
{
    public required string Peer { get; init; }

    /// <summary>What was answered; 0 when the connection broke.</summary>
    public required int Status { get; init; }

    public required string Reason { get; init; }
}

/// <summary>What was sent, all of it acknowledged.</summary>
public sealed record SentDocument
{
    /// <summary>DEVICE/NAME, or the path of a file.</summary>
    public required string Source { get; init; }

    public required string Peer { get; init; }

    public required ulong Bytes { get; init; }

    /// <summary>Copied out of device memory into frames, repetitions included.</summary>
    public required long FrameBytes { get; init; }

    public required long ConnectUs { get; init; }

    public required long ElapsedUs { get; init; }

    public required long BytesPerS { get; init; }

    /// <summary>Bytes of a file that passed through host memory, because no drive could place them.</summary>
    public required ulong StagedBytes { get; init; }

    public required string Sha256 { get; init; }
}
