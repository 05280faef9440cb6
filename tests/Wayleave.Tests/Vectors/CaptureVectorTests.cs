using System.Text;
using Wayleave.Scenarios.Vectors;
using Wayleave.Tests.Rdma.Wire;
using Xunit;
using SplitMix64 = Wayleave.Simulation.SplitMix64;

namespace Wayleave.Tests.Vectors;

/// <summary>Reading descriptions: those of the repository, and broken ones.</summary>
public class CaptureVectorTests
{
    private const string Sample = "send_only";

    private static readonly byte[] s_replacements = [.. "019f\"{}[],:-x "u8];

    public static TheoryData<string> Names => new(CaptureFiles.DescribedNames);

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_description_can_be_read(string name)
    {
        CaptureVector vector = CapturedDialog.Vector(name, CaptureFiles.Folder);
        Assert.Equal(CapturedDialog.Capture(name, CaptureFiles.Folder).Packets.Count, vector.Packets.Count);
    }

    [Theory]
    [InlineData("\"case\"", "\"cas\"", "case")]
    [InlineData("\"schema\": 1", "\"schema\": \"one\"", "schema")]
    [InlineData("\"va\": \"0x20000000\"", "\"va\": \"20000000\"", "0x")]
    [InlineData("\"A->B\"", "null", "direction")]
    [InlineData("\"mrs\": [", "\"mrs\": [null, ", "mrs")]
    [InlineData("\"flags\": [", "\"flags\": [null, ", "flags")]
    [InlineData("\"lkey\": \"0x", "\"lkey\": \"0x1000", "32 bits")]
    [InlineData("\"A->B\"", "\"A-B\"", "direction A-B")]
    [InlineData("\"t_us\": 0", "\"t_us\": 9223372036854775807", "time")]
    [InlineData("\"answers\": 0", "\"answers\": 1", "answers packet 1")]
    [InlineData("{\"index\": 0, \"t_us\"", "{\"index\": 5, \"t_us\"", "index 5")]
    public void A_broken_description_is_refused_in_one_line(string from, string to, string names)
    {
        byte[] json = CapturedDialog.ChangedDescription(Sample, from, to);
        FormatException refusal = Assert.Throws<FormatException>(() => CaptureVector.Parse(json));
        Assert.Contains(names, refusal.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', refusal.Message);
    }

    [Theory]
    [InlineData("\"path_mtu\": 1024,", "\"path_mtu\": 1000,")]
    [InlineData("1048576, \"lkey\"", "10485760000, \"lkey\"")]
    [InlineData("\"sgid_ip\": \"10.77.0.2\"", "\"sgid_ip\": \"10.77.0\"")]
    [InlineData("\"sgid_ip\": \"10.77.0.2\"", "\"sgid_ip\": \"fd77::1\"")]
    [InlineData("\"timeout_code\": 14,\n    \"min_rnr", "\"timeout_code\": 77,\n    \"min_rnr")]
    [InlineData("\"access_flags\": [\"REMOTE_WRITE\"", "\"access_flags\": [\"EVERYTHING\"")]
    [InlineData("\"rule\": \"zero\", \"overrides\": []", "\"rule\": \"same_as\", \"mr\": \"other\", \"overrides\": []")]
    [InlineData(
        "\"overrides\": []",
        "\"overrides\": [{\"offset\": \"0xfffff\", \"length\": 2, \"rule\": \"bytes\", \"seed\": 1}]")]
    [InlineData("\"max_send_wr\": 16", "\"max_send_wr\": 1000000")]
    public void A_description_that_verbs_refuse_is_refused(string from, string to)
    {
        CaptureVector vector = CaptureVector.Parse(CapturedDialog.ChangedDescription(Sample, from, to));
        FormatException refusal = Assert.Throws<FormatException>(
            () => Replayer.Run(CapturedDialog.Capture(Sample), vector, ReplayRole.Responder));
        Assert.DoesNotContain('\n', refusal.Message);
    }

    [Fact]
    public void Every_cut_of_a_description_is_refused()
    {
        byte[] json = CapturedDialog.Description(Sample);
        int length = Encoding.UTF8.GetString(json).TrimEnd().Length;
        for (int cut = 0; cut < length; cut += 7)
        {
            Assert.Throws<FormatException>(() => CaptureVector.Parse(json.AsSpan(0, cut)));
        }
    }

    [Fact]
    public void A_description_with_any_byte_changed_is_played_or_refused()
    {
        Capture capture = CapturedDialog.Capture(Sample);
        byte[] json = CapturedDialog.Description(Sample);
        SplitMix64 random = new(seed: 2026);
        int played = 0;
        for (int offset = 0; offset < json.Length; offset += 1 + random.Next(8))
        {
            byte[] changed = [.. json];
            changed[offset] = s_replacements[random.Next(s_replacements.Length)];
            try
            {
                CaptureVector vector = CaptureVector.Parse(changed);
                Replayer.Run(capture, vector, ReplayRole.Responder);
                Replayer.Run(capture, vector, ReplayRole.Requester);
                played++;
            }
            catch (FormatException refusal)
            {
                Assert.DoesNotContain('\n', refusal.Message);
            }
        }

        Assert.NotEqual(0, played);
    }

    [Fact]
    public void Two_regions_may_share_their_memory()
    {
        CaptureVector vector = CapturedDialog.Vector(Sample);
        VectorReplay replay = vector.Replay!;
        VectorRegion first = replay.B.Mrs[0];
        VectorRegion second = first with
        {
            Name = "window",
            Va = new HexNumber(first.Va.Value + 0x800),
            Length = 4096,
            LKey = new HexNumber(0x7700),
            RKey = new HexNumber(0x7700),
            InitialContent = new VectorContent { Rule = "same_as", Mr = first.Name },
        };
        VectorSide side = replay.B with
        {
            Mrs = [first, second],
            Recv = [.. replay.B.Recv.Select(r => r with { Sge = [new VectorSge(second.Va, 64, second.LKey)] })],
        };
        string sha256 = replay.Expect.PeerMemory.First(m => m.Side == "B" && m.Length == 64).Sha256;
        VectorExpectation expect = replay.Expect with
        {
            PeerMemory = [new VectorMemory { Side = "B", Va = second.Va, Length = 64, Sha256 = sha256 }],
        };
        vector = vector with { Replay = replay with { B = side, Expect = expect } };
        ReplayReport report = Replayer.Run(CapturedDialog.Capture(Sample), vector, ReplayRole.Responder);
        Assert.True(report.Result == ReplayResult.Match, report.ToJson());
    }

    [Theory]
    [InlineData("\"profile\": \"rxe\"", "\"profile\": \"mlx5\"", "behaviour profile \"mlx5\"")]
    [InlineData("\"schema\": 1", "\"schema\": 2", "schema 2")]
    [InlineData("\"mws\": []", "\"mws\": [{\"name\": \"w\"}]", "memory windows")]
    [InlineData("\"state\": \"RTS\"", "\"state\": \"RTR\"", "a queue pair in RTR")]
    [InlineData("[\"SIGNALED\"]", "[\"SIGNALED\", \"IP_CSUM\"]", "the flags or the time of work request 0")]
    public void What_is_not_supported_is_said(string from, string to, string reason)
    {
        CaptureVector vector = CaptureVector.Parse(CapturedDialog.ChangedDescription(Sample, from, to));
        ReplayReport report = Replayer.Run(CapturedDialog.Capture(Sample), vector, ReplayRole.Responder);
        Assert.Equal(ReplayResult.NotSupported, report.Result);
        Assert.StartsWith(reason, report.Reason, StringComparison.Ordinal);
    }
}
