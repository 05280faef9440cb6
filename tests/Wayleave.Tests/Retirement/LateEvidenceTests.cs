using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Retirement;

/// <summary>
/// What ends a quarantine: a late drain, a dead process, an engine that was reset. And what does not.
/// </summary>
public class LateEvidenceTests
{
    [Fact]
    public void A_time_out_ends_in_a_named_state_and_each_name_says_what_is_missing()
    {
        using BufferFixture f = new();
        AcquireTicket mover = f.Lock();
        RevokeOperation held = TimeOut(f);
        Assert.Equal(QuarantineCause.ReservationHeld, held.Proof!.Cause);
        f.Buffer.Reservation.Unlock(mover);
        Assert.Equal((RevokeState.Retired, QuarantineCause.None), (held.State, held.Proof!.Cause));
    }

    [Fact]
    public void Work_that_has_not_ended_is_named_before_the_mapping_that_it_uses()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter();
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = TimeOut(f);
        Assert.Equal(QuarantineCause.WorkPending, revoke.Proof!.Cause);
        importer.Drain!.Force(Errno.ETIME);
        Assert.Equal((RevokeState.Quarantined, QuarantineCause.FenceForced), (revoke.State, revoke.Missing));
        Assert.Equal(QuarantineCause.WorkPending, revoke.Proof.Cause); // a proof does not change
        importer.Leave();
        Assert.Equal((RevokeState.Retired, QuarantineCause.None), (revoke.State, revoke.Missing));
    }

    [Fact]
    public void An_importer_that_is_told_and_does_nothing_keeps_the_memory_and_is_named()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(new DeafImporter(ImporterKind.PinnedRevocable));
        RevokeOperation revoke = TimeOut(f);
        Assert.Equal((RevokeState.Quarantined, QuarantineCause.StillMapped), (revoke.State, revoke.Proof!.Cause));
        Assert.Equal((RetirementGrade.Acknowledged, 1), (revoke.Proof.Grade, f.Exporter.PinCount));
        f.ExpectViolation(ViolationKind.LateUnmap);
        attachment.EndOfDeadUser(StopCause.EngineReset, "reset of nic0");
        Assert.Equal((RevokeState.Retired, 0), (revoke.State, f.Exporter.PinCount));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_user_that_cannot_be_told_keeps_the_memory_until_it_lets_go(bool isStatic)
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(isStatic ? null : new TestPinnedImporter());
        RevokeOperation revoke = TimeOut(f);
        Assert.Equal((RetirementGrade.None, QuarantineCause.UserCannotStop), (revoke.Proof!.Grade, revoke.Proof.Cause));
        f.Unmap(attachment);
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof.Grade));
    }

    [Fact]
    public void A_gate_that_was_never_shown_empty_is_named()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        attachment.UnmapInvalidated();
        f.ExpectViolation(ViolationKind.UndrainedUnmap);
        importer.Drain!.Signal();
        Assert.Equal((RevokeState.Quarantined, QuarantineCause.EvidenceMissing), (revoke.State, revoke.Missing));
        attachment.Evidence!.RecordDrained();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void A_process_that_mapped_the_memory_counts_as_pinned_and_only_its_end_is_proof()
    {
        using BufferFixture f = new();
        f.Buffer.TryMmap("process 4711", 0, 0x1000, out CpuMapping? mapping);
        RevokeOperation revoke = TimeOut(f);
        ImporterProof own = Assert.Single(revoke.Proof!.Importers);
        Assert.Equal(
            (ImporterKind.Pinned, "process 4711", "cpu", RetirementGrade.None),
            (own.Kind, own.Holder, own.Device, own.Grade));
        Assert.Equal(QuarantineCause.UserCannotStop, revoke.Proof.Cause);
        mapping!.EndOfDeadHolder(StopCause.ProcessDead, "pidfd of process 4711");
        own = Assert.Single(revoke.Proof!.Importers);
        Assert.Equal(
            (RevokeState.Retired, StopCause.ProcessDead, "pidfd of process 4711"),
            (revoke.State, own.StoppedBy, own.Witness));
        Assert.Equal(["mmap", "munmap"], f.Exporter.Calls);
    }

    [Fact]
    public void A_mapping_of_the_host_itself_keeps_the_memory_until_its_last_vunmap()
    {
        using BufferFixture f = new();
        AcquireTicket ticket = f.Lock();
        f.Buffer.TryVmapLocked(ticket, out Memory<byte> memory);
        f.Buffer.TryVmapLocked(ticket, out _);
        f.Buffer.Reservation.Unlock(ticket);
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        ticket = f.Lock();
        f.Buffer.VunmapLocked(ticket, memory);
        Assert.Equal(RevokeState.Unmapping, revoke.State);
        f.Buffer.VunmapLocked(ticket, memory);
        Assert.Equal((RevokeState.Retired, "the host"), (revoke.State, revoke.Proof!.Importers[0].Holder));
    }

    [Fact]
    public void A_dead_user_ends_its_drain_its_mapping_and_its_pins_and_never_maps_again()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(ImporterKind.PinnedRevocable, key: 7);
        Attachment attachment = f.AttachAndMap(importer);
        importer.Inside = 2;
        RevokeOperation revoke = TimeOut(f);
        attachment.EndOfDeadUser(StopCause.ProcessDead, "pidfd of process 4711");
        f.ExpectViolation(ViolationKind.LateUnmap); // and that nobody showed the gate empty is none: it need not
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.Equal((MappingState.Unmapped, 0), (attachment.State, f.Exporter.PinCount));
        FenceProof fence = Assert.Single(revoke.Proof.Fences);
        Assert.Equal((Errno.ECANCELED, false, true), (fence.Error, fence.IsForced, fence.HasEnded));
        Assert.Equal(Errno.ENODEV, f.Map(attachment).Errno);
        attachment.EndOfDeadUser(StopCause.EngineReset, "a second witness");
        Assert.Equal("pidfd of process 4711", attachment.Evidence!.Witness);
        f.Buffer.Detach(attachment);
    }

    [Fact]
    public void A_user_that_dies_before_its_memory_is_taken_back_is_no_obstacle()
    {
        using BufferFixture f = new();
        Attachment attachment = f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic));
        attachment.EndOfDeadUser(StopCause.DeviceRemoved, "surprise removal of nic0");
        Assert.Equal(Errno.ENODEV, f.Map(attachment).Errno);
        Assert.Equal(RevokeState.Retired, RevokeOperation.Start(f.Buffer, new RevokePolicy()).State);
    }

    [Fact]
    public void A_dead_user_proves_nothing_for_the_others()
    {
        using BufferFixture f = new();
        TestImporter lives = f.NewImporter();
        f.AttachAndMap(lives);
        lives.Inside = 1;
        Attachment dies = f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic));
        RevokeOperation revoke = TimeOut(f);
        dies.EndOfDeadUser(StopCause.ProcessDead, "pidfd");
        Assert.Equal(RevokeState.Quarantined, revoke.State);
        lives.Leave();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void Work_that_somebody_else_owns_stays_pending_when_the_user_dies()
    {
        using BufferFixture f = new();
        Fence work = f.AddFence(ReservationUsage.Write);
        Attachment dies = f.AttachAndMap(new DeafImporter(ImporterKind.Dynamic));
        RevokeOperation revoke = TimeOut(f);
        dies.EndOfDeadUser(StopCause.ProcessDead, "pidfd");
        Assert.Equal((RevokeState.Quarantined, QuarantineCause.WorkPending), (revoke.State, revoke.Missing));
        work.Signal();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void Two_revokes_with_other_policies_are_two_operations_and_the_weaker_does_not_loosen_the_stronger()
    {
        using BufferFixture f = new();
        TestImporter importer = f.NewImporter(key: 7);
        f.AttachAndMap(importer);
        importer.Inside = 1;
        RevokeOperation strong = RevokeOperation.Start(f.Buffer, new RevokePolicy { Timeout = TimeSpan.FromHours(1) });
        RevokeOperation weak = RevokeOperation.Start(
            f.Buffer, new RevokePolicy { RequiredGrade = RetirementGrade.KeyDead, Timeout = TimeSpan.FromSeconds(1) });
        f.Clock.AdvanceTo(weak.Deadline);
        strong.HandleTimeout(f.Host.Now);
        weak.HandleTimeout(f.Host.Now);
        Assert.Equal((RevokeState.Retired, RevokeState.Draining), (weak.State, strong.State));
        Assert.Equal((true, RetirementGrade.KeyDead), (weak.Proof!.IsSufficient, weak.Proof.Grade));
        importer.Leave();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (strong.State, strong.Proof!.Grade));
    }

    private static RevokeOperation TimeOut(BufferFixture f)
    {
        RevokeOperation revoke = RevokeOperation.Start(f.Buffer, new RevokePolicy());
        f.Clock.AdvanceTo(revoke.Deadline);
        revoke.HandleTimeout(f.Host.Now);
        Assert.Equal(RevokeState.Quarantined, revoke.State);
        return revoke;
    }
}
