using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Retirement;

public class RevokeOperationTests
{
    private static readonly RevokePolicy s_policy = new() { Timeout = TimeSpan.FromSeconds(5) };

    [Fact]
    public void Revoke_transitions() => Snapshot.Match(
        TransitionTable.Of<RevokeState, RevokeEvent>(RevokeTransitions.Next), "RevokeTransitions");

    [Fact]
    public void A_buffer_that_nobody_uses_retires_at_once_and_maps_are_ENODEV_from_then_on()
    {
        using BufferFixture f = new();
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.True(f.Buffer.IsRevoked);
        Attachment late = f.Attach(f.NewImporter());
        Assert.Equal(Errno.ENODEV, f.Map(late).Errno);
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.ENODEV, late.PinLocked(ticket));
    }

    [Fact]
    public void A_revoke_walks_from_the_gate_to_the_proof_and_writes_down_what_it_saw()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(ImporterKind.PinnedRevocable, key: 0x2200);
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 3;
        f.Clock.Advance(TimeSpan.FromMicroseconds(10));
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal(
            (RevokeState.Draining, MappingState.Invalidated, false),
            (revoke.State, attachment.State, revoke.IsCompleted));
        Assert.Null(f.Buffer.Reservation.Owner);
        f.Clock.Advance(TimeSpan.FromMicroseconds(7));
        importer.Leave();
        Assert.Equal(RevokeState.Retired, revoke.State);
        Assert.Equal((0, 0), (attachment.PinCount, f.Exporter.PinCount));
        RetirementProof proof = revoke.Proof!;
        Assert.Equal((RetirementGrade.Retired, true, "lent"), (proof.Grade, proof.IsSufficient, proof.Buffer));
        Assert.Equal(TimeSpan.FromMicroseconds(10), proof.InvalidatedAt);
        Assert.Equal(TimeSpan.FromMicroseconds(17), proof.FencesSignaledAt);
        Assert.Equal(TimeSpan.FromMicroseconds(17), proof.CompletedAt);
        ImporterProof own = Assert.Single(proof.Importers);
        Assert.Equal(
            (RetirementGrade.Retired, 0x2200u, 3L, true), (own.Grade, own.Key, own.InsideAtClose, own.WasMapped));
        Assert.Equal((TimeSpan.FromMicroseconds(10), TimeSpan.FromMicroseconds(17)), (own.GateClosedAt, own.DrainedAt));
        Assert.Equal(TimeSpan.FromMicroseconds(17), own.UnmappedAt);
        FenceProof fence = Assert.Single(proof.Fences);
        Assert.Equal((TimeSpan.FromMicroseconds(17), false, true), (fence.SignaledAt, fence.IsForced, fence.HasEnded));
    }

    [Fact]
    public void DBUF_22_A_revoke_does_not_complete_while_a_mapping_is_left()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(new TestPinnedImporter());
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal((RevokeState.Unmapping, false), (revoke.State, revoke.IsCompleted));
        f.Unmap(attachment);
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
    }

    [Fact]
    public void A_drain_without_its_unmap_is_stage_one_only()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        importer.UnmapsWithDrain = false;
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        importer.Leave();
        Assert.Equal(RevokeState.Unmapping, revoke.State);
        attachment.UnmapInvalidated();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void An_owner_who_asks_for_less_than_retired_need_not_wait_for_the_unmap()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        importer.UnmapsWithDrain = false;
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokePolicy policy = s_policy with { RequiredGrade = RetirementGrade.Drained };
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, policy);
        Assert.Equal(RevokeState.Draining, revoke.State);
        importer.Leave();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Drained), (revoke.State, revoke.Proof!.Grade));
        attachment.UnmapInvalidated();
        Assert.Equal(RetirementGrade.Drained, revoke.Proof!.Grade);
    }

    [Fact]
    public void Evidence_that_comes_without_a_fence_and_without_an_unmap_is_seen_at_once()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(new LateImporter());
        RevokeOperation revoke =
            RevokeOperation.Start(f.Buffer, s_policy with { RequiredGrade = RetirementGrade.Drained });
        Assert.Equal(RevokeState.Unmapping, revoke.State);
        attachment.Evidence!.RecordDrained();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Drained), (revoke.State, revoke.Proof!.Grade));
        attachment.UnmapInvalidated();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Drained), (revoke.State, revoke.Proof!.Grade));
    }

    [Fact]
    public void An_owner_who_is_content_with_a_dead_key_hopes_for_the_drain_until_its_time_is_up()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke =
            RevokeOperation.Start(f.Buffer, s_policy with { RequiredGrade = RetirementGrade.KeyDead });
        Assert.Equal((RevokeState.Draining, false), (revoke.State, revoke.IsCompleted));
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal((RevokeState.Retired, RetirementGrade.KeyDead), (revoke.State, revoke.Proof!.Grade));
        Assert.Equal((true, QuarantineCause.None), (revoke.Proof.IsSufficient, revoke.Proof.Cause));
        importer.Leave();
        Assert.Equal(RetirementGrade.KeyDead, revoke.Proof.Grade);
    }

    [Fact]
    public void An_owner_who_asks_for_no_grade_is_refused()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        Assert.Throws<ArgumentException>(
            () => RevokeOperation.Start(buffer, s_policy with { RequiredGrade = RetirementGrade.None }));
        Assert.False(buffer.IsRevoked);
    }

    [Fact]
    public void Work_of_anybody_holds_a_revoke_up_and_its_fence_stands_in_the_proof()
    {
        using BufferFixture f = new();
        Fence fence = f.AddFence(ReservationUsage.Read);
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal(RevokeState.Draining, revoke.State);
        fence.Signal();
        Assert.Equal(RevokeState.Retired, revoke.State);
        Assert.Equal(fence.ToString(), Assert.Single(revoke.Proof!.Fences).Fence);
    }

    [Fact]
    public void A_revoke_that_finds_the_reservation_locked_refuses_maps_at_once_and_goes_on_at_the_unlock()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        AcquireTicket mover = f.Lock();
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal((RevokeState.Locking, 0, true), (revoke.State, importer.Invalidations, f.Buffer.IsRevoked));
        f.Buffer.Reservation.Unlock(mover);
        Assert.Equal((RevokeState.Retired, 1), (revoke.State, importer.Invalidations));
    }

    [Fact]
    public void A_revoke_in_the_middle_of_a_moves_drain_tells_the_importer_again_and_keeps_its_record()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 2;
        f.Invalidate(); // the mover
        importer.Inside = 1;
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal((2, RevokeState.Draining), (importer.Invalidations, revoke.State));
        importer.Leave();
        ImporterProof own = Assert.Single(revoke.Proof!.Importers);
        Assert.Equal((RevokeState.Retired, 7u, true), (revoke.State, own.Key, own.WasMapped));
        Assert.Equal(TimeSpan.FromSeconds(1), own.UnmappedAt);
    }

    [Fact]
    public void A_second_revoke_has_its_own_proof_and_does_not_spoil_the_first()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation first = RevokeOperation.Start(f.Buffer, s_policy);
        RevokeOperation second = RevokeOperation.Start(f.Buffer, s_policy);
        importer.Leave();
        RevokeOperation third = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.All(
            [first, second, third],
            r => Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (r.State, r.Proof!.Grade)));
        Assert.Equal([true, true, false], new[] { first, second, third }.Select(r => r.Proof!.Importers[0].WasMapped));
        Assert.NotNull(first.Proof!.Importers[0].DrainedAt);
    }

    [Fact]
    public void An_importer_that_detaches_meanwhile_stays_part_of_the_proof()
    {
        using BufferFixture f = new();
        Fence work = f.AddFence(ReservationUsage.Read);
        TestImporter importer = f.NewImporter();
        Attachment attachment = f.AttachAndMap(importer);
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        f.Buffer.Detach(attachment);
        work.Signal();
        Assert.Equal(
            (RevokeState.Retired, "importer"), (revoke.State, Assert.Single(revoke.Proof!.Importers).Importer));
    }

    [Fact]
    public void After_the_time_out_the_memory_is_in_quarantine_and_a_late_drain_retires_it()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal(RevokeState.Draining, revoke.State);
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        RetirementProof early = revoke.Proof!;
        Assert.Equal(
            (RevokeState.Quarantined, RetirementGrade.KeyDead, false), (revoke.State, early.Grade, early.IsSufficient));
        Assert.Null(early.Importers[0].DrainedAt);
        importer.Leave();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.Equal(RetirementGrade.KeyDead, early.Grade);
    }

    [Fact]
    public void A_time_out_before_the_lock_is_grade_none_and_the_importers_are_told_all_the_same()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        AcquireTicket mover = f.Lock();
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        revoke.HandleTimeout(revoke.Deadline);
        Assert.Equal((RevokeState.Quarantined, RetirementGrade.None), (revoke.State, revoke.Proof!.Grade));
        Assert.Null(revoke.Proof!.InvalidatedAt);
        f.Buffer.Reservation.Unlock(mover);
        Assert.Equal((RevokeState.Retired, 1), (revoke.State, importer.Invalidations));
    }

    [Fact]
    public void A_forced_fence_is_no_proof_until_its_owner_comes_back()
    {
        using BufferFixture f = new();
        Fence work = f.AddFence(ReservationUsage.Write);
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        work.Force(Errno.ETIME);
        Assert.Equal((RevokeState.Quarantined, RetirementGrade.KeyDead), (revoke.State, revoke.Proof!.Grade));
        Assert.True(Assert.Single(revoke.Proof!.Fences).IsForced);
        work.Signal();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        FenceProof fence = Assert.Single(revoke.Proof!.Fences);
        Assert.Equal((true, true), (fence.IsForced, fence.HasEnded));
    }

    [Fact]
    public void A_fence_forced_long_before_the_revoke_is_no_proof_either()
    {
        using BufferFixture f = new();
        Fence work = f.AddFence(ReservationUsage.Write);
        work.Force(Errno.ETIME);
        f.AddFence(ReservationUsage.Read).Signal();
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.Equal(RevokeState.Quarantined, revoke.State);
        work.Signal();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void An_importer_whose_drain_was_forced_retires_when_it_has_left_after_all()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        importer.Drain!.Force(Errno.ETIME);
        Assert.Equal(RevokeState.Unmapping, revoke.State);
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal((RevokeState.Quarantined, RetirementGrade.KeyDead), (revoke.State, revoke.Proof!.Grade));
        importer.Leave();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
    }

    [Fact]
    public void A_gate_that_was_never_shown_empty_keeps_the_memory()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        attachment.UnmapInvalidated();
        importer.Drain!.Signal();
        Assert.Equal((RevokeState.Quarantined, RetirementGrade.KeyDead), (revoke.State, revoke.Proof!.Grade));
    }

    [Fact]
    public void Who_waits_is_called_once_for_the_proof_and_once_for_the_memory_after_the_lock_is_released()
    {
        int proofs = 0, memories = 0;
        BufferFixture f = new();
        HostContext host = f.Host;
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, s_policy);
        Assert.True(revoke.TryAddCompletion(() => proofs += host.IsHeld ? 100 : 1));
        Assert.True(revoke.TryAddRetirement(() => memories += host.IsHeld ? 100 : 1));
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        Assert.False(revoke.TryAddCompletion(() => proofs += 100));
        Assert.Equal((0, 0), (proofs, memories));
        f.Dispose();
        Assert.Equal((1, 0), (proofs, memories));
        using (host.Enter())
        {
            importer.Leave();
            Assert.False(revoke.TryAddRetirement(() => memories += 100));
        }

        Assert.Equal((1, 1), (proofs, memories));
    }

    /// <summary>Stops when told, and unmaps when it likes.</summary>
    private sealed class LateImporter : IRevocableImporter
    {
        public string Name => "late importer";

        public ImporterKind Kind => ImporterKind.Dynamic;

        public bool AllowPeerToPeer => true;

        public InvalidateOutcome InvalidateMappings(Attachment attachment) => InvalidateOutcome.Done;
    }
}
