using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class SyncFileTests
{
    private const PollEvents Both = PollEvents.In | PollEvents.Out;

    [Fact]
    public void DBUF_38_A_file_for_a_reader_does_not_wait_for_readers_and_one_for_a_writer_does()
    {
        using BufferFixture f = new();
        Fence reader = f.AddFence(ReservationUsage.Read);
        SyncFile forRead = Export(f, BufferSync.Read), forWrite = Export(f, BufferSync.Write);
        Assert.Equal((true, false), (forRead.Poll(), forWrite.Poll()));
        reader.Signal();
        Assert.Equal((true, true), (forRead.Poll(), forWrite.Poll()));
    }

    [Fact]
    public void DBUF_39_What_is_added_after_the_export_is_not_in_the_file()
    {
        using BufferFixture f = new();
        Fence first = f.AddFence(ReservationUsage.Read, new Timeline(f.Host, "a"));
        Fence second = f.AddFence(ReservationUsage.Read, new Timeline(f.Host, "b"));
        SyncFile file = Export(f, BufferSync.Write);
        f.AddFence(ReservationUsage.Read, new Timeline(f.Host, "c"));
        first.Signal();
        Assert.False(file.Poll());
        second.Signal();
        Assert.True(file.Poll());
        Assert.False(Export(f, BufferSync.Write).Poll());
    }

    [Fact]
    public void A_KERNEL_fence_is_in_every_file_and_a_BOOKKEEP_fence_in_none()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Bookkeep, new Timeline(f.Host, "evictions"));
        Assert.True(Export(f, BufferSync.Read | BufferSync.Write).Poll());
        f.AddFence(ReservationUsage.Kernel);
        Assert.Equal((false, false), (Export(f, BufferSync.Read).Poll(), Export(f, BufferSync.Write).Poll()));
    }

    [Fact]
    public void DBUF_40_What_was_imported_for_reading_lets_readers_in_and_for_writing_nobody()
    {
        using BufferFixture f = new();
        Import(f, BufferSync.Read, new SyncFile(f.Host, new Timeline(f.Host, "a").CreateFence()));
        Assert.Equal(PollEvents.In, f.Buffer.Poll(Both));
        Fence writer = new Timeline(f.Host, "b").CreateFence();
        Import(f, BufferSync.Read | BufferSync.Write, new SyncFile(f.Host, writer));
        Assert.Equal(PollEvents.None, f.Buffer.Poll(Both));
        writer.Signal();
        Assert.Equal(PollEvents.In, f.Buffer.Poll(Both));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void DBUF_41_32_imports_are_waited_for_until_the_last_timeline_has_advanced(bool withWriter)
    {
        using BufferFixture f = new();
        HostContext host = f.Host;
        Fence[] fences = [.. Enumerable.Range(0, 32).Select(n => new Timeline(host, $"timeline {n}").CreateFence())];
        foreach (Fence fence in fences)
        {
            Import(f, BufferSync.Read, new SyncFile(host, fence));
        }

        Fence writer = f.Work.CreateFence();
        if (withWriter)
        {
            Import(f, BufferSync.Write, new SyncFile(host, writer));
        }

        foreach (Fence fence in fences)
        {
            Assert.Equal(withWriter ? PollEvents.None : PollEvents.In, f.Buffer.Poll(Both));
            fence.Signal();
        }

        Assert.Equal(withWriter ? PollEvents.None : Both, f.Buffer.Poll(Both));
        writer.Signal();
        Assert.Equal(Both, f.Buffer.Poll(Both));
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(4UL)]
    [InlineData(5UL)]
    [InlineData(8UL)]
    public void DBUF_42_Other_flags_than_read_and_write_are_EINVAL(ulong flags)
    {
        using BufferFixture f = new();
        Assert.Equal(Errno.EINVAL, new BufferFile(f.Buffer).TryExportSyncFile((BufferSync)flags, out SyncFile? none));
        Assert.Null(none);
        SyncFile file = new(f.Host, f.Work.CreateFence());
        Assert.Equal(Errno.EINVAL, TryImport(f, (BufferSync)flags, file));
        Assert.Empty(f.Buffer.Reservation.Describe());
    }

    [Fact]
    public void DBUF_42_differs_A_handle_of_no_sync_file_is_EINVAL_and_each_request_is_a_method_so_none_is_unknown()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host);
        table.TryInstall(f.Buffer, out int handle);
        Assert.Equal(Errno.EINVAL, table.TryGet(handle, out SyncFile? file));
        Assert.Equal(Errno.EINVAL, table.TryGet(7, out file));
        Assert.Equal(Errno.EINVAL, TryImport(f, BufferSync.Read, file));
    }

    [Fact]
    public void A_file_of_another_host_is_EINVAL()
    {
        using BufferFixture f = new();
        HostContext other = new(f.Clock);
        using (other.Enter())
        {
            SyncFile foreign = new(other, new Timeline(other, "elsewhere").CreateFence());
            Assert.Equal(Errno.EINVAL, TryImport(f, BufferSync.Write, foreign));
        }
    }

    [Fact]
    public void DBUF_43_Of_an_array_each_fence_goes_in_and_the_array_does_not()
    {
        using BufferFixture f = new();
        HostContext host = f.Host;
        Fence[] fences = [.. "abc".Select(n => new Timeline(host, $"{n}").CreateFence())];
        Import(f, BufferSync.Write, new SyncFile(host, new FenceArray(host, fences)));
        Assert.Equal(fences, f.Buffer.Reservation.GetFences(ReservationUsage.Write));
        Assert.Empty(host.Checker.Violations);
    }

    [Fact]
    public void A_file_that_is_over_adds_nothing_and_one_that_was_forced_adds_what_has_not_ended()
    {
        using BufferFixture f = new();
        Import(f, BufferSync.Write, new SyncFile(f.Host, f.Host.GetStubFence()));
        Assert.Empty(f.Buffer.Reservation.Describe());
        Fence hangs = f.Work.CreateFence();
        hangs.Force(Errno.ETIME);
        Import(f, BufferSync.Write, new SyncFile(f.Host, hangs));
        Assert.Equal(Both, f.Buffer.Poll(Both));
        Assert.Equal(RevokeState.Quarantined, RevokeOperation.Start(f.Buffer, new RevokePolicy()).State);
    }

    [Fact]
    public void A_revoked_buffer_takes_no_new_work()
    {
        using BufferFixture f = new();
        SyncFile file = new(f.Host, f.Work.CreateFence());
        RevokeOperation.Start(f.Buffer, new RevokePolicy());
        Assert.Equal(Errno.ENODEV, TryImport(f, BufferSync.Write, file));
    }

    private static SyncFile Export(BufferFixture f, BufferSync flags)
    {
        Assert.Equal(Errno.Success, new BufferFile(f.Buffer).TryExportSyncFile(flags, out SyncFile? file));
        return file!;
    }

    private static void Import(BufferFixture f, BufferSync flags, SyncFile file) =>
        Assert.Equal(Errno.Success, TryImport(f, flags, file));

    private static Errno TryImport(BufferFixture f, BufferSync flags, SyncFile? file)
    {
        AcquireTicket ticket = f.Lock();
        Errno errno = new BufferFile(f.Buffer).TryImportSyncFileLocked(ticket, flags, file);
        f.Buffer.Reservation.Unlock(ticket);
        return errno;
    }
}
