using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>A proof that was changed afterwards, one lie at a time.</summary>
public class ProofCheckTests
{
    private static readonly RetirementProof s_sound = new()
    {
        BufferId = 7,
        Buffer = "model.bin",
        Exporter = "gpu0",
        SizeBytes = 1 << 20,
        Reason = "wanted back",
        Grade = RetirementGrade.Retired,
        RequiredGrade = RetirementGrade.Retired,
        StartedAt = At(100),
        InvalidatedAt = At(103),
        FencesSignaledAt = At(106),
        CompletedAt = At(107),
        Importers =
        [
            new ImporterProof
            {
                Importer = "mr",
                Device = "rdma0",
                Kind = ImporterKind.Dynamic,
                Grade = RetirementGrade.Retired,
                WasMapped = true,
                AcknowledgedAt = At(103),
                Key = 0x100,
                KeyDeadAt = At(101),
                GateClosedAt = At(102),
                InsideAtClose = 1,
                DrainedAt = At(104),
                UnmappedAt = At(105),
                DrainFence = "mr:3:1",
                Drain = DrainState.Ended,
            },
        ],
        Fences = [new FenceProof("mr:3:1", At(104), IsForced: false, HasEnded: true)],
    };

    // A path in the document, what is put there (null takes it away), and what must be found.
    public static TheoryData<string, string?, string> Lies => new()
    {
        { "grade", "\"Drained\"", "the grade is Drained; the evidence amounts to Retired" },
        { "sufficient", "false", "it is said not to suffice, with grade Retired where Retired is required" },
        { "duration_us", "1", "it is said to have taken 1 us; from its start to its end are 7 us" },
        { "completed_at_us", "105", "the revoke: it ended at 00:00:00.0001050, before fences had signalled" },
        { "invalidated_at_us", "99", "the revoke: importers were told at 00:00:00.0000990, before it started" },
        { "invalidated_at_us", null, "fences were waited for before anybody was told to stop" },
        { "cause", "\"still_mapped\"", "the grade suffices, yet the cause is StillMapped" },
        { "required_grade", "\"None\"", "it requires no grade: memory would be given out on time alone" },
        { "importers/0/grade", "\"KeyDead\"", "mr is graded KeyDead; its evidence amounts to Retired" },
        { "importers/0/unmapped_at_us", null, "mr is graded Retired; its evidence amounts to Drained" },
        { "importers/0/drained_at_us", null, "mr is graded Retired; its evidence amounts to KeyDead" },
        { "importers/0/drained_at_us", "101.5", "mr: it had drained at 00:00:00.0001015, before the gate closed" },
        { "importers/0/unmapped_at_us", "103", "mr: unmapped while somebody was inside its gate" },
        { "importers/0/unmapped_at_us", "108", "mr: the revoke ended at 00:00:00.0001070, before it unmapped" },
        { "importers/0/key", null, "mr: a key died, and it is not said which" },
        { "importers/0/gate_closed_at_us", null, "mr: 1 users inside a gate that was not closed" },
        { "importers/0/drain", "\"forced\"", "mr is graded Retired; its evidence amounts to KeyDead" },
        { "importers/0/drain_fence", null, "mr: its drain is Ended, and its fence is missing" },
        { "importers/0/stopped_at_us", "104", "mr: that it is gone needs a cause, a time and a witness" },
        { "fences/0/ended", "false", "the grade is Retired; the evidence amounts to KeyDead" },
        { "fences/0/forced", "true", "" },
        { "fences/0/signaled_at_us", null, "fence mr:3:1 is pending, and yet all are said to have signalled" },
        { "fences/0/signaled_at_us", "108", "fence mr:3:1: the revoke ended at 00:00:00.0001070, before it signalled" },
    };

    [Fact]
    public void A_sound_proof_holds() => Assert.Empty(ProofCheck.FindProblems(ProofDocument.From(s_sound)));

    [Theory]
    [MemberData(nameof(Lies))]
    public void A_lie_is_found(string path, string? value, string problem)
    {
        ProofFile file = ProofFile.Parse(Encoding.UTF8.GetBytes(Change(path, value).ToJsonString()), "test");
        IReadOnlyList<string> found = ProofCheck.FindProblems(Assert.Single(file.Proofs));
        if (problem.Length == 0)
        {
            Assert.Empty(found); // forced, and its owner came after all and said that the work has ended
            return;
        }

        Assert.Contains(found, f => f.StartsWith(problem, StringComparison.Ordinal));
    }

    [Fact]
    public void A_forced_fence_whose_work_never_ended_is_evidence_of_nothing()
    {
        RetirementProof forced = s_sound with
        {
            Fences = [new FenceProof("mr:3:1", At(104), IsForced: true, HasEnded: false)],
        };
        Assert.Contains(
            "the grade is Retired; the evidence amounts to KeyDead",
            ProofCheck.FindProblems(ProofDocument.From(forced)));
        RetirementProof honest = forced with
        {
            Grade = RetirementGrade.KeyDead,
            Cause = QuarantineCause.FenceForced,
        };
        Assert.Empty(ProofCheck.FindProblems(ProofDocument.From(honest)));
    }

    [Fact]
    public void A_file_holds_one_proof_or_several_or_a_report_with_its_counters()
    {
        string one = Change("reason", "\"a\"").ToJsonString();
        Assert.Single(Parse(one).Proofs);
        Assert.Equal(2, Parse(one + "\n" + one + "\n").Proofs.Count);
        Assert.Equal(3, Parse($"[{one},{one}]{one}").Proofs.Count);
        ProofFile report = Parse($$"""{"schema":"x","proof":[{{one}},{{one}}],"late_writes":3,"late_reads":0}""");
        Assert.Equal((2, 3L, 0L), (report.Proofs.Count, report.LateWriteBytes, report.LateReadBytes));
        Assert.Null(Parse($$"""{"id":1,"proof":{{one}}}""").LateWriteBytes);
    }

    [Theory]
    [InlineData("", Errno.EINVAL, "there is no proof in it")]
    [InlineData("[]", Errno.EINVAL, "there is no proof in it")]
    [InlineData("nonsense", Errno.EINVAL, "not JSON: line 1: ")]
    [InlineData("{", Errno.EINVAL, "not JSON: ")]
    [InlineData("1", Errno.EINVAL, "not a proof: ")]
    [InlineData("{}", Errno.EINVAL, "not a proof: it lacks 'buffer")]
    [InlineData("{\"a\":1}", Errno.EINVAL, "not a proof: ")]
    [InlineData("{\"proof\":[]}", Errno.EINVAL, "there is no proof in it")]
    public void What_holds_no_proof_is_told(string text, Errno errno, string reason)
    {
        WayleaveException e = Assert.Throws<WayleaveException>(() => Parse(text));
        Assert.Equal(errno, e.Errno);
        Assert.StartsWith($"read the proof FILE: {reason}", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("Wayleave.", e.Message, StringComparison.Ordinal); // types are ours alone
    }

    private static ProofFile Parse(string text) => ProofFile.Parse(Encoding.UTF8.GetBytes(text), "FILE");

    private static JsonNode Change(string path, string? value)
    {
        JsonNode root = JsonNode.Parse(JsonSerializer.SerializeToUtf8Bytes(
            ProofDocument.From(s_sound), ControlJson.Default.ProofDocument))!;
        string[] names = path.Split('/');
        JsonNode at = root;
        foreach (string name in names[..^1])
        {
            at = at is JsonArray array ? array[int.Parse(name, null)]! : at[name]!;
        }

        if (value is null)
        {
            Assert.True(at.AsObject().Remove(names[^1]));
        }
        else
        {
            at[names[^1]] = JsonNode.Parse(value);
        }

        return root;
    }

    private static TimeSpan At(double microseconds) => TimeSpan.FromTicks((long)(microseconds * 10));
}
