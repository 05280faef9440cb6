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
    private const long TimeMicrosecondsMax = 1_000_000_000_000_000; // thirty years

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

    // What the types cannot say.
    private void Check()
    {
        HasNoNull(Packets, "packets");
        for (int i = 0; i < Packets.Count; i++)
        {
            VectorPacket packet = Packets[i];
            Require(packet.Index == i, $"packets[{i}] has the index {packet.Index}");
            Require(packet.Direction is "A->B" or "B->A", $"packets[{i}] has the direction {packet.Direction}");
            Require(
                packet.TimeMicroseconds is >= 0 and <= TimeMicrosecondsMax,
                $"packets[{i}] has the time {packet.TimeMicroseconds}");
            Require(
                packet.Answers is null || (packet.Answers >= 0 && packet.Answers < i),
                $"packets[{i}] answers packet {packet.Answers}, which is not before it");
        }

        if (Replay is { } replay)
        {
            Check(replay.A, "A");
            Check(replay.B, "B");
            Check(replay.Expect);
        }
    }

    private static void Check(VectorSide side, string name)
    {
        HasNoNull(side.Mrs, $"{name}.mrs");
        HasNoNull(side.Mws, $"{name}.mws");
        HasNoNull(side.Recv, $"{name}.recv");
        HasNoNull(side.WorkRequests, $"{name}.work_requests");
        HasNoNull(side.Qp.AccessFlags ?? [], $"{name}.qp.access_flags");
        foreach (VectorRegion region in side.Mrs)
        {
            HasNoNull(region.Access, $"{name}.mrs.access");
            HasNoNull(region.InitialContent.Overrides ?? [], $"{name}.mrs.initial_content.overrides");
            Require(region.LKey.IsUInt32 && region.RKey.IsUInt32, $"{name}.mrs has a key of more than 32 bits");
        }

        foreach (VectorReceive receive in side.Recv)
        {
            Check(receive.Sge, $"{name}.recv.sge");
        }

        foreach (VectorWorkRequest request in side.WorkRequests)
        {
            HasNoNull(request.Flags, $"{name}.work_requests.flags");
            Check(request.Sge, $"{name}.work_requests.sge");
            Require(
                request.RKey is null or { IsUInt32: true } && request.Imm is null or { IsUInt32: true },
                $"{name}.work_requests has a key or an immediate of more than 32 bits");
        }
    }

    private static void Check(VectorExpectation expect)
    {
        HasNoNull(expect.NoCompletion, "expect.no_completion");
        HasNoNull(expect.PeerMemory, "expect.peer_memory");
        foreach (IReadOnlyList<VectorCompletion> completions in new[] { expect.Completions.A, expect.Completions.B })
        {
            HasNoNull(completions, "expect.completions");
            foreach (VectorCompletion completion in completions)
            {
                HasNoNull(completion.WcFlags ?? [], "expect.completions.wc_flags");
            }
        }
    }

    private static void Check(IReadOnlyList<VectorSge> sges, string path)
    {
        HasNoNull(sges, path);
        Require(sges.All(s => s.LKey.IsUInt32), $"{path} has a key of more than 32 bits");
    }

    // The serializer holds members against their nullability, but not the elements of lists.
    private static void HasNoNull<T>(IEnumerable<T?> items, string path)
        where T : class => Require(items.All(i => i is not null), $"{path} has an element that is null");

    private static void Require(bool holds, string problem)
    {
        if (!holds)
        {
            throw new FormatException($"not the description of a capture: {problem}");
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
