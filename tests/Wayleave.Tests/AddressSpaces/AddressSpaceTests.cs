using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class AddressSpaceTests
{
    private const int Page = SpaceFixture.Page;

    [Fact]
    public void Memory_is_zero_until_it_is_written_and_costs_nothing_until_then()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);

        Assert.All(f.Read(range.Start, 4 * Page), b => Assert.Equal(0, b));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        f.Fill(range, 1);
        f.ExpectFilled(range, 1);
        Assert.Equal(f.Memory.PageCount - 4, f.Memory.FreePages);
    }

    [Fact]
    public void An_access_across_pages_may_begin_anywhere()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(3);
        byte[] data = new byte[Page + 700];
        new Random(3).NextBytes(data);

        f.Write(range.Start + 1234, data);

        Assert.Equal(data, f.Read(range.Start + 1234, data.Length));
    }

    [Fact]
    public void A_hole_a_missing_right_and_a_devices_registers_are_EFAULT()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1, SpaceProtection.Read);
        AddressRange none = f.Map(1, SpaceProtection.None);
        AddressRange device = f.Done(
            f.Space.Map(new RegionRequest { LengthBytes = Page, Kind = RegionKind.Device })).Addresses;

        Assert.Equal(Errno.EFAULT, f.TryWrite(range.Start, [1]));
        Assert.Equal(Errno.EFAULT, f.TryRead(none.Start, [1]));
        Assert.Equal(Errno.EFAULT, f.TryRead(device.Start, [1]));
        Assert.Equal(Errno.EFAULT, f.TryRead(0x1000, [1]));
    }

    [Fact]
    public void A_map_refuses_what_mmap_refuses()
    {
        using SpaceFixture f = new();
        Errno Try(RegionRequest request, SpaceFixture g) => g.Run(g.Space.Map(request)).Errno;

        Assert.Equal(Errno.EINVAL, Try(new RegionRequest { LengthBytes = 0 }, f));
        Assert.Equal(Errno.EINVAL, Try(new RegionRequest { LengthBytes = 1, Address = 0x1001 }, f));
        Assert.Equal(Errno.EINVAL, Try(new RegionRequest { LengthBytes = 1, Kind = RegionKind.File }, f));
        Assert.Equal(Errno.Success, Try(new RegionRequest { LengthBytes = 1, Address = 0x10000 }, f));
        Assert.Equal(Errno.EEXIST, Try(new RegionRequest { LengthBytes = 2 * Page, Address = 0xF000 }, f));
        Assert.Equal(Errno.EINVAL, Try(new RegionRequest { LengthBytes = ulong.MaxValue }, f));
    }

    [Fact]
    public void An_address_that_was_given_back_is_used_again()
    {
        using SpaceFixture f = new();
        AddressRange first = f.Map(2);
        AddressRange second = f.Map(2);
        f.Done(f.Space.Unmap(first));

        Assert.Equal(first, f.Map(2));
        Assert.NotEqual(first, second);
    }

    [Fact]
    public void A_part_that_is_unmapped_splits_its_region_and_loses_its_pages()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);

        f.Done(f.Space.Unmap(SpaceFixture.Pages(range.Start + Page, 2)));

        Assert.Equal(2, f.Space.Regions.Count);
        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start + Page, [0]));
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 1), 1);
        f.ExpectFilled(SpaceFixture.Pages(range.Start + (3 * Page), 1), 4);
        Assert.Equal(f.Memory.PageCount - 2, f.Memory.FreePages);
    }

    [Fact]
    public void Protection_splits_regions_and_the_way_back_merges_them()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        AddressRange middle = SpaceFixture.Pages(range.Start + Page, 2);

        f.Done(f.Space.Protect(middle, SpaceProtection.Read));
        Assert.Equal(3, f.Space.Regions.Count);
        Assert.Equal(Errno.EFAULT, f.TryWrite(middle.Start, [1]));
        f.ExpectFilled(range, 1);

        f.Done(f.Space.Protect(middle, SpaceProtection.ReadWrite));
        Assert.Single(f.Space.Regions);
        f.Write(middle.Start, [9]);
        Assert.Equal(Errno.ENOMEM, f.Run(f.Space.Protect(
            SpaceFixture.Pages(range.Start, 5), SpaceProtection.Read)).Errno);
    }

    [Fact]
    public void Discarded_memory_reads_as_zero_and_a_file_as_the_file()
    {
        using SpaceFixture f = new();
        byte[] disk = new byte[Page];
        Array.Fill(disk, (byte)4);
        AddressRange anonymous = f.Map(1);
        AddressRange own = f.MapFile(MemoryFile.OnDisk(f.Memory, "file", disk), isShared: false);
        f.Fill(anonymous, 1);
        f.Write(own.Start, [1]);

        f.Done(f.Space.Discard(anonymous));
        f.Done(f.Space.Discard(own));

        Assert.Equal(0, f.Read(anonymous.Start, 1)[0]);
        Assert.Equal(4, f.Read(own.Start, 1)[0]);
        Assert.Equal(4, disk[0]);
    }

    [Fact]
    public void Content_moves_with_its_range_and_mirrors_of_the_old_place_lose_it()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        Assert.Equal(Errno.Success, device.TryRead(range.Start, new byte[4 * Page]));
        AddressRange target = SpaceFixture.Pages(0x5000_0000, 2);

        f.Done(f.Space.Move(SpaceFixture.Pages(range.Start + Page, 2), target.Start));

        f.ExpectFilled(target, 2);
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 1), 1);
        Assert.Equal(2, device.MappedCount);
        Assert.Equal(Errno.EFAULT, device.TryRead(range.Start + Page, new byte[1]));
        Assert.Equal(Errno.EFAULT, f.Run(f.Space.Move(range, 0x6000_0000)).Errno);
        Assert.Equal(Errno.EEXIST, f.Run(f.Space.Move(target, range.Start - Page)).Errno);
    }

    [Fact]
    public void A_parent_and_its_child_share_pages_until_one_of_both_writes()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        long free = f.Memory.FreePages;
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;

        Assert.Equal(free, f.Memory.FreePages);
        f.ExpectFilled(range, 1, child);
        f.Write(range.Start, [0xAA]);
        Assert.Equal(1, f.Read(range.Start, 1, child)[0]);
        f.Write(range.Start + Page, [0xBB], child);
        Assert.Equal(2, f.Read(range.Start + Page, 1)[0]);
        Assert.Equal(free - 2, f.Memory.FreePages);

        // The other side's page is its own now: no copy.
        f.Write(range.Start, [0xCC], child);
        f.Write(range.Start + Page, [0xDD]);
        Assert.Equal(free - 2, f.Memory.FreePages);
        f.Done(child.Exit());
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
    }

    [Fact]
    public void Private_pages_of_a_file_are_copies_once_written_and_shared_ones_are_the_files()
    {
        using SpaceFixture f = new();
        byte[] disk = new byte[(2 * Page) + 10];
        Array.Fill(disk, (byte)6);
        MemoryFile file = MemoryFile.OnDisk(f.Memory, "file", disk);
        AddressRange own = f.MapFile(file, isShared: false);
        AddressRange shared = f.MapFile(file, isShared: true);

        f.Write(own.Start, [1]);
        Assert.Equal(6, f.Read(shared.Start, 1)[0]);
        f.Write(shared.Start, [2]);
        Assert.Equal(1, f.Read(own.Start, 1)[0]);
        Assert.Equal(6, f.Read(own.Start + (2 * Page), 1)[0]);
        Assert.Equal(0, f.Read(own.Start + (2 * Page) + 10, 1)[0]); // behind the end, in the last page
        file.WriteBack();
        Assert.Equal(2, disk[0]);
    }

    [Fact]
    public void A_page_behind_a_files_end_is_EFAULT()
    {
        using SpaceFixture f = new();
        MemoryFile file = MemoryFile.OnDisk(f.Memory, "file", new byte[Page]);
        AddressRange range = f.Done(f.Space.Map(
            new RegionRequest { LengthBytes = 2 * Page, Kind = RegionKind.File, File = file })).Addresses;

        f.Read(range.Start, 1);
        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start + Page, [0]));
    }

    [Fact]
    public void A_process_that_ends_gives_everything_back_and_its_mirrors_are_told()
    {
        using SpaceFixture f = new(64, swapPages: 16);
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        Assert.Equal(Errno.Success, device.TryRead(range.Start, new byte[4 * Page]));
        f.Done(f.Memory.Reclaim(1));

        f.Done(f.Space.Exit());

        Assert.Equal((0, 0L), (device.MappedCount, f.Memory.SwapUsed));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start, [0]));
        Assert.Equal(Errno.ENOMEM, f.Run(f.Space.Map(new RegionRequest { LengthBytes = 1 })).Errno);
    }

    [Fact]
    public void A_fault_waits_for_who_changes_regions_and_a_second_writer_for_both()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        ChangeOperation unmap = f.Space.Unmap(SpaceFixture.Pages(range.Start, 1));
        unmap.Step();
        AccessOperation touch = f.Space.Write(range.Start + Page, new byte[] { 1 });
        touch.Step();
        MapOperation map = f.Space.Map(new RegionRequest { LengthBytes = 1 });
        map.Step();

        Assert.Equal((false, false), (touch.IsReady, map.IsReady));
        f.Done(unmap);
        Assert.Equal((true, false), (touch.IsReady, map.IsReady));
        f.Done(touch);
        f.Done(map);
        f.ExpectNoViolation();
    }

    [Fact]
    public void An_operation_that_is_killed_lets_go_of_what_it_holds()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        ChangeOperation unmap = f.Space.Unmap(range);
        unmap.Step();
        unmap.Abandon();

        Assert.Equal((true, Errno.EINTR), (unmap.IsCompleted, unmap.Errno));
        Assert.Equal(0, f.Space.Lock.HolderCount);
        Assert.Equal(0UL, f.Space.NotifierSequence % 2);
        f.ExpectFilled(range, 1);
    }
}
