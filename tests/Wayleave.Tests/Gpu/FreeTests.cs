using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class FreeTests
{
    [Fact]
    public void A_buffer_that_nobody_uses_returns_its_memory_at_once()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        RevokeOperation first = f.Free(buffer);
        Assert.Equal(
            (RevokeState.Retired, true, 4 * GpuFixture.Page), (first.State, buffer.IsFreed, f.Stats.VramFreeBytes));
        Assert.Same(first, f.Free(buffer));
        Assert.Empty(f.Gpu.Buffers);
    }

    [Fact]
    public void Memory_whose_user_is_inside_is_quarantined_refused_to_others_and_returned_by_the_late_drain()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(pages: 4);
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        importer.Inside = 1;
        RevokeOperation revoke = f.Free(buffer);
        f.Clock.AdvanceTo(revoke.Deadline);
        f.Locked(() => revoke.HandleTimeout(f.Clock.Now));
        Assert.Equal((RevokeState.Quarantined, 4 * GpuFixture.Page), (revoke.State, f.Stats.VramQuarantinedBytes));
        Assert.Equal(4 * GpuFixture.Page, f.Gpu.Quarantine.Bytes);
        Assert.Equal(Errno.ENOSPC, f.TryCreate("next", 1, out _));
        f.Locked(importer.Leave);
        Assert.Equal((RevokeState.Retired, 4 * GpuFixture.Page), (revoke.State, f.Stats.VramFreeBytes));
        Assert.Equal(Errno.Success, f.TryCreate("next", 4, out _));
    }

    [Fact]
    public void A_buffer_freed_in_the_middle_of_its_move_keeps_both_places_until_the_copy_has_stopped()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Bytes(buffer).Fill(0xAA);
        MoveOperation move = f.Evict(buffer);
        Assert.Equal(1, f.Gpu.CopyEngine.Drive(1));
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal(RevokeState.Draining, revoke.State);
        Assert.Equal((3 * GpuFixture.Page, 3 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
        Assert.Equal(1, f.Run());
        Assert.Equal((MoveState.Failed, Errno.ECANCELED, RevokeState.Retired), (move.State, move.Error, revoke.State));
        Assert.Equal((4 * GpuFixture.Page, 4 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
        Assert.Equal(0x400, f.System.AsSpan().Count((byte)0xAA)); // one block had been copied, and no other was
    }

    [Fact]
    public void A_canceled_copy_does_not_let_go_of_the_old_place_while_an_importer_is_inside_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        importer.Inside = 1;
        f.Evict(buffer);
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal(0, f.Run());
        Assert.Equal((3 * GpuFixture.Page, 3 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
        f.Locked(importer.Leave);
        Assert.Equal(RevokeState.Draining, revoke.State);
        f.Run();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.Equal((4 * GpuFixture.Page, 4 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
    }

    [Fact]
    public void A_copy_whose_fence_was_forced_keeps_both_places_until_the_engine_has_really_stopped()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        MoveOperation move = f.Evict(buffer);
        f.Gpu.CopyEngine.Drive(1);
        f.Locked(() => move.Fence!.Force(Errno.ETIME));
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal((RevokeState.Quarantined, 1), (revoke.State, f.Stats.CopyJobs));
        Assert.Equal((3 * GpuFixture.Page, 3 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
        f.Run();
        Assert.Equal((RevokeState.Retired, MoveState.Failed), (revoke.State, move.State));
        Assert.Equal((4 * GpuFixture.Page, 4 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
    }

    [Theory]
    [InlineData(RetirementGrade.Acknowledged)]
    [InlineData(RetirementGrade.KeyDead)]
    public void Memory_whose_user_is_inside_is_not_returned_for_a_lower_grade_however_little_is_asked(
        RetirementGrade asked)
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        importer.Inside = 1;
        RevokeOperation revoke = f.Locked(() => f.Gpu.Free(buffer, new RevokePolicy { RequiredGrade = asked }));
        f.Locked(() => importer.Drain!.Force(Errno.ETIME));
        f.Clock.AdvanceTo(revoke.Deadline);
        f.Locked(() => revoke.HandleTimeout(f.Clock.Now));
        Assert.Equal((RevokeState.Quarantined, RetirementGrade.Drained), (revoke.State, revoke.Proof!.RequiredGrade));
        Assert.Equal(3 * GpuFixture.Page, f.Stats.VramFreeBytes);
        f.Locked(importer.Leave);
        Assert.Equal((RevokeState.Retired, 4 * GpuFixture.Page), (revoke.State, f.Stats.VramFreeBytes));
    }

    [Fact]
    public void A_buffer_revoked_first_is_freed_by_a_second_revoke()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        RevokeOperation revoke = f.Locked(() => RevokeOperation.Start(buffer.Shared, new RevokePolicy()));
        Assert.Equal((RevokeState.Retired, 3 * GpuFixture.Page), (revoke.State, f.Stats.VramFreeBytes));
        Assert.Equal(RevokeState.Retired, f.Free(buffer).State);
        Assert.Equal(4 * GpuFixture.Page, f.Stats.VramFreeBytes);
    }

    [Fact]
    public void The_release_of_a_shared_buffer_frees_its_memory()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Locked(buffer.Shared.Release);
        Assert.Equal((true, 4 * GpuFixture.Page), (buffer.IsFreed, f.Stats.VramFreeBytes));
    }

    [Fact]
    public void A_freed_buffer_leaves_the_list_of_buffers_when_its_last_user_has_detached()
    {
        GpuFixture f = new();
        GpuBuffer unused = f.Create("unused"), used = f.Create("used");
        Attachment attachment = f.Attach(used, f.NewImporter());
        f.Free(unused);
        f.Free(used);
        Assert.Equal(["used"], f.Locked(() => BufferInfo.Collect(f.Host).Select(b => b.Name).ToArray()));
        f.Locked(() => used.Shared.Detach(attachment));
        Assert.Empty(f.Locked(() => BufferInfo.Collect(f.Host)));
    }

    [Fact]
    public void A_second_free_that_asks_for_more_makes_the_memory_wait_and_one_that_asks_for_less_does_not_loosen_it()
    {
        GpuFixture f = new();
        RevokePolicy drained = new() { RequiredGrade = RetirementGrade.Drained };
        foreach (bool strictFirst in new[] { true, false })
        {
            GpuBuffer buffer = f.Create();
            TestImporter importer = f.NewImporter();
            importer.UnmapsWithDrain = false;
            Attachment attachment = f.Attach(buffer, importer);
            f.Map(attachment);
            importer.Inside = 1;
            RevokeOperation first = Free(f, buffer, strictFirst ? new RevokePolicy() : drained);
            RevokeOperation second = Free(f, buffer, strictFirst ? drained : new RevokePolicy());
            Assert.Same(first, Free(f, buffer, first.Policy));
            f.Locked(importer.Leave);
            RevokeOperation strict = strictFirst ? first : second, content = strictFirst ? second : first;
            Assert.Equal((RevokeState.Unmapping, RevokeState.Retired), (strict.State, content.State));
            Assert.Equal((3 * GpuFixture.Page, true), (f.Stats.VramFreeBytes, content.Proof!.IsSufficient));
            f.Locked(attachment.UnmapInvalidated);
            Assert.Equal((4 * GpuFixture.Page, RevokeState.Retired), (f.Stats.VramFreeBytes, strict.State));
            Assert.Same(first, Free(f, buffer, new RevokePolicy { Reason = "once more" }));
        }
    }

    [Fact]
    public void Who_keeps_too_much_memory_is_lent_no_more_until_it_is_known_to_be_dead()
    {
        GpuFixture f = new(new GpuOptions
        {
            CopyBlockBytes = 0x400,
            QuarantineLimits = new QuarantineLimits { BytesPerHolderMax = 1 },
        });
        Attachment deaf = f.Attach(f.Create("lost"), new DeafImporter(ImporterKind.Dynamic, "peer"));
        f.Map(deaf);
        RevokeOperation revoke = f.Free((GpuBuffer)deaf.Buffer.Exporter);
        f.Clock.AdvanceTo(revoke.Deadline);
        f.Locked(() => revoke.HandleTimeout(f.Clock.Now));
        Assert.Equal(GpuFixture.Page, f.Locked(() => f.Gpu.Quarantine.BytesHeldBy("peer")));
        GpuBuffer next = f.Create("next");
        DeafImporter again = new(ImporterKind.Dynamic, "peer");
        Assert.Equal(Errno.EDQUOT, f.Locked(() => next.Shared.TryAttach(f.Nic, again, out _)));
        f.Attach(next, f.NewImporter());
        f.Locked(() => deaf.EndOfDeadUser(StopCause.ProcessDead, "pidfd of the peer"));
        Assert.Equal((RevokeState.Retired, 3 * GpuFixture.Page), (revoke.State, f.Stats.VramFreeBytes));
        f.Attach(next, again);
    }

    private static RevokeOperation Free(GpuFixture f, GpuBuffer buffer, RevokePolicy policy) =>
        f.Locked(() => f.Gpu.Free(buffer, policy));
}
