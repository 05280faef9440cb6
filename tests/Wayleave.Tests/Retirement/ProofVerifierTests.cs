using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Retirement;

public class ProofVerifierTests
{
    private static readonly TimeSpan s_late = TimeSpan.FromHours(9);

    public static TheoryData<string, Func<RetirementProof, RetirementProof>> Forgeries => new()
    {
        { "version 2 is not 1", p => p with { Version = 2 } },
        { "the evidence amounts to Retired", p => p with { Grade = RetirementGrade.Drained } },
        { "requires no grade", p => p with { RequiredGrade = RetirementGrade.None } },
        { "yet the cause is WorkPending", p => p with { Cause = QuarantineCause.WorkPending } },
        { "importers were told at", p => p with { InvalidatedAt = p.StartedAt - TimeSpan.FromTicks(1) } },
        { "before importers were told", p => p with { FencesSignaledAt = p.InvalidatedAt - TimeSpan.FromTicks(1) } },
        { "before anybody was told", p => p with { InvalidatedAt = null } },
        { "it ended at", p => p with { CompletedAt = TimeSpan.Zero } },
        { "the deadline", p => p with { Deadline = TimeSpan.Zero } },
        { "is graded Retired", p => Importer(p, i => i with { UnmappedAt = null }) },
        { "is graded Retired", p => Importer(p, i => i with { DrainedAt = null }) },
        { "is graded Retired", p => Importer(p, i => i with { Drain = DrainState.Forced }) },
        { "not said which", p => Importer(p, i => i with { Key = null }) },
        { "inside a gate that was not closed", p => Importer(p, i => i with { GateClosedAt = null }) },
        { "-1 users", p => Importer(p, i => i with { InsideAtClose = -1 }) },
        { "a cause, a time and a witness", p => Importer(p, i => i with { StoppedAt = p.StartedAt }) },
        { "its fence is missing", p => Importer(p, i => i with { DrainFence = null }) },
        { "never mapped", p => Importer(p, i => i with { WasMapped = false }) },
        { "before the gate closed", p => Importer(p, i => i with { DrainedAt = TimeSpan.Zero }) },
        { "before the key died", p => Importer(p, i => i with { KeyDeadAt = s_late }) },
        { "before it unmapped", p => Importer(p, i => i with { UnmappedAt = s_late }) },
        { "before it acknowledged", p => Importer(p, i => i with { AcknowledgedAt = s_late }) },
        { "all are said to have signalled", p => Fence(p, f => f with { SignaledAt = null, HasEnded = false }) },
        { "is pending, and yet", p => Fence(p, f => f with { SignaledAt = null }) },
        { "said not to have ended", p => Fence(p, f => f with { HasEnded = false }) },
        { "the evidence amounts to KeyDead", p => Fence(p, f => f with { HasEnded = false, IsForced = true }) },
        { "before it signalled", p => Fence(p, f => f with { SignaledAt = s_late }) },
    };

    [Theory]
    [MemberData(nameof(Forgeries))]
    public void A_proof_that_was_tampered_with_is_found_out(
        string problem, Func<RetirementProof, RetirementProof> forge)
    {
        ArgumentNullException.ThrowIfNull(forge);
        RetirementProof proof = Prove();
        Assert.Empty(ProofVerifier.FindProblems(proof));
        Assert.Contains(
            ProofVerifier.FindProblems(forge(proof)), p => p.Contains(problem, StringComparison.Ordinal));
    }

    [Fact]
    public void Every_proof_that_a_revoke_writes_in_any_mood_of_its_importers_holds()
    {
        List<RetirementProof> proofs = [];
        foreach (RetirementGrade required in Enum.GetValues<RetirementGrade>().Where(g => g > RetirementGrade.None))
        {
            for (int mood = 0; mood < 128; mood++)
            {
                Live(required, mood, proofs);
            }
        }

        Assert.All(proofs, p => Assert.Empty(ProofVerifier.FindProblems(p)));
        Assert.Equal(
            Enum.GetValues<QuarantineCause>(), proofs.Select(p => p.Cause).Distinct().Order());
        Assert.Equal(
            Enum.GetValues<RetirementGrade>(), proofs.Select(p => p.Grade).Distinct().Order());
    }

    // A mover, work, an importer that drains, one that cannot stop, one that is deaf, a fence that is forced, a user
    // that dies: each bit of the mood is one of them.
    private static void Live(RetirementGrade required, int mood, List<RetirementProof> proofs)
    {
        using BufferFixture f = new();
        bool Is(int bit) => (mood & (1 << bit)) != 0;
        Fence work = f.AddFence(ReservationUsage.Read);
        TestImporter importer = f.NewImporter(ImporterKind.PinnedRevocable, Is(2) ? 7 : null);
        importer.UnmapsWithDrain = !Is(6);
        Attachment first = f.AttachAndMap(importer);
        importer.Inside = Is(2) ? 1 : 0;
        Attachment? pinned = Is(3) ? f.AttachAndMap(new TestPinnedImporter()) : null;
        Attachment? deaf = Is(4) ? f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic)) : null;
        AcquireTicket? mover = Is(0) ? f.Lock() : null;
        if (!Is(1))
        {
            work.Signal();
        }

        f.Clock.Advance(TimeSpan.FromMilliseconds(1));
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy { RequiredGrade = required });
        if (Is(5))
        {
            work.Force(Errno.ETIME);
            importer.Drain?.Force(Errno.ETIME);
        }

        if (Is(6) && importer.Drain is not null)
        {
            first.UnmapInvalidated(); // and says nothing of its gate
            importer.Drain.Signal();
        }

        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        proofs.Add(revoke.Proof!);
        Assert.Equal(revoke.State == RevokeState.Retired, revoke.Proof!.IsSufficient);
        if (mover is not null)
        {
            f.Buffer.Reservation.Unlock(mover);
        }

        if (pinned is not null)
        {
            f.Unmap(pinned);
        }

        f.Clock.Advance(TimeSpan.FromMilliseconds(1));
        deaf?.EndOfDeadUser(StopCause.DeviceRemoved, "removal of nic0");
        if (importer.Inside > 0)
        {
            importer.Leave();
        }

        if (first.State == MappingState.Invalidated)
        {
            first.UnmapInvalidated();
        }

        work.Signal();
        proofs.Add(revoke.Proof!);
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    private static RetirementProof Prove()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(ImporterKind.PinnedRevocable, key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 2;
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        importer.Leave();
        return revoke.Proof!;
    }

    private static RetirementProof Importer(RetirementProof proof, Func<ImporterProof, ImporterProof> change) =>
        proof with { Importers = [change(proof.Importers[0])] };

    private static RetirementProof Fence(RetirementProof proof, Func<FenceProof, FenceProof> change) =>
        proof with { Fences = [change(proof.Fences[0])] };
}
