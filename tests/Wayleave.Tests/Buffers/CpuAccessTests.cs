using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class CpuAccessTests
{
    [Theory]
    [InlineData(0UL)]
    [InlineData(8UL)]
    [InlineData(4UL)]
    [InlineData(9UL)]
    public void DBUF_29_Sync_flags_without_read_and_write_or_with_unknown_bits_are_EINVAL(ulong flags)
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EINVAL, new BufferFile(f.Buffer).TrySync((BufferSync)flags, out CpuAccess? access, out _));
        Assert.Null(access);
        Assert.Empty(f.Exporter.Calls);
    }

    [Theory]
    [InlineData(1UL, DmaDirection.FromDevice)]
    [InlineData(2UL, DmaDirection.ToDevice)]
    [InlineData(3UL, DmaDirection.Bidirectional)]
    public void DBUF_29_Read_write_and_both_start_and_end(ulong flags, DmaDirection direction)
    {
        using BufferFixture f = new();
        BufferFile file = new(f.Buffer);
        Assert.Equal(
            Errno.Success, file.TrySync((BufferSync)flags, out CpuAccess? access, out CacheMaintenance before));
        Assert.Null(access!.FirstUnsignaled());
        Assert.Equal((direction, 1), (access.Direction, f.Buffer.CpuAccessCount));
        Assert.Equal(
            Errno.Success,
            file.TrySync((BufferSync)flags | BufferSync.End, out CpuAccess? ended, out CacheMaintenance after));
        Assert.Same(access, ended);
        Assert.Equal(0, f.Buffer.CpuAccessCount);
        Assert.Equal([$"begin {direction}", $"end {direction}"], f.Exporter.Calls);
        Assert.Equal(access.Reads, before == CacheMaintenance.InvalidateBeforeRead);
        Assert.Equal(access.Writes, after == CacheMaintenance.CleanAfterWrite);
    }

    [Fact]
    public void An_end_without_a_start_is_the_exporters_to_judge()
    {
        using BufferFixture f = new();
        f.Exporter.CpuAccessResult = Errno.EINVAL; // as udmabuf.c
        Assert.Equal(
            Errno.EINVAL, new BufferFile(f.Buffer).TrySync(BufferSync.Read | BufferSync.End, out _, out _));
        Assert.Equal(0, f.Buffer.CpuAccessCount);
    }

    [Fact]
    public void DBUF_30_A_start_to_read_waits_for_writers_and_a_start_to_write_for_readers_too()
    {
        using BufferFixture f = new();
        Fence reader = f.AddFence(ReservationUsage.Read);
        f.AddFence(ReservationUsage.Bookkeep, new Timeline(f.Host, "evictions"));
        Assert.Null(Begin(f, DmaDirection.FromDevice).FirstUnsignaled());
        CpuAccess writes = Begin(f, DmaDirection.ToDevice), both = Begin(f, DmaDirection.Bidirectional);
        Assert.Same(reader, writes.FirstUnsignaled());
        Assert.Same(reader, both.FirstUnsignaled());
        reader.Signal();
        Assert.Null(writes.FirstUnsignaled());
        f.AddFence(ReservationUsage.Write, new Timeline(f.Host, "writer"));
        Assert.NotNull(Begin(f, DmaDirection.FromDevice).FirstUnsignaled());
    }

    [Fact]
    public void DBUF_31_An_exporter_that_fails_ends_the_access_and_no_fence_is_waited_for()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Write);
        f.Exporter.CpuAccessResult = Errno.EIO;
        Assert.Equal(Errno.EIO, f.Buffer.TryBeginCpuAccess(DmaDirection.FromDevice, out CpuAccess? access));
        Assert.Null(access);
        Assert.Equal(0, f.Buffer.CpuAccessCount);
    }

    [Fact]
    public void Work_that_the_exporter_starts_for_an_access_is_waited_for_before_it_stands_in_the_reservation()
    {
        using BufferFixture f = new();
        f.Exporter.CpuWork = f.Work.CreateFence();
        CpuAccess access = Begin(f, DmaDirection.FromDevice);
        Assert.Same(f.Exporter.CpuWork, access.FirstUnsignaled());
        f.Exporter.CpuWork.Signal();
        Assert.Null(access.FirstUnsignaled());
    }

    [Theory]
    [InlineData(0UL, 0UL)]
    [InlineData(0UL, 0x1001UL)]
    [InlineData(0x1000UL, 1UL)]
    [InlineData(0xFFFUL, 2UL)]
    [InlineData(1UL, ulong.MaxValue)]
    public void A_part_that_leaves_the_buffer_is_EINVAL(ulong offset, ulong length)
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EINVAL, f.Buffer.TryBeginCpuAccess(DmaDirection.FromDevice, offset, length, out _));
        Assert.Empty(f.Exporter.Calls);
    }

    [Fact]
    public void A_part_is_the_exporters_to_see_and_a_second_end_throws()
    {
        using BufferFixture f = new();
        Assert.Equal(
            Errno.Success, f.Buffer.TryBeginCpuAccess(DmaDirection.FromDevice, 0x800, 0x10, out CpuAccess? access));
        Assert.Equal((0x800UL, 0x10UL), (access!.Offset, access.LengthBytes));
        access.End(out _);
        Assert.Throws<InvalidOperationException>(() => access.End(out _));
    }

    [Fact]
    public void An_exporter_that_snoops_leaves_it_out_and_the_fences_are_waited_for_all_the_same()
    {
        using BufferFixture f = new();
        SharedBuffer bare = f.Export(new ExportInfo(new BareExporter(), "bare", 1, f.Buffer.Reservation));
        Fence writer = f.AddFence(ReservationUsage.Write);
        Assert.Equal(Errno.Success, bare.TryBeginCpuAccess(DmaDirection.FromDevice, out CpuAccess? access));
        Assert.Equal((writer, CacheMaintenance.None), (access!.FirstUnsignaled(), access.Maintenance));
        Assert.Equal(Errno.Success, access.End(out CacheMaintenance after));
        Assert.Equal(CacheMaintenance.None, after);
    }

    [Fact]
    public void DBUF_24_Nested_vmaps_are_one_mapping_of_the_exporter()
    {
        using BufferFixture f = new();
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.Success, f.Buffer.TryVmapLocked(ticket, out Memory<byte> first));
        Assert.Equal(Errno.Success, f.Buffer.TryVmapLocked(ticket, out Memory<byte> second));
        Assert.True(first.Equals(second));
        f.Buffer.VunmapLocked(ticket, first);
        Assert.Equal(["vmap"], f.Exporter.Calls);
        f.Buffer.VunmapLocked(ticket, second);
        Assert.Equal(["vmap", "vunmap"], f.Exporter.Calls);
        Assert.Empty(f.Buffer.CpuMappings);
    }

    [Fact]
    public void DBUF_25_A_vunmap_of_nothing_or_of_other_memory_throws()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        AcquireTicket ticket = f.Lock();
        Assert.Throws<InvalidOperationException>(() => buffer.VunmapLocked(ticket, default));
        buffer.TryVmapLocked(ticket, out Memory<byte> memory);
        Assert.Throws<InvalidOperationException>(() => buffer.VunmapLocked(ticket, memory[1..]));
    }

    [Fact]
    public void A_buffer_that_the_host_still_maps_is_not_released()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        AcquireTicket ticket = f.Lock();
        buffer.TryVmapLocked(ticket, out Memory<byte> memory);
        Assert.Throws<InvalidOperationException>(buffer.Put);
        buffer.VunmapLocked(ticket, memory);
        buffer.Put();
        Assert.Contains("release", f.Exporter.Calls);
    }

    [Fact]
    public void A_vmap_is_EINVAL_where_the_exporter_cannot_and_otherwise_what_it_says()
    {
        using BufferFixture f = new();
        SharedBuffer bare = f.Export(new ExportInfo(new BareExporter(), "bare", 1, f.Buffer.Reservation));
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.EINVAL, bare.TryVmapLocked(ticket, out _));
        f.Exporter.VmapResult = Errno.ENOMEM;
        Assert.Equal(Errno.ENOMEM, f.Buffer.TryVmapLocked(ticket, out _));
        Assert.Equal(0, f.Buffer.VmapCount);
        f.ExpectViolation(ViolationKind.ExporterAnswer);
    }

    [Fact]
    public void Revocable_storage_is_mapped_by_no_processor_because_nobody_could_make_it_stop()
    {
        using BufferFixture f = new(StorageKind.Revocable);
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryVmapLocked(ticket, out _));
        Assert.Equal(Errno.EOPNOTSUPP, f.Buffer.TryMmap("process 1", 0, 0x1000, out _));
        Assert.Empty(f.Exporter.Calls);
    }

    [Theory]
    [InlineData(0x3000UL, 0x2000UL, Errno.EINVAL)] // two pages at page 3 of 4
    [InlineData(0UL, 0UL, Errno.EINVAL)]
    [InlineData(0x4000UL, 1UL, Errno.EINVAL)]
    [InlineData(2UL, ulong.MaxValue, Errno.EOVERFLOW)]
    [InlineData(0x2000UL, 0x2000UL, Errno.Success)]
    public void DBUF_26_A_process_maps_no_byte_behind_the_buffers_end(ulong offset, ulong length, Errno expected)
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Export(new ExportInfo(f.Exporter, "four pages", 0x4000));
        Assert.Equal(expected, buffer.TryMmap("process 1", offset, length, out CpuMapping? mapping));
        Assert.Equal(expected == Errno.Success, mapping is not null);
        Assert.Equal(expected == Errno.Success ? ["mmap"] : [], f.Exporter.Calls);
    }

    [Fact]
    public void DBUF_27_Where_the_exporter_has_no_mmap_it_is_EINVAL()
    {
        using BufferFixture f = new();
        SharedBuffer bare = f.Export(new ExportInfo(new BareExporter(), "bare", 1));
        Assert.Equal(Errno.EINVAL, bare.TryMmap("process 1", 0, 1, out _));
    }

    [Fact]
    public void A_process_mapping_keeps_the_buffer_alive_and_ends_once()
    {
        using BufferFixture f = new();
        SharedBuffer buffer = f.Buffer;
        Assert.Equal(Errno.Success, buffer.TryMmap("process 1", 0, 0x1000, out CpuMapping? mapping));
        buffer.Release();
        Assert.DoesNotContain("release", f.Exporter.Calls);
        mapping!.End();
        Assert.Equal(["mmap", "munmap", "release"], f.Exporter.Calls);
        Assert.False(mapping.IsMapped);
        Assert.Throws<InvalidOperationException>(mapping.End);
    }

    [Fact]
    public void A_refused_mmap_leaves_nothing_behind()
    {
        using BufferFixture f = new();
        f.Exporter.MmapResult = Errno.EPERM;
        Assert.Equal(Errno.EPERM, f.Buffer.TryMmap("process 1", 0, 0x1000, out _));
        Assert.Equal((0, 1), (f.Buffer.CpuMappings.Count, f.Buffer.ReferenceCount));
    }

    [Theory]
    [InlineData(0, SeekWhence.End, Errno.Success, 0x1000UL)]
    [InlineData(0, SeekWhence.Set, Errno.Success, 0UL)]
    [InlineData(0, SeekWhence.Current, Errno.EINVAL, 0UL)]
    [InlineData(1, SeekWhence.Set, Errno.EINVAL, 0UL)]
    [InlineData(-1, SeekWhence.End, Errno.EINVAL, 0x1000UL)]
    public void DBUF_28_A_seek_only_tells_the_size(long offset, SeekWhence whence, Errno expected, ulong position)
    {
        using BufferFixture f = new();
        Assert.Equal(expected, new BufferFile(f.Buffer).TrySeek(offset, whence, out ulong found));
        Assert.Equal(position, found);
    }

    private static CpuAccess Begin(BufferFixture f, DmaDirection direction)
    {
        Assert.Equal(Errno.Success, f.Buffer.TryBeginCpuAccess(direction, out CpuAccess? access));
        return access!;
    }
}
