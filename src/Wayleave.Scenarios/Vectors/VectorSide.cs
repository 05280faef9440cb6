using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>One end of the captured connection, before the first packet.</summary>
public sealed record VectorSide
{
    public required VectorQueuePair Qp { get; init; }

    public required IReadOnlyList<VectorRegion> Mrs { get; init; }

    /// <summary>Memory windows.</summary>
    public required IReadOnlyList<VectorWindow> Mws { get; init; }

    /// <summary>In the order posted.</summary>
    public required IReadOnlyList<VectorReceive> Recv { get; init; }

    /// <summary>In the order posted.</summary>
    public required IReadOnlyList<VectorWorkRequest> WorkRequests { get; init; }
}

/// <summary>
/// A queue pair's attributes, with the names and numbers of libibverbs; null does not apply to its type or state.
/// </summary>
public sealed record VectorQueuePair
{
    public required uint Qpn { get; init; }

    /// <summary><c>RC</c>, <c>UC</c> or <c>UD</c>.</summary>
    public required string Type { get; init; }

    /// <summary><c>RTS</c>, or <c>RESET</c> for a queue pair that was never modified.</summary>
    public required string State { get; init; }

    public required string SgidIp { get; init; }

    public required string DgidIp { get; init; }

    public required uint? DestQpn { get; init; }

    /// <summary>Bytes.</summary>
    public required int? PathMtu { get; init; }

    public required IReadOnlyList<string>? AccessFlags { get; init; }

    /// <summary>UD only.</summary>
    [JsonPropertyName("qkey")]
    public HexNumber? QKey { get; init; }

    public required uint? SqPsn { get; init; }

    public required uint? RqPsn { get; init; }

    public required int? RetryCnt { get; init; }

    public required int? RnrRetry { get; init; }

    public required int? TimeoutCode { get; init; }

    public required int? MinRnrTimerCode { get; init; }

    public required int? MaxRdAtomic { get; init; }

    public required int? MaxDestRdAtomic { get; init; }

    public required VectorCapabilities Cap { get; init; }
}

/// <summary>Sizes of a queue pair's queues (<c>struct ibv_qp_cap</c>).</summary>
public sealed record VectorCapabilities(
    int MaxSendWr, int MaxRecvWr, int MaxSendSge, int MaxRecvSge, int MaxInlineData);

/// <summary>A memory region and the bytes in it before the first work request.</summary>
public sealed record VectorRegion
{
    public required string Name { get; init; }

    public required HexNumber Va { get; init; }

    public required ulong Length { get; init; }

    [JsonPropertyName("lkey")]
    public required HexNumber LKey { get; init; }

    [JsonPropertyName("rkey")]
    public required HexNumber RKey { get; init; }

    public required IReadOnlyList<string> Access { get; init; }

    public required VectorContent InitialContent { get; init; }
}

/// <summary>
/// Contents of a region: <c>zero</c>, then the overrides in order; or <c>same_as</c>, the memory of the region that
/// <see cref="Mr"/> names.
/// </summary>
public sealed record VectorContent
{
    public required string Rule { get; init; }

    public string? Mr { get; init; }

    public IReadOnlyList<VectorFill>? Overrides { get; init; }
}

/// <summary>
/// Bytes of a range: <c>bytes</c> counts from a seed in steps of 7, <c>u64le</c> is one little-endian value.
/// </summary>
public sealed record VectorFill
{
    public required HexNumber Offset { get; init; }

    public required int Length { get; init; }

    public required string Rule { get; init; }

    public int? Seed { get; init; }

    public HexNumber? Value { get; init; }
}

/// <summary>A memory window; only that there is one matters here.</summary>
public sealed record VectorWindow(string Name);

/// <summary>A receive and when it was posted.</summary>
public sealed record VectorReceive
{
    public required int Index { get; init; }

    public required ulong WrId { get; init; }

    public required IReadOnlyList<VectorSge> Sge { get; init; }

    /// <summary><c>before</c> the first work request, or <c>after_ms</c>.</summary>
    public required string When { get; init; }

    /// <summary>Milliseconds after the first post.</summary>
    public int? AfterMs { get; init; }

    /// <summary>The packet that was the first to find the receive.</summary>
    public int? BeforePacket { get; init; }
}

/// <summary>A work request of the send queue and when it was posted.</summary>
public sealed record VectorWorkRequest
{
    public required int Index { get; init; }

    public required ulong WrId { get; init; }

    /// <summary>The libibverbs name: <c>IBV_WR_SEND</c>.</summary>
    public required string Opcode { get; init; }

    /// <summary>Without <c>IBV_SEND_</c>.</summary>
    public required IReadOnlyList<string> Flags { get; init; }

    public required IReadOnlyList<VectorSge> Sge { get; init; }

    public HexNumber? RemoteAddr { get; init; }

    [JsonPropertyName("rkey")]
    public HexNumber? RKey { get; init; }

    public HexNumber? Imm { get; init; }

    /// <summary>Compare-and-swap: what the peer's eight bytes must hold.</summary>
    public HexNumber? Compare { get; init; }

    /// <summary>What they become, or what is added to them.</summary>
    public HexNumber? SwapOrAdd { get; init; }

    /// <summary>UD only: where it goes.</summary>
    public VectorAddressHandle? Ah { get; init; }

    public required VectorPost Post { get; init; }
}

/// <summary>Where a datagram goes.</summary>
public sealed record VectorAddressHandle
{
    public required string DgidIp { get; init; }

    public required uint RemoteQpn { get; init; }

    [JsonPropertyName("remote_qkey")]
    public required HexNumber RemoteQKey { get; init; }
}

/// <summary>A piece of local memory.</summary>
public sealed record VectorSge(HexNumber Va, uint Length, [property: JsonPropertyName("lkey")] HexNumber LKey);

/// <summary><c>start</c>, or <c>after_completion</c> of a work request of a side.</summary>
public sealed record VectorPost(string When, string? Side = null, int? WorkRequest = null);
