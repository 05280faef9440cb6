using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class MoveOperationTests
{
    [Fact]
    public void Move_transitions() => Snapshot.Match(
        TransitionTable.Of<MoveState, MoveEvent>((s, e) => s.Next(e)), "MoveTransitions");

    [Fact]
    public void An_evicted_buffer_comes_back_with_its_bytes_and_every_move_is_counted()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(pages: 2);
        f.Bytes(buffer).Fill(0xAB);
        MoveOperation evict = f.Evict(buffer);
        Assert.Equal((MoveState.Copying, GpuDomain.System), (evict.State, buffer.Placement.Domain));
        f.Run();
        Assert.Equal(
            (MoveState.Moved, Errno.Success, 4 * GpuFixture.Page), (evict.State, evict.Error, f.Stats.VramFreeBytes));
        Assert.False(f.Bytes(buffer).ContainsAnyExcept((byte)0xAB));
        f.Vram.AsSpan().Clear();
        MoveOperation restore = f.Restore(buffer);
        f.Run();
        Assert.Equal(MoveState.Moved, restore.State);
        Assert.False(f.Bytes(buffer).ContainsAnyExcept((byte)0xAB));
        GpuStats stats = f.Stats;
        Assert.Equal(
            (2L, 1L, 1L, 4 * GpuFixture.Page), (stats.Moves, stats.Evictions, stats.Restores, stats.MovedBytes));
        Assert.Equal((2 * GpuFixture.Page, 4 * GpuFixture.Page), (stats.VramFreeBytes, stats.SystemFreeBytes));
    }

    [Fact]
    public void A_move_to_where_the_buffer_is_succeeds_and_counts_nothing()
    {
        GpuFixture f = new();
        MoveOperation move = f.Restore(f.Create());
        Assert.Equal(
            (MoveState.Moved, Errno.Success, true, 0L), (move.State, move.Error, move.IsCompleted, f.Stats.Moves));
    }

    [Theory]
    [InlineData(StorageKind.Static)]
    [InlineData(StorageKind.Revocable)]
    public void Storage_that_is_not_movable_stays(StorageKind storage)
    {
        GpuFixture f = new();
        MoveOperation move = f.Evict(f.Create(storage: storage));
        Assert.Equal((MoveState.Refused, Errno.EOPNOTSUPP), (move.State, move.Error));
    }

    [Fact]
    public void A_move_that_is_refused_says_why_and_tells_nobody()
    {
        GpuFixture f = new(systemPages: 1);
        GpuBuffer pinned = f.Create("pinned");
        f.Pin(f.Attach(pinned, f.NewImporter(ImporterKind.PinnedRevocable)));
        Assert.Equal(Errno.EBUSY, f.Evict(pinned).Error);

        GpuBuffer mapped = f.Create("mapped");
        f.Map(f.Attach(mapped, new TestPinnedImporter()));
        Assert.Equal(Errno.EBUSY, f.Evict(mapped).Error);

        GpuBuffer large = f.Create("large", pages: 2);
        TestImporter importer = f.NewImporter();
        Attachment attachment = f.Attach(large, importer);
        f.Map(attachment);
        Assert.Equal(Errno.ENOMEM, f.Evict(large).Error);
        Assert.Equal((0, MappingState.Mapped), (importer.Invalidations, attachment.State));

        f.Free(large);
        MoveOperation late = f.Evict(large);
        Assert.Equal((MoveState.Refused, Errno.ENODEV), (late.State, late.Error));
        Assert.Equal(0, f.Stats.CopyJobs);
    }

    [Fact]
    public void A_move_that_finds_the_ring_full_tells_nobody()
    {
        GpuFixture f = new(new GpuOptions { CopyRingSlots = 1 });
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        f.TryCreate("next", 1, out _);
        Assert.Equal((Errno.EAGAIN, 0), (f.Evict(buffer).Error, importer.Invalidations));
    }

    [Fact]
    public void EXP_18_Every_dynamic_attachment_is_told_before_the_copy_starts_and_a_KERNEL_fence_stands_until_it_ends()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter[] importers = [f.NewImporter(), f.NewImporter()];
        foreach (TestImporter importer in importers)
        {
            f.Map(f.Attach(buffer, importer));
            importer.Inside = 1;
        }

        GpuPlacement old = buffer.Placement;
        MoveOperation move = f.Evict(buffer);
        Assert.All(importers, i => Assert.Equal((1, true), (i.Invalidations, i.WasLocked)));
        Assert.Same(move.Fence, f.Locked(() => buffer.Shared.Reservation.FirstUnsignaled(ReservationUsage.Kernel)));
        Assert.Equal(0, f.Run());
        f.Bytes(old).Fill(0x11); // the last write of those who are inside
        f.Locked(importers[0].Leave);
        Assert.Equal(0, f.Run());
        f.Locked(importers[1].Leave);
        Assert.False(f.IsIdle(buffer));
        f.Run();
        Assert.True(f.IsIdle(buffer));
        Assert.False(f.Bytes(buffer).ContainsAnyExcept((byte)0x11));
    }

    [Fact]
    public void DBUF_23_A_mover_goes_on_when_all_fences_have_signalled_although_a_mapping_remains()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        importer.UnmapsWithDrain = false;
        Attachment attachment = f.Attach(buffer, importer);
        f.Map(attachment);
        importer.Inside = 1;
        MoveOperation move = f.Evict(buffer);
        f.Locked(importer.Leave);
        f.Run();
        Assert.Equal((MoveState.Moved, MappingState.Invalidated), (move.State, attachment.State));
    }

    [Fact]
    public void A_map_while_the_bytes_are_under_way_gets_the_new_place()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        Attachment attachment = f.Attach(buffer, f.NewImporter());
        DmaAddressList before = f.Map(attachment).Addresses!;
        f.Evict(buffer);
        Assert.Equal(MappingState.Unmapped, attachment.State);
        DmaAddressList after = f.Map(attachment).Addresses!;
        Assert.NotEqual(before.Entries[0], after.Entries[0]);
        Assert.Same(buffer.Placement.Addresses, after);
        Assert.False(f.IsIdle(buffer));
    }

    [Fact]
    public void A_second_move_follows_the_first_and_the_bytes_follow_both()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Bytes(buffer).Fill(0x77);
        MoveOperation evict = f.Evict(buffer), restore = f.Restore(buffer);
        Assert.Equal((MoveState.Copying, MoveState.Copying), (evict.State, restore.State));
        f.Run();
        Assert.Equal((MoveState.Moved, MoveState.Moved), (evict.State, restore.State));
        Assert.False(f.Bytes(buffer).ContainsAnyExcept((byte)0x77));
        Assert.Equal((3 * GpuFixture.Page, 4 * GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes));
    }

    [Fact]
    public void A_move_waits_for_whoever_holds_the_reservation()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        AcquireTicket ticket = f.Locked(() => new AcquireTicket(f.Host, "somebody"));
        f.Locked(() => buffer.Shared.Reservation.TryLock(ticket));
        MoveOperation move = f.Evict(buffer);
        int told = 0;
        Assert.True(f.Locked(() => move.TryAddCompletion(() => told++)));
        Assert.Equal(MoveState.Locking, move.State);
        f.Locked(() => buffer.Shared.Reservation.Unlock(ticket));
        Assert.Equal(MoveState.Copying, move.State);
        f.Run();
        Assert.Equal((MoveState.Moved, 1), (move.State, told));
        Assert.False(f.Locked(() => move.TryAddCompletion(() => told++)));
    }

    [Fact]
    public void A_revoke_that_comes_before_the_moves_lock_wins()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        AcquireTicket ticket = f.Locked(() => new AcquireTicket(f.Host, "somebody"));
        f.Locked(() => buffer.Shared.Reservation.TryLock(ticket));
        MoveOperation move = f.Evict(buffer);
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal((MoveState.Locking, RevokeState.Locking), (move.State, revoke.State));
        f.Locked(() => buffer.Shared.Reservation.Unlock(ticket));
        Assert.Equal((MoveState.Refused, Errno.ENODEV, RevokeState.Retired), (move.State, move.Error, revoke.State));
        Assert.Equal(4 * GpuFixture.Page, f.Stats.VramFreeBytes);
    }

    [Fact]
    public void An_old_place_whose_drain_was_forced_stays_in_quarantine_until_the_importer_has_left()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter importer = f.NewImporter();
        f.Map(f.Attach(buffer, importer));
        importer.Inside = 1;
        MoveOperation move = f.Evict(buffer);
        f.Locked(() => importer.Drain!.Force(Errno.ETIME));
        f.Run();
        Assert.Equal(MoveState.Moved, move.State);
        Assert.Equal((3 * GpuFixture.Page, GpuFixture.Page), (f.Stats.VramFreeBytes, f.Stats.VramQuarantinedBytes));
        f.Locked(importer.Leave);
        Assert.Equal((4 * GpuFixture.Page, 0UL), (f.Stats.VramFreeBytes, f.Stats.VramQuarantinedBytes));
    }

    [Fact]
    public void A_copy_whose_memory_has_gone_fails_and_says_so()
    {
        GpuFixture f = new();
        MemoryWindow window = f.Locked(() => f.Fabric.AddWindow(new byte[0x1000], owner: null));
        DmaAddressList target = new([window.Range]);
        Fence fence = f.Locked(() => f.Work.CreateFence());
        CopyJob job = new() { Name = "fill", Target = target, Pattern = 1, Fence = fence };
        f.Locked(() => f.Gpu.CopyEngine.TrySubmit(job));
        f.Locked(() => f.Fabric.RemoveWindow(window));
        f.Run();
        Assert.Equal((true, Errno.EFAULT, 0UL), (fence.IsSignaled, fence.Error, job.DoneBytes));
    }
}
