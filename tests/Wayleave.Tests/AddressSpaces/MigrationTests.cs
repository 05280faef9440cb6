using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class MigrationTests
{
    private const int Page = SpaceFixture.Page;

    [Fact]
    public void MM_17_Memory_migrates_to_a_device_and_a_touch_brings_it_back_equal()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(8);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 16);

        MigrateOperation migrate = f.Done(f.Space.MigrateToDevice(range, device.Memory!));

        Assert.Equal((8, MigrationState.Completed), (migrate.MigratedCount, migrate.State));
        Assert.Equal((8, f.Memory.PageCount), (device.Memory!.PageCount - device.Memory.FreePages, f.Memory.FreePages));
        byte[] seen = new byte[8 * Page];
        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));
        Assert.All(Enumerable.Range(0, 8), i => Assert.Equal(i + 1, seen[i * Page]));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages); // the device read its own pages

        f.ExpectFilled(range, 1);
        Assert.Equal(16, device.Memory.FreePages);
        Assert.Equal((8L, 8L), (f.Memory.Stats.MigratedToDevice, f.Memory.Stats.MigratedHome));
        f.ExpectNoViolation();
    }

    [Fact]
    public void MM_18_After_half_came_back_the_whole_range_migrates_again()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(8);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 4), 1);

        MigrateOperation again = f.Done(f.Space.MigrateToDevice(range, device.Memory!));

        Assert.Equal(4, again.MigratedCount);
        Assert.All(f.Snapshot(range, device), p => Assert.Equal(PageFrameKind.DevicePrivate, p.Frame!.Kind));
        f.ExpectFilled(range, 1);
    }

    [Fact]
    public void MM_19_When_a_device_lets_its_memory_go_the_data_is_in_the_machines()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(8);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;

        EvictOperation evict = f.Done(device.Memory!.Evict());

        Assert.Equal((8, 0, 8), (evict.MigratedCount, evict.LeftCount, device.Memory.FreePages));
        Assert.All(f.Snapshot(range), p => Assert.Equal(PageFrameKind.System, p.Frame!.Kind));
        f.ExpectFilled(range, 1);
        f.ExpectFilled(range, 1, child);
    }

    [Fact]
    public void MM_20_Shared_memory_stays_and_is_ENOENT_and_a_private_page_of_a_file_that_was_written_migrates()
    {
        using SpaceFixture f = new();
        AddressRange shared = f.Map(2, isShared: true);
        f.Fill(shared, 1);
        AddressRange own = f.MapFile(MemoryFile.OnDisk(f.Memory, "file", new byte[2 * Page]), isShared: false);
        f.Fill(own, 5);
        SimulatedMirror device = AddDevice(f, AddressRange.All, 8);

        Assert.Equal(Errno.ENOENT, f.Run(f.Space.MigrateToDevice(shared, device.Memory!)).Errno);
        Assert.Equal(2, f.Done(f.Space.MigrateToDevice(own, device.Memory!)).MigratedCount);

        f.ExpectFilled(shared, 1);
        f.ExpectFilled(own, 5);
    }

    [Fact]
    public void MM_21_What_may_not_be_read_and_holes_are_EINVAL_and_pages_of_all_other_kinds_migrate()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(6);
        ulong At(int page) => range.Start + (ulong)(page * Page);
        f.Done(f.Space.Protect(SpaceFixture.Pages(At(0), 1), SpaceProtection.None));
        f.Done(f.Space.Unmap(SpaceFixture.Pages(At(1), 1)));
        f.Read(At(2), 1);
        f.Fill(SpaceFixture.Pages(At(3), 3), 4);
        f.Done(f.Space.Protect(SpaceFixture.Pages(At(3), 1), SpaceProtection.Read));
        SimulatedMirror device = AddDevice(f, range, 8);
        SimulatedMirror other = AddDevice(f, range, 8);

        Assert.Equal(Errno.EINVAL, f.Run(f.Space.MigrateToDevice(range, device.Memory!)).Errno);
        Assert.Equal(
            Errno.EINVAL, f.Run(f.Space.MigrateToDevice(SpaceFixture.Pages(At(1), 2), device.Memory!)).Errno);
        AddressRange mixed = SpaceFixture.Pages(At(2), 4);
        Assert.Equal(4, f.Done(f.Space.MigrateToDevice(mixed, device.Memory!)).MigratedCount);
        Assert.Equal(Errno.ENOENT, f.Run(f.Space.MigrateToDevice(mixed, other.Memory!)).Errno);

        Assert.All(f.Snapshot(mixed, device), p => Assert.Equal(PageFrameKind.DevicePrivate, p.Frame!.Kind));
        Assert.False(f.Snapshot(mixed, device)[1].IsWritable);
        Assert.Equal(0, f.Read(At(2), 1)[0]);
        f.ExpectFilled(SpaceFixture.Pages(At(3), 3), 4);
        Assert.Equal(Errno.EFAULT, f.TryWrite(At(3), [1]));
    }

    [Theory]
    [InlineData(PageFrameKind.DevicePrivate)]
    [InlineData(PageFrameKind.DeviceCoherent)]
    public void MM_22_Ten_rounds_over_4_MiB_lose_nothing(PageFrameKind kind)
    {
        using SpaceFixture f = new(1024 + 8);
        AddressRange range = f.Map(1024);
        byte[] data = new byte[1024 * Page];
        new Random(22).NextBytes(data);
        f.Write(range.Start, data);
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(1024, kind);

        for (int round = 0; round < 10; round++)
        {
            Assert.Equal(1024, f.Done(f.Space.MigrateToDevice(range, device.Memory!)).MigratedCount);
            Assert.Equal(0, device.Memory!.FreePages);
            if (kind == PageFrameKind.DeviceCoherent)
            {
                Assert.Equal(data, f.Read(range.Start, data.Length)); // the processor reaches it there
                Assert.Equal(1024, f.Done(f.Space.MigrateHome(range, device.Memory)).MigratedCount);
            }

            Assert.Equal(data, f.Read(range.Start, data.Length));
            Assert.Equal(1024, device.Memory.FreePages);
        }
    }

    [Fact]
    public void MM_24_A_look_at_a_huge_page_says_its_size_for_each_page_and_after_a_protect_that_it_is_read_only()
    {
        using SpaceFixture f = new();
        AddressRange range = MapHuge(f, 2);
        f.Write(range.Start, [1]);
        f.Write(range.Start + (8 * Page), [1]);

        Assert.All(f.Snapshot(range), p => Assert.Equal((3, true), (p.Order, p.IsWritable)));
        f.Done(f.Space.Protect(range, SpaceProtection.Read));
        Assert.All(f.Snapshot(range), p => Assert.Equal((3, false), (p.Order, p.IsWritable)));

        // A part of one: that one is of single pages from now on, the other stays.
        f.Done(f.Space.Protect(SpaceFixture.Pages(range.Start, 3), SpaceProtection.ReadWrite));
        f.Done(f.Space.Protect(SpaceFixture.Pages(range.Start + Page, 1), SpaceProtection.None));
        Assert.Equal((0, 3), (f.Snapshot(range)[5].Order, f.Snapshot(range)[9].Order));
    }

    [Fact]
    public void MM_25_Two_devices_read_the_same_memory_and_one_pulls_back_what_migrated_to_the_other()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror first = AddDevice(f, range, 8);
        SimulatedMirror second = AddDevice(f, range, 8);
        byte[] seen = new byte[4 * Page];
        Assert.Equal(Errno.Success, first.TryRead(range.Start, seen));
        Assert.Equal(Errno.Success, second.TryRead(range.Start, seen));

        f.Done(f.Space.MigrateToDevice(range, second.Memory!));
        Assert.Equal((0, 0), (first.MappedCount, second.MappedCount));
        Array.Clear(seen);
        int faults = first.FaultCount;
        Assert.Equal(Errno.Success, first.TryRead(range.Start, seen));

        Assert.Equal(faults + 1, first.FaultCount);
        Assert.All(Enumerable.Range(0, 4), i => Assert.Equal(i + 1, seen[i * Page]));
        Assert.Equal(8, second.Memory!.FreePages);
    }

    [Fact]
    public void MM_26_A_device_has_a_page_for_itself_until_the_process_touches_it()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");

        f.Done(device.TakeExclusive(range.Start));
        Assert.False(f.Snapshot(range)[0].IsValid);
        Assert.True(device.IsMapped(range.Start, isWrite: true));
        Assert.Equal(Errno.Success, device.TryWrite(range.Start, [0x55]));
        Assert.Equal(0x55, f.Read(range.Start, 1)[0]);
        Assert.False(device.IsMapped(range.Start));

        // mprotect
        f.Done(device.TakeExclusive(range.Start + Page));
        f.Done(f.Space.Protect(range, SpaceProtection.Read));
        Assert.Equal(Errno.EPERM, f.Run(device.TakeExclusive(range.Start + Page)).Errno);
        Assert.Equal(Errno.EPERM, device.TryWrite(range.Start + Page, [1]));
        Assert.Equal(2, f.Read(range.Start + Page, 1)[0]);
    }

    [Fact]
    public void MM_26_After_a_fork_both_sides_of_a_page_that_a_device_had_for_itself_copy_when_they_write()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        f.Done(device.TakeExclusive(range.Start));

        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        Assert.Equal(0, device.MappedCount);
        f.Write(range.Start, [0xAA]);
        f.Write(range.Start, [0xBB], child);

        Assert.Equal((0xAA, 0xBB), (f.Read(range.Start, 1)[0], f.Read(range.Start, 1, child)[0]));
        Assert.Equal((1, 1), (f.Read(range.Start + 1, 1)[0], f.Read(range.Start + 1, 1, child)[0]));
    }

    [Fact]
    public void MM_28_After_a_fork_a_parent_that_writes_to_pages_of_a_device_gets_them_home_and_writable()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;

        f.Fill(range, 0x80);

        Assert.All(f.Snapshot(range), p => Assert.True(p is { IsWritable: true, Frame.Kind: PageFrameKind.System }));
        f.ExpectFilled(range, 0x80);
        f.ExpectFilled(range, 1, child);
        Assert.Equal(8, device.Memory!.FreePages);
    }

    [Theory]
    [InlineData("empty")]
    [InlineData("zero")]
    [InlineData("free")]
    [InlineData("fault")]
    [InlineData("partial unmap")]
    [InlineData("remap")]
    [InlineData("allocation failure")]
    public void MM_29_A_huge_page_that_migrates_loses_no_data_and_leaks_no_page(string what)
    {
        using SpaceFixture f = new();
        AddressRange range = MapHuge(f, 1);
        SimulatedMirror device = AddDevice(f, AddressRange.All, what == "allocation failure" ? 3 : 8);
        byte first = 1;
        switch (what)
        {
            case "empty":
                first = 0;
                break;
            case "zero":
                f.Read(range.Start, 8 * Page);
                first = 0;
                break;
            default:
                f.Fill(range, 1);
                break;
        }

        MigrateOperation migrate = f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        Assert.Equal(what == "allocation failure" ? 3 : 8, migrate.MigratedCount);
        AddressRange rest = range;
        switch (what)
        {
            case "partial unmap":
                f.Done(f.Space.Unmap(SpaceFixture.Pages(range.Start, 3)));
                rest = SpaceFixture.Pages(range.Start + (3 * Page), 5);
                first = 4;
                break;
            case "remap":
                rest = SpaceFixture.Pages(0x4000_0000, 8);
                f.Done(f.Space.Move(range, rest.Start));
                break;
            default:
                break;
        }

        if (what is "empty" or "zero")
        {
            Assert.All(f.Read(rest.Start, 8 * Page), b => Assert.Equal(0, b));
        }
        else if (what != "free")
        {
            f.ExpectFilled(rest, first);
        }

        f.Done(f.Space.Unmap(rest));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(device.Memory!.PageCount, device.Memory.FreePages);
        f.ExpectNoViolation();
    }

    [Fact]
    public void MM_35_A_pinned_page_stays_where_it_is_when_the_others_migrate()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        PinnedPages pin =
            f.Done(f.Space.Pin(SpaceFixture.Pages(range.Start + Page, 1), PinMode.Pin | PinMode.Write)).Result!;
        PageFrame frame = pin.Frames[0];

        Assert.Equal(3, f.Done(f.Space.MigrateToDevice(range, device.Memory!)).MigratedCount);

        Assert.Same(frame, f.Snapshot(range)[1].Frame);
        Assert.Equal(2, frame.Bytes.Span[0]);
        f.ExpectFilled(range, 1);
        pin.Release();
    }

    [Fact]
    public void MM_36_Another_devices_page_comes_home_for_a_device_that_asks_and_its_place_is_free()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 7);
        SimulatedMirror owner = AddDevice(f, range, 4);
        SimulatedMirror other = new(f.Space, range, "other");
        f.Done(f.Space.MigrateToDevice(range, owner.Memory!));

        MirrorRange look = new(f.Space, other.Notifier, range)
        {
            DefaultRequest = MirrorBits.Fault,
            Owner = other,
            Sequence = other.Notifier.BeginRead(out _),
        };
        // The page's way home invalidates the range: the first look is too late.
        Assert.Equal(Errno.EBUSY, f.Run(look.Fault()).Errno);
        look.Sequence = other.Notifier.BeginRead(out _);
        f.Done(look.Fault());

        Assert.Equal(PageFrameKind.System, look.Pages[0].Frame!.Kind);
        Assert.Equal(4, owner.Memory!.FreePages);
        Assert.Equal(7, look.Pages[0].Frame!.Bytes.Span[0]);
    }

    [Theory]
    [InlineData(MigrationState.Collecting)]
    [InlineData(MigrationState.Isolating)]
    [InlineData(MigrationState.Copying)]
    [InlineData(MigrationState.Moving)]
    [InlineData(MigrationState.Finalising)]
    public void A_migration_that_is_killed_at_any_step_loses_nothing(MigrationState at)
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!; // something to isolate
        SimulatedMirror device = AddDevice(f, range, 8);
        MigrateOperation migrate = f.Space.MigrateToDevice(range, device.Memory!);
        while (migrate.State != at)
        {
            migrate.Step();
        }

        migrate.Abandon();

        Assert.Equal(Errno.EINTR, migrate.Errno);
        Assert.Equal(0, f.Space.Lock.HolderCount);
        f.ExpectFilled(range, 1);
        f.ExpectFilled(range, 1, child);
        f.Done(child.Exit());
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(8, device.Memory!.FreePages);
    }

    [Fact]
    public void A_copy_that_fails_leaves_every_page_where_it_was()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        device.CopyErrno = Errno.EIO;

        Assert.Equal(Errno.ENOENT, f.Run(f.Space.MigrateToDevice(range, device.Memory!)).Errno);
        f.ExpectFilled(range, 1);
        Assert.Equal(8, device.Memory!.FreePages);
    }

    [Fact]
    public void A_copy_homewards_that_fails_is_EFAULT_for_who_touched_the_page_and_the_page_stays()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        device.CopyErrno = Errno.EIO;

        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start, [0]));
        device.CopyErrno = Errno.Success;
        f.ExpectFilled(range, 1);
    }

    [Fact]
    public void Who_touches_a_page_between_two_places_waits_until_it_has_one()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 8);
        device.CopiesAtOnce = false;
        MigrateOperation migrate = f.Space.MigrateToDevice(range, device.Memory!);
        Assert.False(migrate.Proceed());
        AccessOperation touch = f.Space.Write(range.Start, new byte[] { 9 });
        Assert.False(touch.Proceed());

        device.FinishCopy();
        f.Done(migrate);
        Assert.False(touch.Proceed()); // on its way home again
        device.FinishCopy();
        f.Done(touch);

        byte[] seen = f.Read(range.Start, 2);
        Assert.Equal([9, 1], seen);
    }

    [Fact]
    public void A_migration_that_is_killed_while_its_device_copies_ends_when_the_copy_has()
    {
        using SpaceFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        SimulatedMirror device = AddDevice(f, range, 1);
        device.CopiesAtOnce = false;
        MigrateOperation migrate = f.Space.MigrateToDevice(range, device.Memory!);
        Assert.False(migrate.Proceed());

        migrate.Abandon();
        Assert.Equal((false, 0), (migrate.IsCompleted, device.Memory!.FreePages));
        device.FinishCopy();
        Assert.True(migrate.Step());

        Assert.Equal((Errno.EINTR, 1), (migrate.Errno, device.Memory.FreePages));
        f.ExpectFilled(range, 1);
    }

    private static SimulatedMirror AddDevice(in SpaceFixture f, AddressRange range, int pages)
    {
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(pages);
        return device;
    }

    private static AddressRange MapHuge(in SpaceFixture f, int count)
    {
        RegionRequest request = new() { LengthBytes = (ulong)(count * 8 * Page), UsesHugePages = true };
        return f.Done(f.Space.Map(request)).Addresses;
    }
}
