using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>A copy engine as an importer of buffers, its own and those of another GPU.</summary>
public class CopyUserTests
{
    private const ulong Page = GpuFixture.Page;

    private readonly GpuFixture _f = new();

    [Fact]
    public void Bytes_go_from_one_place_to_another_and_nowhere_else()
    {
        GpuBuffer source = _f.Create("source", pages: 2), target = _f.Create("target", pages: 2);
        _f.Bytes(source).Fill(7);
        (CopyUser from, CopyUser to) = (Hold(source), Hold(target));
        Assert.Equal(Errno.Success, Copy(from, 0x100, to, 0x1200, 0x900, out Fence? fence));
        Assert.False(fence!.IsSignaled);
        _f.Run();
        Assert.Equal((true, Errno.Success), (fence.IsSignaled, fence.Error));
        Span<byte> bytes = _f.Bytes(target);
        Assert.Equal(-1, bytes[..0x1200].IndexOfAnyExcept((byte)0));
        Assert.Equal(-1, bytes.Slice(0x1200, 0x900).IndexOfAnyExcept((byte)7));
        Assert.Equal(-1, bytes[0x1B00..].IndexOfAnyExcept((byte)0));
        Assert.Equal((0, 0), (from.Outstanding, to.Outstanding));
    }

    [Fact]
    public void The_memory_of_another_GPU_is_reached_by_the_way_between_them()
    {
        GpuDevice other = NewPeer();
        GpuBuffer source = _f.Create("source"), target = _f.Locked(() =>
        {
            Assert.Equal(
                Errno.Success,
                other.TryCreate(new GpuBufferInfo("target", Page, StorageKind.Movable), out GpuBuffer? made));
            return made!;
        });
        other.CopyEngine.Drive(int.MaxValue);
        (CopyUser from, CopyUser to) = (Hold(source), Hold(target));
        Assert.Equal(Errno.Success, Copy(from, 0, to, 0, Page, out _));
        _f.Run();
        Assert.Equal((long)Page, _f.Gpu.CopyEngine.Port.BytesWritten(PeerRoute.BusAddress));
        Assert.Equal((long)Page, _f.Gpu.CopyEngine.Port.BytesRead(PeerRoute.SameDevice));
        long down = _f.Fabric.LinkTraffic().Single(l => ReferenceEquals(l.Function, other.Function)).DownBytes;
        Assert.Equal((long)Page, down);
    }

    [Theory]
    [InlineData(0x1000, 0, 1)]
    [InlineData(0, 0xFFF, 2)]
    [InlineData(0, 0, 0)]
    [InlineData(ulong.MaxValue, 0, 2)]
    public void A_range_outside_a_buffer_is_refused_and_nothing_is_submitted(ulong source, ulong target, ulong length)
    {
        (CopyUser from, CopyUser to) = (Hold(_f.Create("a")), Hold(_f.Create("b")));
        Assert.Equal(Errno.EINVAL, Copy(from, source, to, target, length, out Fence? fence));
        Assert.Null(fence);
        Assert.Equal((0, 0), (_f.Gpu.CopyEngine.QueuedCount, from.Outstanding));
    }

    [Fact]
    public void A_full_ring_refuses_and_leaves_no_fence_behind()
    {
        GpuFixture f = new(new GpuOptions { CopyBlockBytes = 0x400, CopyRingSlots = 2 });
        GpuBuffer buffer = f.Create("a");
        CopyUser user = Hold(f, buffer);
        Assert.Equal(Errno.Success, Copy(f, user, 0, user, 0x800, 0x100, out _));
        Assert.Equal(Errno.Success, Copy(f, user, 0, user, 0x800, 0x100, out _));
        Assert.Equal(Errno.EAGAIN, Copy(f, user, 0, user, 0x800, 0x100, out _));
        Assert.Equal(2, user.Outstanding);
        f.Run();
        Assert.Equal(0, user.Outstanding);
        Assert.True(f.Locked(() => buffer.Shared.Reservation.TestSignaled(ReservationUsage.Bookkeep)));
    }

    [Fact]
    public void Without_a_mapping_a_copy_is_a_bug_of_the_caller()
    {
        GpuBuffer buffer = _f.Create();
        CopyUser user = _f.Locked(() =>
        {
            Assert.Equal(Errno.Success, CopyUser.TryCreate(_f.Gpu, buffer.Shared, out CopyUser? made));
            return made!;
        });
        Assert.Throws<InvalidOperationException>(() => Copy(user, 0, user, 0x800, 1, out _));
    }

    [Fact]
    public void A_move_waits_for_the_copies_and_the_bytes_they_wrote_move_along()
    {
        GpuBuffer source = _f.Create("source"), target = _f.Create("target");
        _f.Bytes(source).Fill(7);
        (CopyUser from, CopyUser to) = (Hold(source), Hold(target));
        Copy(from, 0, to, 0, Page, out Fence? fence);
        MoveOperation move = _f.Evict(target);
        Assert.False(fence!.IsSignaled);
        _f.Run();
        Assert.Equal((Errno.Success, MoveState.Moved), (fence.Error, move.State));
        Assert.Equal(-1, _f.Bytes(target).IndexOfAnyExcept((byte)7));
        Assert.Equal(Errno.Success, Map(to)); // at its new place
        Copy(from, 0, to, 0, 1, out _);
        _f.Run();
    }

    [Fact]
    public void Taken_back_memory_is_not_written_after_the_proof()
    {
        GpuBuffer source = _f.Create("source"), target = _f.Create("target");
        _f.Bytes(source).Fill(7);
        (CopyUser from, CopyUser to) = (Hold(source), Hold(target));
        Copy(from, 0, to, 0, Page, out Fence? fence);
        _f.Gpu.CopyEngine.Drive(1);
        GpuPlacement place = target.Placement;
        RevokeOperation revoke = _f.Free(target);
        Assert.False(revoke.IsCompleted);
        _f.Run();
        Assert.Equal((true, RetirementGrade.Retired), (revoke.IsCompleted, revoke.Proof!.Grade));
        Assert.Equal(Errno.ECANCELED, fence!.Error);
        Assert.Equal(-1, _f.Bytes(place)[0x400..].IndexOfAnyExcept((byte)0)); // the block under way, and no other
        Assert.Equal(Errno.ENODEV, Map(to));
        Assert.Equal(0, from.Outstanding);
    }

    [Fact]
    public void An_engine_that_says_done_at_once_writes_after_the_proof()
    {
        GpuBuffer source = _f.Create("source"), target = _f.Create("target");
        _f.Bytes(source).Fill(7);
        (CopyUser from, CopyUser to) = (Hold(source), Hold(target));
        to.WaitsForJobs = false;
        Copy(from, 0, to, 0, Page, out _);
        GpuPlacement place = target.Placement;
        RevokeOperation revoke = _f.Free(target);
        Assert.True(revoke.IsCompleted);
        _f.Run();
        Assert.NotEqual(-1, _f.Bytes(place).IndexOfAnyExcept((byte)0));
    }

    [Fact]
    public void To_let_go_with_copies_under_way_is_a_bug_of_the_caller()
    {
        GpuBuffer buffer = _f.Create();
        CopyUser user = Hold(buffer);
        Copy(user, 0, user, 0x800, 0x100, out _);
        _f.WithReservation(
            buffer.Shared, ticket => Assert.Throws<InvalidOperationException>(() => user.DetachLocked(ticket)));
        _f.Run();
        _f.WithReservation(buffer.Shared, ticket =>
        {
            user.DetachLocked(ticket);
            return 0;
        });
        Assert.Empty(buffer.Shared.Attachments);
    }

    [Fact]
    public void Short_copies_of_one_timeline_end_together_in_their_order()
    {
        (CopyUser from, CopyUser to) = (Hold(_f.Create("a")), Hold(_f.Create("b")));
        List<Fence> fences = [];
        for (ulong i = 0; i < 3; i++)
        {
            Copy(from, 0, to, i * 0x100, 0x100, out Fence? fence);
            fences.Add(fence!);
        }

        _f.Gpu.CopyEngine.Drive(2);
        Assert.All(fences, f => Assert.False(f.IsSignaled));
        _f.Gpu.CopyEngine.Drive(1);
        Assert.All(fences, f => Assert.Equal((true, Errno.Success), (f.IsSignaled, f.Error)));
    }

    [Fact]
    public void A_long_copy_ends_alone()
    {
        (CopyUser from, CopyUser to) = (Hold(_f.Create("a")), Hold(_f.Create("b")));
        Copy(from, 0, to, 0, 0x800, out Fence? first);
        Copy(from, 0, to, 0, 0x100, out Fence? second);
        _f.Gpu.CopyEngine.Drive(2);
        Assert.Equal((true, false), (first!.IsSignaled, second!.IsSignaled));
    }

    [Fact]
    public void A_stop_ends_what_was_done_with_success_and_the_rest_of_the_batch_with_ETIME()
    {
        (CopyUser from, CopyUser to) = (Hold(_f.Create("a")), Hold(_f.Create("b")));
        List<Fence> fences = [];
        for (ulong i = 0; i < 3; i++)
        {
            Copy(from, 0, to, i * 0x100, 0x100, out Fence? fence);
            fences.Add(fence!);
        }

        _f.Gpu.CopyEngine.Drive(1);
        _f.Locked(() => ((IStoppableEngine)_f.Gpu.CopyEngine).Stop());
        _f.Run();
        Assert.Equal([Errno.Success, Errno.ETIME, Errno.ETIME], fences.Select(f => f.Error));
        Assert.All(fences, f => Assert.True(f.HasEnded));
        Copy(from, 0, to, 0, 0x100, out Fence? next);
        _f.Run();
        Assert.Equal(Errno.Success, next!.Error);
    }

    private GpuDevice NewPeer() => _f.Locked(() => new GpuDevice(
        _f.Host,
        _f.Fabric,
        new PciFunction("0000:03:00.0", "gpu1"),
        new GpuOptions { CopyBlockBytes = 0x400 },
        [new byte[4 * Page]],
        [new byte[4 * Page]]));

    private CopyUser Hold(GpuBuffer buffer) => Hold(_f, buffer);

    private static CopyUser Hold(GpuFixture f, GpuBuffer buffer)
    {
        CopyUser user = f.Locked(() =>
        {
            Assert.Equal(Errno.Success, CopyUser.TryCreate(f.Gpu, buffer.Shared, out CopyUser? made));
            return made!;
        });
        Assert.Equal(Errno.Success, Map(f, user));
        return user;
    }

    private Errno Map(CopyUser user) => Map(_f, user);

    private static Errno Map(GpuFixture f, CopyUser user) => f.WithReservation(user.Buffer, user.TryMapLocked);

    private Errno Copy(CopyUser from, ulong source, CopyUser to, ulong target, ulong length, out Fence? fence) =>
        Copy(_f, from, source, to, target, length, out fence);

    private static Errno Copy(
        GpuFixture f, CopyUser from, ulong source, CopyUser to, ulong target, ulong length, out Fence? fence)
    {
        using (f.Host.Enter())
        {
            AcquireTicket ticket = new(f.Host, "test");
            Assert.Equal(LockOutcomeKind.Acquired, from.Buffer.Reservation.TryLock(ticket).Kind);
            bool isOne = ReferenceEquals(from, to);
            Assert.True(isOne || to.Buffer.Reservation.TryLock(ticket).Kind == LockOutcomeKind.Acquired);
            try
            {
                return CopyUser.TryCopyLocked(ticket, from, source, to, target, length, out fence);
            }
            finally
            {
                from.Buffer.Reservation.Unlock(ticket);
                if (!isOne)
                {
                    to.Buffer.Reservation.Unlock(ticket);
                }
            }
        }
    }
}
