using System.Globalization;
using System.Text;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Host;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

public class ProofDocumentTests
{
    private static readonly RetirementProof s_proof = new()
    {
        BufferId = 7,
        Buffer = "model.bin",
        Exporter = "gpu0",
        SizeBytes = 1 << 20,
        Reason = "taken back by the owner",
        Grade = RetirementGrade.KeyDead,
        RequiredGrade = RetirementGrade.Retired,
        StartedAt = TimeSpan.FromTicks(1_000_001),
        InvalidatedAt = TimeSpan.FromTicks(1_000_020),
        FencesSignaledAt = null,
        CompletedAt = TimeSpan.FromTicks(51_000_001),
        Importers =
        [
            new ImporterProof
            {
                Importer = "rdma0 mr 0x00000100",
                Device = "rdma0",
                Kind = ImporterKind.PinnedRevocable,
                Grade = RetirementGrade.KeyDead,
                WasMapped = true,
                Key = 0x100,
                KeyDeadAt = TimeSpan.FromTicks(1_000_018),
                GateClosedAt = TimeSpan.FromTicks(1_000_019),
                InsideAtClose = 1,
                DrainedAt = null,
                UnmappedAt = null,
            },
        ],
        Fences = [new FenceProof("rdma0 mr 0x00000100:3:1", null, IsForced: false, HasEnded: false)],
    };

    [Fact]
    public void A_proof_becomes_this_json()
    {
        const string Expected = """
            {"schema":"wayleave.proof.v1","version":1,
            "buffer_id":7,"buffer":"model.bin","exporter":"gpu0","size_bytes":1048576,
            "reason":"taken back by the owner","grade":"KeyDead","required_grade":"Retired","sufficient":false,
            "started_at_us":100000.1,"invalidated_at_us":100002,"completed_at_us":5100000.1,"duration_us":5000000,
            "importers":[{"importer":"rdma0 mr 0x00000100","device":"rdma0","kind":"pinned_revocable","grade":"KeyDead",
            "was_mapped":true,"key":256,"key_dead_at_us":100001.8,"gate_closed_at_us":100001.9,"inside_at_close":1}],
            "fences":[{"fence":"rdma0 mr 0x00000100:3:1","forced":false,"ended":false}]}
            """;
        Assert.Equal(Expected.ReplaceLineEndings(""), Serialize(s_proof));
    }

    [Fact]
    public void A_proof_survives_the_way_through_json()
    {
        RetirementProof read = ProofDocument.Parse(Encoding.UTF8.GetBytes(Serialize(s_proof)), "test").ToProof();
        Assert.Equal(
            s_proof with { Importers = [], Fences = [] }, read with { Importers = [], Fences = [] }, ProofsAreEqual);
        Assert.Equal(s_proof.Importers, read.Importers);
        Assert.Equal(s_proof.Fences, read.Fences);
    }

    [Theory]
    [InlineData("", Errno.EINVAL)]
    [InlineData("null", Errno.EINVAL)]
    [InlineData("{}", Errno.EINVAL)]
    [InlineData("[1]", Errno.EINVAL)]
    public void What_is_no_proof_is_refused(string text, Errno errno) =>
        Assert.Equal(
            errno,
            Assert.Throws<WayleaveException>(() => ProofDocument.Parse(Encoding.UTF8.GetBytes(text), "FILE")).Errno);

    [Theory]
    [InlineData("\"version\":1", "\"version\":2")]
    [InlineData("wayleave.proof.v1", "wayleave.proof.v2")]
    public void A_version_that_is_not_known_is_refused(string from, string to)
    {
        string text = Serialize(s_proof).Replace(from, to, StringComparison.Ordinal);
        WayleaveException e = Assert.Throws<WayleaveException>(
            () => ProofDocument.Parse(Encoding.UTF8.GetBytes(text), "FILE"));
        Assert.Equal(Errno.EPROTO, e.Errno);
        Assert.StartsWith("read the proof FILE: ", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_proof_is_told_in_the_order_of_what_happened()
    {
        StringWriter story = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        ProofStory.Write(ProofDocument.From(s_proof), story);
        Assert.Equal(
            """
            model.bin of gpu0, 1.00 MiB: taken back by the owner
                     0.0 us  the owner asks for it back; from now on it cannot be mapped
                     1.7 us  rdma0 mr 0x00000100: key 0x00000100 is dead; every use is refused
                     1.8 us  rdma0 mr 0x00000100: gate closed with 1 access inside
                     1.9 us  1 importer told to stop
               5000000.0 us  the owner stops waiting
              rdma0 mr 0x00000100 on rdma0 (PinnedRevocable): KeyDead, somebody is still inside its gate
              fence rdma0 mr 0x00000100:3:1: still pending
              KeyDead, but Retired is needed: it stays in quarantine

            """,
            story.ToString());
    }

    [Fact]
    public void A_story_says_why_memory_is_in_quarantine_and_who_is_gone()
    {
        RetirementProof proof = s_proof with
        {
            Cause = QuarantineCause.WorkPending,
            Importers =
            [
                s_proof.Importers[0] with
                {
                    StoppedBy = StopCause.ProcessDead,
                    StoppedAt = s_proof.CompletedAt,
                    Witness = "pidfd of process 4711",
                },
            ],
        };
        StringWriter story = new(CultureInfo.InvariantCulture);
        ProofStory.Write(ProofDocument.From(proof), story);
        string told = story.ToString();
        Assert.Contains("gone for good, its process is dead, says pidfd of", told, StringComparison.Ordinal);
        Assert.Contains("quarantine, because work that had started has not ended", told, StringComparison.Ordinal);
        RetirementProof read = ProofDocument.Parse(Encoding.UTF8.GetBytes(Serialize(proof)), "test").ToProof();
        Assert.Equal((proof.Cause, proof.Importers[0]), (read.Cause, read.Importers[0]));
    }

    private static bool ProofsAreEqual(RetirementProof a, RetirementProof b) =>
        a with { Importers = b.Importers, Fences = b.Fences } == b;

    private static string Serialize(RetirementProof proof) =>
        JsonSerializer.Serialize(ProofDocument.From(proof), ControlJson.Default.ProofDocument);
}
