using System.Text.Json;
using System.Text.Json.Serialization;

namespace Wayleave.Scenarios.Vectors;

/// <summary>
/// The description that goes with a capture of two RDMA stacks: both queue pairs, their memory and work requests, what
/// was to come of them, and how the packets hang together. <c>tests/vectors/README.txt</c> explains every field; the
/// names here are the same.
/// </summary>
public sealed record CaptureVector
{
    /// <summary>The dialog that was played.</summary>
    public required string Case { get; init; }

    /// <summary>Null when the capture holds nothing that could be replayed.</summary>
    public required VectorReplay? Replay { get; init; }

    /// <summary>One per packet of the capture, in order.</summary>
    public required IReadOnlyList<VectorPacket> Packets { get; init; }

    /// <summary>Reads a description; members that this version does not know are ignored.</summary>
    /// <exception cref="FormatException">
    /// It is no description: the message says where and why in one line, without the name of the file.
    /// </exception>
    public static CaptureVector Parse(ReadOnlySpan<byte> json)
    {
        ReadOnlySpan<byte> text = json.StartsWith("\uFEFF"u8) ? json["\uFEFF"u8.Length..] : json;
        try
        {
            CaptureVector vector = JsonSerializer.Deserialize(text, VectorJson.Default.CaptureVector)
                ?? throw new FormatException("null is not the description of a capture");
            vector.Check();
            return vector;
        }
        catch (JsonException e)
        {
            throw new FormatException($"not the description of a capture: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    private void Check()
    {
        for (int i = 0; i < Packets.Count; i++)
        {
            if (Packets[i].Index != i)
            {
                throw new FormatException($"packets[{i}] has the index {Packets[i].Index}");
            }

            if (Packets[i].Answers is { } answers && (answers < 0 || answers >= i))
            {
                throw new FormatException($"packets[{i}] answers packet {answers}, which is not before it");
            }
        }
    }
}

/// <summary>One packet as the description has it; the capture holds its bytes.</summary>
public sealed record VectorPacket
{
    public required int Index { get; init; }

    [JsonPropertyName("t_us")]
    public required long TimeMicroseconds { get; init; }

    /// <summary><c>A->B</c> or <c>B->A</c>.</summary>
    public required string Direction { get; init; }

    public required string Opcode { get; init; }

    public required uint Psn { get; init; }

    /// <summary>The four bytes in the order they travel.</summary>
    public required string Icrc { get; init; }

    /// <summary>Of a request: the sender's work request that explains it.</summary>
    public int? WorkRequest { get; init; }

    /// <summary>Of a request sent again: <c>timeout</c>, <c>rnr</c> or <c>nak_psn_sequence</c>.</summary>
    public string? Retransmission { get; init; }

    /// <summary>Of a response: the request that caused it.</summary>
    public int? Answers { get; init; }

    /// <summary>The receiver never got the packet.</summary>
    public bool Dropped { get; init; }

    /// <summary>Why the requester did not use a response.</summary>
    public string? Ignored { get; init; }

    [JsonIgnore]
    public bool IsFromA => Direction == "A->B";
}

/// <summary>All that is needed to build both queue pairs and to play either side.</summary>
public sealed record VectorReplay
{
    /// <summary>The one version this library knows.</summary>
    public const int KnownSchema = 1;

    public required int Schema { get; init; }

    /// <summary>Whose behaviour the packets show: <c>rxe</c>.</summary>
    public required string Profile { get; init; }

    [JsonPropertyName("A")]
    public required VectorSide A { get; init; }

    [JsonPropertyName("B")]
    public required VectorSide B { get; init; }

    public required VectorLoss? Loss { get; init; }

    public required VectorExpectation Expect { get; init; }
}

/// <summary>Which packets the capture shows although the receiver never got them.</summary>
public sealed record VectorLoss(string Direction, int EveryNth, IReadOnlyList<int> DroppedPacketIndexes);
