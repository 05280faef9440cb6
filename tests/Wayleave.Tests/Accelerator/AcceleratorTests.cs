using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Accelerator;
using Wayleave.Tests.PeerMemory;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Accelerator;

public sealed class AcceleratorTests
{
    private const ulong Page = AcceleratorFixture.Page;

    private static readonly AcceleratorOptions s_first =
        new() { PageBytes = (int)Page, HasVirtualMemory = false, ReservedBytes = Page };

    [Fact]
    public void EXP_01_An_address_a_size_and_an_offset_are_whole_pages()
    {
        AcceleratorFixture f = new();
        ulong address = f.Map(f.Allocate(4));

        Assert.Equal(Errno.EINVAL, f.TryExport(address + 1, Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, 0, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, Page + 512, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, Page, 512, out _));
        Assert.Equal(Errno.Success, f.TryExport(address, Page, Page, out SharedBuffer? buffer));
        Assert.Equal(Page, buffer!.SizeBytes);
    }

    [Fact]
    public void EXP_02_A_range_ends_where_the_BAR_does_or_before()
    {
        // Eight of sixteen pages are visible; one is the firmware's.
        AcceleratorFixture f = new(s_first with { VisibleBytes = 8 * Page });
        ulong start = s_first.MemoryBase;

        Assert.Equal(Errno.EINVAL, f.TryExport(start + (7 * Page), 2 * Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(start + (8 * Page), Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(start, 2 * Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(start + (15 * Page), 2 * Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(start + Page, ulong.MaxValue - (2 * Page) + 1, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(start + Page, Page, Page, out _)); // no offset without virtual memory
        Assert.Equal(Errno.Success, f.TryExport(start + Page, 7 * Page, 0, out _));
    }

    [Fact]
    public void EXP_02_Memory_that_the_BAR_does_not_show_makes_the_whole_mapping_unfit()
    {
        AcceleratorFixture f = new(new AcceleratorOptions { PageBytes = (int)Page, VisibleBytes = 8 * Page });

        ulong[] addresses = [f.Map(f.Allocate(8)), f.Map(f.Allocate(8))];
        Errno[] results = [.. addresses.Select(a => f.TryExport(a, 8 * Page, 0, out _))];
        Assert.Equal([Errno.EINVAL, Errno.Success], results.Order().Reverse());

        // Nine pages are on both sides of the end, and not even the first of them can be had.
        AcceleratorFixture other = new(new AcceleratorOptions { PageBytes = (int)Page, VisibleBytes = 8 * Page });
        Assert.Equal(Errno.EINVAL, other.TryExport(other.Map(other.Allocate(9)), Page, 0, out _));
    }

    [Fact]
    public void EXP_02_A_range_inside_its_mapping_and_its_mapping_from_the_start()
    {
        AcceleratorFixture f = new();
        ulong address = f.Map(f.Allocate(4));
        ulong host = f.Locked(() =>
        {
            MemoryWindow window = f.Fabric.AddWindow(new byte[Page], owner: null);
            Assert.Equal(Errno.Success, f.Context.TryMapHost(new DmaAddressList([window.Range]), out ulong mapped));
            return mapped;
        });

        Assert.Equal(Errno.EINVAL, f.TryExport(address, 5 * Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, 2 * Page, 3 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, Page, 5 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address, 2 * Page, ulong.MaxValue - Page + 1, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(address + Page, Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryExport(host, Page, 0, out _));
        Assert.Equal(Errno.Success, f.TryExport(address, Page, 3 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryExport(
            new string('x', 32), address, Page, 0, out SharedBuffer? _)));
    }

    [Theory]
    [InlineData(uint.MaxValue, 2)]
    [InlineData(4096UL, 3)]
    [InlineData(8191UL, 3)]
    public void EXP_03_Pages_that_follow_one_another_are_one_entry_up_to_the_longest_segment(ulong segment, int entries)
    {
        PciFunction importer = new("0000:0a:00.0", "nic") { DmaSegmentBytesMax = segment };
        AcceleratorFixture f = new(importer: importer);
        ulong[] pages = [.. Enumerable.Range(0, 16).Select(_ => f.Allocate(1))];
        f.Run();
        f.Locked(() => Assert.All((int[])[0, 1, 5], i => Assert.Equal(Errno.Success, f.Context.TryFree(pages[i]))));
        ulong address = f.Map(f.Allocate(3));
        f.Run();

        PeerUser user = f.Attach(f.Export(address, 3 * Page));
        user.Map();

        DeviceAddress start = f.Device.Bar.Range.Start;
        Assert.Equal(entries, user.Mapping.Entries.Length);
        Assert.Equal(start, user.Mapping.Entries[0].Start);
        Assert.Equal(new DeviceRange(start + (5 * Page), Page), user.Mapping.Entries[^1]);
        Assert.True(user.TryWrite(Page, 1));
        Assert.True(user.TryWrite(2 * Page, 5));
        Assert.Equal((1, 5), (f.Memory[Page], f.Memory[5 * Page]));
    }

    [Fact]
    public void EXP_03_An_engine_that_takes_less_than_a_page_at_once_is_refused()
    {
        AcceleratorFixture f = new(importer: new PciFunction("0000:0a:00.0", "nic") { DmaSegmentBytesMax = 4095 });

        Assert.Equal(Errno.EINVAL, f.Attach(f.Export(f.Map(f.Allocate(1)), Page)).TryMap());
    }

    [Fact]
    public void EXP_04_Without_a_path_an_importer_attaches_and_learns_of_it_at_the_map()
    {
        AcceleratorFixture f = new(tree: Trees.RootPorts(Trees.Unlisted));
        SharedBuffer buffer = f.Export(f.Map(f.Allocate(1)), Page);

        PeerUser user = f.Attach(buffer);

        Assert.False(user.Attachment!.PeerToPeer);
        Assert.Equal(Errno.EPERM, user.TryMap());
    }

    [Fact]
    public void EXP_04_A_static_importer_takes_no_peer_addresses_and_gets_none()
    {
        AcceleratorFixture f = new();
        SharedBuffer buffer = f.Export(f.Map(f.Allocate(1)), Page);
        f.Run();

        f.Locked(() =>
        {
            Assert.Equal(Errno.Success, buffer.TryAttach(f.Importer, null, out Attachment? attachment));
            AcquireTicket ticket = new(f.Host, "test");
            buffer.Reservation.TryLock(ticket);
            Assert.Equal(Errno.EPERM, attachment!.MapLocked(ticket, DmaDirection.Bidirectional).Errno);
            buffer.Reservation.Unlock(ticket);
        });
    }

    [Fact]
    public void EXP_05_What_is_exported_is_not_unmapped_and_what_is_mapped_is_not_freed()
    {
        AcceleratorFixture f = new();
        ulong handle = f.Allocate(2);
        ulong address = f.Map(handle);
        SharedBuffer first = f.Export(address, Page);
        SharedBuffer second = f.Export(address, Page, Page);
        f.Run();

        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryUnmap(address)));
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryFree(handle)));
        f.Locked(first.Release);
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryUnmap(address)));
        f.Locked(second.Release);
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryFree(handle)));
        Assert.Equal(Errno.Success, f.Locked(() => f.Context.TryUnmap(address)));
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryUnmap(address)));
        Assert.Equal(Errno.Success, f.Locked(() => f.Context.TryFree(handle)));
        Assert.Equal(Errno.EINVAL, f.Locked(() => f.Context.TryFree(handle)));
        Assert.Equal(16 * Page, f.Device.Memory.FreeBytes);
        Assert.Equal(0UL, f.Context.ClaimedBytes);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void EXP_05_A_driver_that_lets_go_of_exported_memory_is_caught(bool keeps)
    {
        AcceleratorFixture f = new(new AcceleratorOptions { PageBytes = (int)Page, KeepsExportedMemory = keeps });
        ulong handle = f.Allocate(16);
        ulong address = f.Map(handle);
        f.Run();
        PeerUser user = f.Attach(f.Export(address, Page));
        user.Map();

        f.Locked(() => f.Context.TryUnmap(address));
        f.Locked(() => f.Context.TryFree(handle));
        bool isReused = f.Locked(() => f.Context.TryAllocate(Page, out _)) == Errno.Success;
        f.Run();
        user.TryWrite(0, 0xEE);

        Assert.Equal(keeps, !(isReused && f.Memory[0] == 0xEE));
    }

    [Fact]
    public void EXP_06_A_context_whose_file_is_closed_lives_until_its_last_buffer_is_released()
    {
        AcceleratorFixture f = new();
        ulong address = f.Map(f.Allocate(16));
        SharedBuffer buffer = f.Export(address, Page);
        f.Run();
        PeerUser user = f.Attach(buffer);
        user.Map();

        f.Locked(f.Context.Close);

        Assert.False(f.Context.IsReleased);
        Assert.Equal(Errno.EBUSY, f.Locked(() => f.Device.TryOpen("process 2", out _)));
        Assert.Equal(Errno.EBADF, f.Locked(() => f.Context.TryUnmap(address)));
        Assert.Equal(Errno.EBADF, f.TryExport(address, Page, 0, out _));
        Assert.True(user.TryWrite(0, 9));
        f.Locked(buffer.Release);
        Assert.False(f.Context.IsReleased); // the importer has a reference
        user.Unmap();
        f.Detach(user);

        Assert.True(f.Context.IsReleased);
        Assert.Equal(
            ["accelerator.close", "accelerator.buffer_release", "accelerator.context_release"],
            f.Trace.Events.Select(e => e.Name).Where(n => n.StartsWith("accelerator.", StringComparison.Ordinal))
                .Skip(1));
        Assert.Equal(16 * Page, f.Device.Memory.FreeBytes);

        // The next user finds nothing of the last one.
        f.Locked(f.Open);
        f.Allocate(16);
        f.Run();
        Assert.All(f.Memory, b => Assert.Equal(0, b));
    }

    [Fact]
    public void EXP_07_A_buffer_of_an_accelerator_has_no_mapping_of_a_processor_and_no_pin()
    {
        AcceleratorFixture f = new();
        SharedBuffer buffer = f.Export(f.Map(f.Allocate(1)), Page);

        Assert.Equal(Errno.EINVAL, f.Locked(() => buffer.TryMmap("process 1", 0, Page, out _)));
        f.Locked(() =>
        {
            AcquireTicket ticket = new(f.Host, "test");
            buffer.Reservation.TryLock(ticket);
            Assert.Equal(Errno.EINVAL, buffer.TryVmapLocked(ticket, out _));
            buffer.Reservation.Unlock(ticket);
        });
        Assert.IsNotAssignableFrom<IPinningExporter>(buffer.Exporter);
        Assert.Equal(StorageKind.Static, buffer.Exporter.Storage);
    }

    [Fact]
    public void A_full_table_of_handles_is_EMFILE_and_exports_nothing()
    {
        AcceleratorFixture f = new();
        ulong address = f.Map(f.Allocate(1));
        HandleTable table = new(f.Host, capacity: 1);

        f.Locked(() =>
        {
            Assert.Equal(Errno.Success, f.Context.TryExport(table, "range", address, Page, 0, out int handle));
            Assert.Equal(Errno.EMFILE, f.Context.TryExport(table, "range", address, Page, 0, out int none));
            Assert.Equal((0, -1, 1), (handle, none, f.Context.ExportCount));
            table.CloseAll();
            Assert.Equal(0, f.Context.ExportCount);
            Assert.Equal(Errno.Success, f.Context.TryUnmap(address));
        });
    }

    [Fact]
    public void Everybody_waits_until_the_last_users_bytes_are_gone()
    {
        AcceleratorFixture f = new();
        Array.Fill(f.Memory, (byte)0xDD);
        SharedBuffer buffer = f.Export(f.Map(f.Allocate(1)), Page);

        Assert.False(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        f.Run();
        Assert.True(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        Assert.All(f.Memory[..(int)Page], b => Assert.Equal(0, b));
    }

    [Fact]
    public void Without_virtual_memory_the_whole_memory_is_cleared_for_a_new_user()
    {
        AcceleratorFixture f = new(s_first);
        f.Locked(f.Context.Close);
        Array.Fill(f.Memory, (byte)0xDD);

        f.Locked(f.Open);
        Assert.Equal(0UL, f.Allocate(3)); // only counted
        Assert.Equal(3 * Page, f.Context.ClaimedBytes);
        SharedBuffer buffer = f.Export(s_first.MemoryBase + (4 * Page), Page);
        Assert.False(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        f.Run();

        Assert.True(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        Assert.All(f.Memory[..(int)Page], b => Assert.Equal(0xDD, b)); // the firmware's
        Assert.All(f.Memory[(int)Page..], b => Assert.Equal(0, b));
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(false, false)]
    public void Memory_that_is_not_cleared_in_time_is_shown_to_nobody(bool isForced, bool takesBack)
    {
        AcceleratorFixture f = new(new AcceleratorOptions { PageBytes = (int)Page, TakesBackWhatIsLost = takesBack });
        ulong hole = f.Allocate(1);
        f.Allocate(1);
        f.Run();
        f.Locked(() => f.Context.TryFree(hole));
        Array.Fill(f.Memory, (byte)0xDD);
        ulong address = f.Map(f.Allocate(15)); // of two pieces
        SharedBuffer buffer = f.Export(address, 15 * Page), released = f.Export(address, Page);
        f.Locked(released.Release);
        PeerUser user = f.Attach(buffer);
        byte[] ram = new byte[Page];
        Fence copied = f.Locked(() => Copy(f, ram, address + (14 * Page)));

        Assert.Equal(1, f.Device.Engine.Drive(1)); // one of the pieces
        Assert.True(!isForced || f.Device.Engine.TryEnter()); // in a block, and does not come back for now
        for (int i = 0; i < 2; i++)
        {
            f.Clock.Advance(TimeSpan.FromSeconds(12));
            f.Locked(() => f.Device.Engine.Hangs.HandleTimeout(f.Host.Now));
            f.Run();
        }

        Assert.True(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        Assert.Contains((byte)0xDD, f.Memory[..(int)Page]); // the other
        Assert.Equal((takesBack, takesBack), (buffer.IsRevoked, user.TryMap() == Errno.ENODEV));
        Assert.Equal(takesBack ? Errno.EIO : Errno.Success, f.TryExport(address, Page, 0, out _));
        if (isForced)
        {
            Assert.True(f.Device.Engine.Step());
            f.Device.Engine.Exit();
            f.Run();
        }

        Assert.True(copied.HasEnded);
        Assert.Equal(!takesBack && !isForced, ram.Contains((byte)0xDD)); // a copy out of it, for which it waited
        Assert.Equal(takesBack, f.Locked(() => f.Context.TryCopy(address, address, 1, out _) == Errno.EIO));
        Assert.Equal(0, f.Host.Checker.ViolationCount);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Without_virtual_memory_a_user_whose_memory_could_not_be_cleared_exports_none(bool takesBack)
    {
        AcceleratorFixture f = new(s_first with { TakesBackWhatIsLost = takesBack });
        f.Locked(f.Context.Close);
        Array.Fill(f.Memory, (byte)0xDD);
        f.Locked(f.Open);
        SharedBuffer buffer = f.Export(s_first.MemoryBase + (4 * Page), Page);
        Assert.True(f.Device.Engine.TryEnter()); // the thread that has it is gone
        f.Locked(f.Device.Engine.HandleDriverEnded);

        Assert.True(f.Locked(() => buffer.Reservation.TestSignaled(ReservationUsage.Kernel)));
        Assert.Equal(takesBack, buffer.IsRevoked);
        Errno errno = f.TryExport(s_first.MemoryBase + (4 * Page), Page, 0, out _);
        Assert.Equal(takesBack ? Errno.EIO : Errno.Success, errno);
        Assert.Equal(0, f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void The_engine_copies_between_addresses_of_the_device_and_of_the_host()
    {
        AcceleratorFixture f = new();
        byte[] ram = new byte[Page];
        ram[10] = 0x42;
        ulong handle = f.Allocate(2);
        ulong address = f.Map(handle);
        Fence copied = f.Locked(() =>
        {
            MemoryWindow window = f.Fabric.AddWindow(ram, owner: null);
            Assert.Equal(Errno.Success, f.Context.TryMapHost(new DmaAddressList([window.Range]), out ulong host));
            Assert.Equal(Errno.EFAULT, f.Context.TryCopy(host, address, 2 * Page, out _));
            Assert.Equal(Errno.EFAULT, f.Context.TryCopy(host, 0x1234, Page, out _));
            Assert.Equal(Errno.EFAULT, f.Context.TryCopy(host, address, 0, out _));
            Assert.Equal(Errno.Success, f.Context.TryCopy(host, address + 100, Page, out Fence? fence));
            return fence!;
        });

        // What a job still uses outlives its handle and its address.
        f.Locked(() => f.Context.TryUnmap(address));
        f.Locked(() => f.Context.TryFree(handle));
        Assert.Equal(14 * Page, f.Device.Memory.FreeBytes);
        f.Run();
        Assert.True(copied.IsSignaled);
        Assert.Equal(0x42, f.Memory[110]);
        Assert.Equal(16 * Page, f.Device.Memory.FreeBytes);
    }

    [Fact]
    public void A_wrong_option_is_named_with_all_others()
    {
        AcceleratorOptions options = new() { PageBytes = 5000, MemoryBase = 1, VisibleBytes = 12345 };

        string message = Assert.Throws<ArgumentException>(options.Validate).Message;

        Assert.Contains("PageBytes is 5000", message, StringComparison.Ordinal);
        Assert.Contains("VisibleBytes is 12345", message, StringComparison.Ordinal);
        Assert.Contains("MemoryBase is 0x1", message, StringComparison.Ordinal);
    }

    private static Fence Copy(AcceleratorFixture f, byte[] ram, ulong from)
    {
        MemoryWindow window = f.Fabric.AddWindow(ram, owner: null);
        Assert.Equal(Errno.Success, f.Context.TryMapHost(new DmaAddressList([window.Range]), out ulong host));
        Assert.Equal(Errno.Success, f.Context.TryCopy(from, host, Page, out Fence? fence));
        return fence!;
    }
}
