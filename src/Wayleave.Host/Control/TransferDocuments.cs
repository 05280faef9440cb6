using System.Text.Json.Serialization;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

/// <summary>
/// <c>POST /v1/objects/{device}/{name}/transfers</c>: make ready to send the object to another host; answered by a
/// stream of <see cref="TransferEventDocument"/>, one per line.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record OpenTransferDocument
{
    /// <summary>The object that is meant; another one that took its name meanwhile is refused.</summary>
    public required ulong ObjectId { get; init; }

    /// <summary>The port of the host's NIC that it leaves by; null for the first whose cable is in.</summary>
    public int? Port { get; init; }
}

/// <summary>
/// <c>POST /v1/transfers/{id}/start</c>: send the object into memory that the other host has lent to
/// <see cref="TransferDocument.Local"/>; answered by the <see cref="TransferDocument"/>.
/// </summary>
[JsonUnmappedMemberHandling(JsonUnmappedMemberHandling.Disallow)]
public sealed record StartTransferDocument
{
    /// <summary>The other host's end, from its lease.</summary>
    public required ConnectionEndDocument Peer { get; init; }

    public required uint Rkey { get; init; }

    public required ulong Va { get; init; }

    /// <summary>Of the lent region; it must hold the whole object.</summary>
    public required ulong LengthBytes { get; init; }

    /// <summary>Give up when nothing moves for so long, in milliseconds.</summary>
    public int StallTimeoutMs { get; init; } = (int)BulkTransfer.DefaultStallMax.TotalMilliseconds;
}

/// <summary>An object that is about to be sent. It lasts as long as the stream that it came on.</summary>
public sealed record TransferDocument
{
    public required ulong Id { get; init; }

    public required ulong ObjectId { get; init; }

    public required ulong SizeBytes { get; init; }

    /// <summary>The end to which the other host lends its memory.</summary>
    public required ConnectionEndDocument Local { get; init; }

    internal static TransferDocument From(OutgoingTransfer transfer) => new()
    {
        Id = transfer.Id,
        ObjectId = transfer.Source.Id,
        SizeBytes = transfer.Source.SizeBytes,
        Local = ConnectionEndDocument.From(transfer.Local),
    };
}

/// <summary>What a line of the stream of a transfer says.</summary>
public enum TransferEventKind
{
    /// <summary>The first line: our end.</summary>
    Transfer,

    /// <summary>Ten times a second: how far it is.</summary>
    Progress,

    /// <summary>A last line: every byte has arrived.</summary>
    Done,

    /// <summary>A last line: it failed; the line says how.</summary>
    Failed,

    /// <summary>A last line: the host stops. A stream that ends without a last line was cut.</summary>
    HostStops,
}

/// <summary>One line of the stream of a transfer.</summary>
public sealed record TransferEventDocument
{
    public string Schema { get; set; } = "wayleave.transfer_event.v1";

    public required TransferEventKind Event { get; init; }

    /// <summary>On the host's clock, in microseconds since it started.</summary>
    public required double AtUs { get; init; }

    public TransferDocument? Transfer { get; init; }

    /// <summary>Bytes that have arrived.</summary>
    public ulong CompletedBytes { get; init; }

    /// <summary>
    /// From the first posted byte to the last completion; in the last line of a transfer that is done.
    /// </summary>
    public double? ElapsedUs { get; init; }

    /// <summary>How the first request that failed ended; absent when something else failed.</summary>
    public WorkCompletionStatus? Status { get; init; }

    /// <summary>What else failed: its error number's name, the reason and what to do.</summary>
    public string? Errno { get; init; }

    public string? Reason { get; init; }

    public string? Remedy { get; init; }
}
