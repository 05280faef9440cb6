using System.Buffers.Binary;
using System.Text.Json;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Scenarios.Vectors;
using Wayleave.Tests.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Vectors;

/// <summary>Plays both sides of every capture of a kernel rxe with our own machine.</summary>
public class ReplayTests
{
    // What is not replayed yet, and why. It may only get shorter.
    private static readonly SortedDictionary<string, string> s_notSupported = new(StringComparer.Ordinal);

    private static readonly string[] s_sides = ["A", "B"];

    public static TheoryData<string, ReplayRole> Roles
    {
        get
        {
            TheoryData<string, ReplayRole> roles = [];
            foreach (string name in CaptureFiles.DescribedNames)
            {
                roles.Add(name, ReplayRole.Responder);
                roles.Add(name, ReplayRole.Requester);
            }

            return roles;
        }
    }

    [Theory]
    [MemberData(nameof(Roles))]
    public void ROCE_01_A_capture_of_rxe_is_what_our_side_does_in_its_place(string name, ReplayRole role)
    {
        ReplayReport report = Replayer.Run(
            CapturedDialog.Capture(name, CaptureFiles.Folder), CapturedDialog.Vector(name, CaptureFiles.Folder), role);
        Assert.True(report.Result != ReplayResult.Mismatch, report.ToJson());
        Assert.Equal(IsSupported(name), report.Result == ReplayResult.Match);
        if (report.Result == ReplayResult.Match)
        {
            AssertComparedEverything(name, report);
        }
    }

    [Fact]
    public void What_is_not_replayed_yet_is_this_list()
    {
        IEnumerable<string> unsupported =
            from file in Directory.EnumerateFiles(CaptureFiles.RepositoryFolder, "*.pcap").Order(StringComparer.Ordinal)
            let name = Path.GetFileNameWithoutExtension(file)
            let report = Run(name, ReplayRole.Responder)
            where report.Result == ReplayResult.NotSupported
            select $"{name}: {report.Reason}";
        Assert.Equal(s_notSupported.Select(n => $"{n.Key}: {n.Value}"), unsupported);
    }

    [Theory]
    [InlineData("retry_exceeded", 4, 4 * 67_108)]
    [InlineData("rnr_retry_ok", 5, 4 * 10_240)]
    [InlineData("nak_psn_seq", 38, 37 * 67_108)]
    public void ROCE_36_Repetitions_wait_for_their_timers(string name, int transmissions, long microseconds)
    {
        ReplayReport report = Run(name, ReplayRole.Requester);
        Assert.Equal(ReplayResult.Match, report.Result);
        Assert.Equal(transmissions, report.PacketsCompared);
        Assert.InRange(report.VirtualMicroseconds, microseconds, microseconds + 67_108);
    }

    [Theory]
    [InlineData("loss_req_3rd", ReplayRole.Responder, "packet 9", "psn")]
    [InlineData("nak_recv_too_small", ReplayRole.Responder, "packet 1", "aeth.syndrome")]
    [InlineData("nak_psn_seq", ReplayRole.Requester, "packet 9", "packet")]
    [InlineData("send_imm", ReplayRole.Requester, "completion 0", "wc_flags")]
    public void Behaviour_that_is_not_the_captured_one_is_reported(
        string name, ReplayRole role, string where, string field)
    {
        (Capture capture, CaptureVector vector) = (CapturedDialog.Capture(name), CapturedDialog.Vector(name));
        ReplayReport report = Replayer.Run(capture, vector, role, PeerProfile.Default);
        Assert.Equal(ReplayResult.Mismatch, report.Result);
        Assert.Contains(report.Mismatches, m => m.Where == where && m.Field == field);
    }

    // What a replay needs for itself is where it is customary, or where the capture has nothing.
    [Theory]
    [InlineData("userspace_peer_v4", 0x1000_0000UL)]
    [InlineData("userspace_peer_v4", 0x1000_1840UL)]
    [InlineData("userspace_peer_v6", 0x0FFF_FFC0UL)]
    [InlineData("cm_rping", 0x1000_0000UL)]
    [InlineData("cm_rping", 0x1000_3000UL)]
    public void A_capture_may_name_any_address(string name, ulong first)
    {
        ulong least = CapturedDialog.Capture(name).Packets.Min(p => VaOf(p.Bytes.ToArray()) ?? ulong.MaxValue);
        Capture moved = CapturedDialog.WithPackets(name, (_, bytes) =>
        {
            if (VaOf(bytes) is { } va)
            {
                BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(Bth.Size), va - least + first);
            }
        });
        CaptureVector vector = CapturedDialog.Vector(name);
        vector = vector with
        {
            Packets =
            [
                .. vector.Packets.Zip(
                    moved.Packets, (v, p) => v with { Icrc = Convert.ToHexStringLower(p.Bytes.Span[^4..]) }),
            ],
        };
        foreach (ReplayRole role in Enum.GetValues<ReplayRole>())
        {
            ReplayReport report = Replayer.Run(moved, vector, role);
            Assert.True(report.Result == ReplayResult.Match, report.ToJson());
        }
    }

    [Fact]
    public void A_free_place_is_found_behind_what_is_taken_or_below_it()
    {
        Assert.Equal(0x1000_0000UL, DialogVector.FreeVa([], 8192));
        Assert.Equal(0x1000_0000UL, DialogVector.FreeVa([(0x1000_2000, 0x1000_3000)], 8192));
        Assert.Equal(0x1000_4000UL, DialogVector.FreeVa([(0x1000_2000, 0x1000_3001), (0, 0x1000_0001)], 8192));
        Assert.Equal(0x1000UL, DialogVector.FreeVa([(0x1000_1FFF, ulong.MaxValue - 4096)], 8192));
        DialogVector.FreeVa([(0, ulong.MaxValue)], 8192); // ends
    }

    private static ulong? VaOf(byte[] packet) =>
        PacketView.TryParse(packet, out PacketView view) == DropReason.None
            && (view.Traits.Has(ExtensionHeaders.AtomicEth) || view.Traits.Has(ExtensionHeaders.Reth))
            ? BinaryPrimitives.ReadUInt64BigEndian(packet.AsSpan(Bth.Size))
            : null;

    [Fact]
    public void The_json_of_a_report_names_its_form()
    {
        using JsonDocument json = JsonDocument.Parse(Run("send_only", ReplayRole.Responder).ToJson());
        Assert.Equal("wayleave.roce_replay.v1", json.RootElement.GetProperty("schema").GetString());
        Assert.Equal("responder", json.RootElement.GetProperty("role").GetString());
        Assert.Equal("match", json.RootElement.GetProperty("result").GetString());
        Assert.Equal(1, json.RootElement.GetProperty("packets_compared").GetInt32());
    }

    private static ReplayReport Run(string name, ReplayRole role) =>
        Replayer.Run(CapturedDialog.Capture(name), CapturedDialog.Vector(name), role);

    // Asked of the description's text, not of our model of it.
    private static bool IsSupported(string name)
    {
        using JsonDocument json = CaptureFiles.Description(name);
        JsonElement replay = json.RootElement.GetProperty("replay");
        return replay.ValueKind == JsonValueKind.Null
            || s_sides.All(s => replay.GetProperty(s).GetProperty("mws").GetArrayLength() == 0);
    }

    // A replay that stops early, or that looks at nothing, would match too.
    private static void AssertComparedEverything(string name, ReplayReport report)
    {
        CaptureVector vector = CapturedDialog.Vector(name, CaptureFiles.Folder);
        bool isA = report.Side == "A";
        Assert.Equal(vector.Packets.Count(p => p.IsFromA == isA), report.PacketsCompared);
        Assert.Equal(vector.Packets.Count(p => p.IsFromA != isA && !p.Dropped), report.PacketsFed);
        if (vector.Replay is null)
        {
            AssertComparedDialog(vector, report, isA);
            return;
        }

        VectorExpectation expect = vector.Replay.Expect;
        Assert.Equal((isA ? expect.Completions.A : expect.Completions.B).Count, report.CompletionsCompared);
        Assert.Equal(expect.PeerMemory.Count(m => m.Side == report.Side), report.MemoryRangesCompared);
    }

    // Without a replay object: what our side asked for completes, and so does a receive for each SEND of the peer; what
    // the peer wrote, or answered with, is somewhere.
    private static void AssertComparedDialog(CaptureVector vector, ReplayReport report, bool isA)
    {
        string[] asks = ["RC_SEND_ONLY", "RC_WRITE_ONLY", "RC_READ_REQUEST", "RC_FETCH_ADD"];
        int asked = vector.Packets.Count(p => p.IsFromA == isA && asks.Contains(p.Opcode));
        int received = vector.Packets.Count(p => p.IsFromA != isA && p.Opcode == "RC_SEND_ONLY");
        string[] bytes = ["RC_SEND_ONLY", "RC_WRITE_ONLY", "RC_READ_RESP_ONLY", "RC_FETCH_ADD"];
        int brought = vector.Packets.Count(p => p.IsFromA != isA && bytes.Contains(p.Opcode));
        Assert.Equal(asked + received, report.CompletionsCompared);
        Assert.InRange(report.MemoryRangesCompared, Math.Min(brought, 1), brought + asked);
    }
}
