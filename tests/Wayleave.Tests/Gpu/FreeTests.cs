using Wayleave.Core;
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
}
