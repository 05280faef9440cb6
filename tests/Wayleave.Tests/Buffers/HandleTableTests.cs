using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class HandleTableTests
{
    [Fact]
    public void DBUF_03_The_last_handle_that_closes_releases_the_buffer_once()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host);
        Assert.Equal(Errno.Success, table.TryInstall(f.Buffer, out int handle));
        Assert.Equal((0, 1), (handle, table.Count));
        Assert.Equal(Errno.Success, table.Close(handle));
        Assert.Equal(Errno.EBADF, table.Close(handle));
        Assert.Equal(1, f.Exporter.Calls.Count(c => c == "release"));
    }

    [Fact]
    public void DBUF_04_A_buffer_lives_as_long_as_one_of_two_duplicate_handles()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host), other = new(f.Host);
        table.TryInstall(f.Buffer, out int first);
        Assert.Equal(Errno.Success, table.TryDuplicate(first, table, out int second));
        Assert.Equal(Errno.Success, table.TryDuplicate(first, other, out int sent));
        table.Close(first);
        other.Close(sent);
        Assert.DoesNotContain("release", f.Exporter.Calls);
        table.Close(second);
        Assert.Contains("release", f.Exporter.Calls);
    }

    [Fact]
    public void DBUF_05_A_number_that_is_not_open_is_EBADF_and_one_of_something_else_EINVAL()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host);
        Assert.All([-1, 0, 7], n => Assert.Equal(Errno.EBADF, table.TryGet(n, out SharedBuffer? _)));
        table.TryInstall(f.Buffer, out int handle);
        Assert.Equal(Errno.Success, table.TryGet(handle, out SharedBuffer? same));
        Assert.Same(f.Buffer, same);
        Assert.Equal(2, f.Buffer.ReferenceCount);
        table.TryInstall(new SyncFile(f.Host, f.Host.GetStubFence()), out int other);
        Assert.Equal(Errno.EINVAL, table.TryGet(other, out SharedBuffer? none));
        Assert.Null(none);
    }

    [Fact]
    public void A_handle_of_nothing_is_EINVAL_and_a_full_table_EMFILE_and_the_caller_keeps_its_reference()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host, capacity: 1);
        Assert.Equal(Errno.EINVAL, table.TryInstall((SharedBuffer?)null, out _));
        table.TryInstall(f.Buffer, out int handle);
        Assert.Equal(Errno.EMFILE, table.TryDuplicate(handle, table, out _));
        Assert.Equal(1, f.Buffer.ReferenceCount);
    }

    [Fact]
    public void The_smallest_free_number_is_taken_and_a_dead_process_closes_all_of_its_handles()
    {
        using BufferFixture f = new();
        HandleTable table = new(f.Host);
        table.TryInstall(f.Buffer, out int first);
        table.TryDuplicate(first, table, out int second);
        table.TryDuplicate(first, table, out int third);
        table.Close(second);
        table.TryDuplicate(first, table, out int again);
        Assert.Equal((1, 2, 1), (second, third, again));
        table.CloseAll();
        Assert.Equal((0, 0), (table.Count, f.Buffer.ReferenceCount));
        Assert.Contains("release", f.Exporter.Calls);
    }
}
