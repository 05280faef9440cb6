using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class CpuAccessTests
{
    [Fact]
    public void EXP_19_A_start_to_read_brings_an_unpinned_buffer_to_host_memory_and_one_to_write_does_not()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Bytes(buffer).Fill(0x5A);
        CpuAccess write = Begin(f, buffer, DmaDirection.ToDevice);
        Assert.Equal((GpuDomain.Vram, 0), (buffer.Placement.Domain, f.Stats.CopyJobs));
        Assert.Equal(CacheMaintenance.FlushWriteCombining, End(f, write));
        CpuAccess read = Begin(f, buffer, DmaDirection.FromDevice);
        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
        Assert.NotNull(f.Locked(read.FirstUnsignaled));
        f.Run();
        Assert.Null(f.Locked(read.FirstUnsignaled));
        Assert.Equal(0x5A, f.Bytes(buffer)[0]);
        Assert.Equal((CacheMaintenance.None, CacheMaintenance.None), (read.Maintenance, End(f, read)));
    }

    [Fact]
    public void A_start_to_read_waits_for_a_move_that_itself_waits_for_the_reservation()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        AcquireTicket holder = f.Locked(() =>
        {
            AcquireTicket ticket = new(f.Host, "somebody");
            buffer.Shared.Reservation.TryLock(ticket);
            return ticket;
        });
        CpuAccess read = Begin(f, buffer, DmaDirection.Bidirectional);
        Fence? move = f.Locked(read.FirstUnsignaled);
        Assert.Equal((true, GpuDomain.Vram), (move is not null, buffer.Placement.Domain));
        f.Locked(() => buffer.Shared.Reservation.Unlock(holder));
        Assert.NotNull(f.Locked(read.FirstUnsignaled));
        f.Run();
        Assert.Null(f.Locked(read.FirstUnsignaled));
        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
    }

    [Theory]
    [InlineData(StorageKind.Static)]
    [InlineData(StorageKind.Revocable)]
    public void A_buffer_that_cannot_come_is_read_where_it_is_after_caches_were_invalidated(StorageKind storage)
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(storage: storage);
        CpuAccess read = Begin(f, buffer, DmaDirection.FromDevice);
        Assert.Null(f.Locked(read.FirstUnsignaled));
        Assert.Equal(
            (GpuDomain.Vram, CacheMaintenance.InvalidateBeforeRead), (buffer.Placement.Domain, read.Maintenance));
    }

    [Fact]
    public void A_pinned_buffer_and_one_that_host_memory_has_no_room_for_are_read_where_they_are()
    {
        GpuFixture f = new(systemPages: 1);
        GpuBuffer pinned = f.Create("pinned"), large = f.Create("large", pages: 2);
        f.Pin(f.Attach(pinned, f.NewImporter(ImporterKind.PinnedRevocable)));
        Assert.Null(f.Locked(Begin(f, pinned, DmaDirection.FromDevice).FirstUnsignaled));
        Assert.Null(f.Locked(Begin(f, large, DmaDirection.FromDevice).FirstUnsignaled));
        Assert.Equal((GpuDomain.Vram, GpuDomain.Vram), (pinned.Placement.Domain, large.Placement.Domain));
    }

    [Fact]
    public void A_freed_buffer_is_touched_by_no_processor()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Free(buffer);
        Assert.Equal(
            Errno.ENODEV, f.Locked(() => buffer.Shared.TryBeginCpuAccess(DmaDirection.FromDevice, out _)));
    }

    private static CpuAccess Begin(GpuFixture f, GpuBuffer buffer, DmaDirection direction) => f.Locked(() =>
    {
        Assert.Equal(Errno.Success, buffer.Shared.TryBeginCpuAccess(direction, out CpuAccess? access));
        return access!;
    });

    private static CacheMaintenance End(GpuFixture f, CpuAccess access) => f.Locked(() =>
    {
        Assert.Equal(Errno.Success, access.End(out CacheMaintenance maintenance));
        return maintenance;
    });
}
