using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>How the captured dialog ended.</summary>
public sealed record VectorExpectation
{
    public required PerSide<IReadOnlyList<VectorCompletion>> Completions { get; init; }

    public required IReadOnlyList<VectorSilence> NoCompletion { get; init; }

    /// <summary><c>RESET</c>, <c>RTS</c>, <c>ERR</c> and so on.</summary>
    public required PerSide<string> FinalQpState { get; init; }

    public required IReadOnlyList<VectorMemory> PeerMemory { get; init; }
}

/// <summary>Something that both sides have.</summary>
public sealed record PerSide<T>([property: JsonPropertyName("A")] T A, [property: JsonPropertyName("B")] T B);

/// <summary>
/// A completion, in the order of its queue. On an error only the id and the status are defined; the rest is null.
/// </summary>
public sealed record VectorCompletion
{
    public required ulong WrId { get; init; }

    /// <summary>The libibverbs name: <c>IBV_WC_SUCCESS</c>.</summary>
    public required string Status { get; init; }

    /// <summary>The libibverbs name: <c>IBV_WC_RECV</c>.</summary>
    public required string? Opcode { get; init; }

    public required uint? ByteLen { get; init; }

    /// <summary>Without <c>IBV_WC_</c>.</summary>
    public required IReadOnlyList<string>? WcFlags { get; init; }

    public required HexNumber? Imm { get; init; }
}

/// <summary>No completion of that side, or of that work request, in that time.</summary>
public sealed record VectorSilence(string Side, int? WorkRequest, int NoneWithinMs);

/// <summary>What a range of memory holds afterwards.</summary>
public sealed record VectorMemory
{
    public required string Side { get; init; }

    public required HexNumber Va { get; init; }

    public required int Length { get; init; }

    public required string Sha256 { get; init; }
}
