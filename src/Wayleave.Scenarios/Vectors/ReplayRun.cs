using System.Buffers.Binary;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Scenarios.Vectors;

/// <summary>One replay: which capture, and which side of it with which behaviour.</summary>
internal sealed record ReplayInput(
    Capture Capture, CaptureVector Vector, VectorReplay Replay, bool IsSideA, PeerProfile Profile)
{
    public VectorSide Side => IsSideA ? Replay.A : Replay.B;

    /// <summary>As the descriptions write it.</summary>
    public string SideName => IsSideA ? "A" : "B";

    public VectorExpectation Expect => Replay.Expect;

    /// <summary>The port our side's packets leave from: those of a capture have one per connection.</summary>
    // A connection that is made by a manager leaves from the port's own.
    public ushort SourcePort => Vector.Replay is null && Vector.Packets.Any(p => p.Opcode == "UD_SEND_ONLY")
        ? FrameHeader.RocePort
        : FirstSourcePort;

    private ushort FirstSourcePort => Vector.Packets.FirstOrDefault(p => p.IsFromA == IsSideA) is { } first
        ? Capture.Packets[first.Index].Header.SourcePort
        : FrameHeader.RocePort;
}

/// <summary>
/// What both roles of a replay have in common: the machine, the packets, and the list of what differs.
/// </summary>
internal abstract class ReplayRun(ReplayInput input)
{
    // The first difference of each packet, in the order of the capture.
    private readonly SortedDictionary<int, ReplayMismatch> _ofPackets = [];
    private readonly List<ReplayMismatch> _others = [];
    private readonly bool[] _compared = new bool[input.Vector.Packets.Count];

    protected VectorSide Side { get; } = input.Side;

    protected PeerProfile Profile { get; } = input.Profile;

    protected IReadOnlyList<VectorPacket> Packets { get; } = input.Vector.Packets;

    protected ReplayMachine Machine { get; } = new(input.Side, input.SourcePort, input.Profile);

    protected IReadOnlyList<VectorCompletion> ExpectedCompletions { get; } =
        input.IsSideA ? input.Expect.Completions.A : input.Expect.Completions.B;

    /// <summary>How long nothing may complete although it was posted; zero when the description does not say.</summary>
    protected TimeSpan Silence { get; } = TimeSpan.FromMilliseconds(
        input.Expect.NoCompletion.Where(n => n.Side == input.SideName).Max(n => (int?)n.NoneWithinMs) ?? 0);

    private int Fed { get; set; }

    /// <summary>Plays the side and compares everything that the description knows of it.</summary>
    public ReplayReport Run(ReplayRole role)
    {
        if (Side.Qp.State != "RESET")
        {
            PostReceives(r => r.When == "before");
        }

        Play();
        Machine.PollCompletions();
        ReportMissingPackets();
        int completions = CompareCompletions();
        CompareState();
        int ranges = CompareMemory();
        CompareDescription();
        List<ReplayMismatch> mismatches = [.. _ofPackets.Values, .. _others];
        return new ReplayReport
        {
            Case = input.Vector.Case,
            Role = role,
            Side = input.SideName,
            Result = mismatches.Count == 0 ? ReplayResult.Match : ReplayResult.Mismatch,
            PacketsFed = Fed,
            PacketsCompared = _compared.Count(c => c),
            CompletionsCompared = completions,
            MemoryRangesCompared = ranges,
            VirtualMicroseconds = (long)Machine.Now.TotalMicroseconds,
            Mismatches = mismatches,
        };
    }

    protected abstract void Play();

    protected bool IsOurs(VectorPacket packet) => packet.IsFromA == input.IsSideA;

    /// <summary>Gives the machine a packet of its peer, unless it was lost on the way.</summary>
    /// <param name="packet">Which.</param>
    /// <param name="changes">What is changed in its bytes first; its ICRC is made right again.</param>
    protected void Feed(VectorPacket packet, Action<byte[]>? changes = null)
    {
        if (packet.Dropped)
        {
            return;
        }

        CapturedPacket captured = input.Capture.Packets[packet.Index];
        ReadOnlySpan<byte> bytes = captured.Bytes.Span;
        if (changes is not null)
        {
            byte[] changed = bytes.ToArray();
            changes(changed);
            FrameHeader header = captured.Header;
            Icrc.Seal(
                new IcrcFlow(header.Source, header.Destination, header.SourcePort, header.DestinationPort),
                header.Identification,
                changed);
            bytes = changed;
        }

        Machine.Feed(captured, bytes);
        Fed++;
    }

    /// <summary>The headers of a captured packet; false when it is damaged beyond that.</summary>
    protected bool TryView(VectorPacket packet, out PacketView view) =>
        input.Capture.Packets[packet.Index].TryView(out view);

    protected void PostReceives(Func<VectorReceive, bool> isDue)
    {
        foreach (VectorReceive receive in Side.Recv.Where(isDue))
        {
            NotePost(Machine.Post(receive), $"receive {receive.Index}");
        }
    }

    protected void NotePost(Errno errno, string what)
    {
        if (errno != Errno.Success)
        {
            AddMismatch(what, "post", "Success", errno.ToString());
        }
    }

    protected void AddMismatch(string where, string field, string expected, string got) =>
        _others.Add(new ReplayMismatch(where, field, expected, got));

    protected void AddPacketMismatch(VectorPacket packet, string field, string expected, string got) =>
        _ofPackets.TryAdd(packet.Index, new ReplayMismatch($"packet {packet.Index}", field, expected, got));

    /// <summary>Compares what the machine sends with the packet of the capture that it should be.</summary>
    protected void Compare(VectorPacket expected, ReadOnlySpan<byte> got, in Transmit transmit) =>
        Compare(expected, got, transmit, got);

    /// <summary>The same of one that may differ in something: <paramref name="same"/> has it as the capture.</summary>
    protected void Compare(
        VectorPacket expected, ReadOnlySpan<byte> got, in Transmit transmit, ReadOnlySpan<byte> same)
    {
        _compared[expected.Index] = true;
        CapturedPacket captured = input.Capture.Packets[expected.Index];
        FieldDifference? difference = PacketComparison.FirstDifference(captured.Bytes.Span, same)
            ?? OfDestination(captured, transmit)
            ?? OfIcrc(captured, got, same);
        if (difference is not null)
        {
            AddPacketMismatch(expected, difference.Field, difference.Expected, difference.Got);
        }
    }

    /// <summary>What a packet is that nothing in the capture corresponds to.</summary>
    protected static string Describe(ReadOnlySpan<byte> packet) =>
        PacketView.TryParse(packet, out PacketView view) == DropReason.None
            ? $"{OpcodeTraits.NameOf(view.Opcode)} psn 0x{view.Psn:x6}"
            : "a malformed packet";

    private static FieldDifference? OfDestination(CapturedPacket captured, in Transmit transmit)
    {
        (string expected, string got) = (
            $"{captured.Header.Destination} port {captured.Header.DestinationPort}",
            $"{transmit.Destination} port {transmit.DestinationPort}");
        return expected == got ? null : new FieldDifference("destination", expected, got);
    }

    // Our port numbers the segments of a super-packet from 0 and rxe counts on: the ICRC must be right in our framing,
    // and the same in the capture's.
    private FieldDifference? OfIcrc(CapturedPacket captured, ReadOnlySpan<byte> got, ReadOnlySpan<byte> same)
    {
        if (!Icrc.Verify(Machine.Flow, identification: 0, got))
        {
            return new FieldDifference("icrc as sent", "valid", "not valid");
        }

        byte[] framed = same.ToArray();
        FrameHeader header = captured.Header;
        IcrcFlow flow = new(header.Source, header.Destination, header.SourcePort, header.DestinationPort);
        Icrc.Seal(flow, header.Identification, framed);
        ReadOnlySpan<byte> expected = captured.Bytes.Span[^PacketView.IcrcSize..];
        ReadOnlySpan<byte> actual = framed.AsSpan()[^PacketView.IcrcSize..];
        return expected.SequenceEqual(actual)
            ? null
            : new FieldDifference("icrc", Convert.ToHexStringLower(expected), Convert.ToHexStringLower(actual));
    }

    private void ReportMissingPackets()
    {
        foreach (VectorPacket packet in Packets.Where(p => IsOurs(p) && !_compared[p.Index]))
        {
            AddPacketMismatch(packet, "packet", $"{packet.Opcode} psn 0x{packet.Psn:x6}", "nothing");
        }
    }

    private int CompareCompletions()
    {
        IReadOnlyList<WorkCompletion> got = Machine.Completions;
        int common = Math.Min(got.Count, ExpectedCompletions.Count);
        for (int i = 0; i < common; i++)
        {
            if (FirstDifference(ExpectedCompletions[i], got[i]) is { } difference)
            {
                AddMismatch($"completion {i}", difference.Field, difference.Expected, difference.Got);
            }
        }

        for (int i = common; i < ExpectedCompletions.Count; i++)
        {
            VectorCompletion missing = ExpectedCompletions[i];
            AddMismatch($"completion {i}", "completion", $"{missing.Status} of wr_id {missing.WrId}", "nothing");
        }

        for (int i = common; i < got.Count; i++)
        {
            string extra = $"{VerbsNames.Of(got[i].Status)} of wr_id {got[i].WrId}";
            AddMismatch($"completion {i}", "completion", "nothing", extra);
        }

        return common;
    }

    // Null fields are undefined: verbs promise only the id and the status of a request that failed.
    private static FieldDifference? FirstDifference(VectorCompletion expected, in WorkCompletion got)
    {
        bool hasImmediate = (got.Flags & WorkCompletionFlags.WithImmediate) != 0;
        string? flags = expected.WcFlags is { } names ? VerbsNames.Join(names) : null;
        return Compare("wr_id", $"{expected.WrId}", $"{got.WrId}")
            ?? Compare("status", expected.Status, VerbsNames.Of(got.Status))
            ?? Compare("opcode", expected.Opcode, VerbsNames.Of(got.Opcode))
            ?? Compare("byte_len", expected.ByteLen is { } length ? $"{length}" : null, $"{got.ByteLength}")
            ?? Compare("wc_flags", flags, VerbsNames.Of(got.Flags))
            ?? Compare("imm", expected.Imm?.ToString(), hasImmediate ? $"0x{got.Immediate:x}" : "none");

        static FieldDifference? Compare(string field, string? expected, string got) =>
            expected is null || expected == got ? null : new FieldDifference(field, expected, got);
    }

    private void CompareState()
    {
        string expected = input.IsSideA ? input.Expect.FinalQpState.A : input.Expect.FinalQpState.B;
        string got = VerbsNames.Of(Machine.State);
        if (expected != got)
        {
            AddMismatch("queue pair", "state", expected, got);
        }
    }

    private int CompareMemory()
    {
        int compared = 0;
        foreach (VectorMemory memory in input.Expect.PeerMemory.Where(m => m.Side == input.SideName))
        {
            compared++;
            string where = $"memory {memory.Va}+{memory.Length}";
            if (!Machine.TryRead(memory.Va.Value, memory.Length, out ReadOnlySpan<byte> bytes))
            {
                AddMismatch(where, "range", "in a region", "in none");
                continue;
            }

            string sha256 = Convert.ToHexStringLower(SHA256.HashData(bytes));
            if (sha256 != memory.Sha256)
            {
                AddMismatch(where, "sha256", memory.Sha256, sha256);
            }
        }

        return compared;
    }

    // A description of another capture, or of one that was changed since, would compare nothing.
    private void CompareDescription()
    {
        foreach (VectorPacket packet in Packets)
        {
            CapturedPacket captured = input.Capture.Packets[packet.Index];
            if (captured.Verdict != IcrcVerdict.Ok)
            {
                AddPacketMismatch(packet, "icrc verdict", "ok", PacketText.Word(captured.Verdict));
            }
            else if (captured.TryView(out PacketView view))
            {
                Expect(packet, "opcode in the description", packet.Opcode, OpcodeTraits.NameOf(view.Opcode));
                Expect(packet, "psn in the description", $"0x{packet.Psn:x6}", $"0x{view.Psn:x6}");
                uint icrc = BinaryPrimitives.ReverseEndianness(view.Icrc);
                Expect(packet, "icrc in the description", packet.Icrc, $"{icrc:x8}");
            }
        }

        void Expect(VectorPacket packet, string field, string described, string captured)
        {
            if (described != captured)
            {
                AddPacketMismatch(packet, field, captured, described);
            }
        }
    }
}
