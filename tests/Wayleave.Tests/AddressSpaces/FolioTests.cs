using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

// A folio is 8 pages here. Each test ends with an exit after which every page of the machine and of the device is free.
public sealed class FolioTests
{
    private const int Page = SpaceFixture.Page;
    private const int Order = 3;
    private const int Count = 1 << Order;

    [Fact]
    public void A_folio_migrates_as_one_copy_and_one_touch_brings_it_home_as_one()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);

        Assert.Equal(Count, f.Done(f.Space.MigrateToDevice(range, device.Memory)).MigratedCount);
        Assert.All(f.Snapshot(range, device), p => Assert.Equal((Order, true), (p.Order, p.IsWritable)));
        Assert.Equal(0, device.Memory.FreePages);
        Assert.Equal(3, f.Read(range.Start + (2 * Page), 1)[0]);

        Assert.Equal([Count, Count], device.Copies);
        Assert.All(f.Snapshot(range), p => Assert.Equal((Order, true), (p.Order, p.IsWritable)));
        Assert.Equal((Count, 8L), (device.Freed, f.Memory.Stats.MigratedHome));
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void Whoever_looks_at_a_page_of_a_folio_sees_that_page_and_splits_nothing()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        IReadOnlyList<MirrorPage> seen = f.Snapshot(range);

        f.Done(f.Space.MigrateToDevice(range, device.Memory));

        Assert.Equal([Count], device.Copies);
        Assert.Equal(Enumerable.Range(1, Count), seen.Select(p => (int)p.Frame!.Bytes.Span[0]));
        Assert.Equal(
            Enumerable.Range(0, Count), seen.Select(p => (int)(p.Frame!.Number - seen[0].Frame!.Number)));
        Assert.All(seen, p => Assert.False(p.Frame!.IsAllocated));
        ExpectNothingLeft(f, device.Memory);
    }

    [Theory]
    [InlineData(PinMode.Pin | PinMode.LongTerm | PinMode.Write)]
    [InlineData(PinMode.Pin)]
    [InlineData(PinMode.Get)]
    public void A_page_of_a_folio_that_somebody_holds_stays_and_the_others_migrate(PinMode mode)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        PinnedPages pin = f.Done(f.Space.Pin(SpaceFixture.Pages(range.Start + (2 * Page), 1), mode)).Result!;

        Assert.Equal(Count - 1, f.Done(f.Space.MigrateToDevice(range, device.Memory)).MigratedCount);

        IReadOnlyList<MirrorPage> seen = f.Snapshot(range, device);
        Assert.Same(pin.Frames[0], seen[2].Frame);
        Assert.Equal(PageFrameKind.DevicePrivate, seen[3].Frame!.Kind);
        Assert.All(device.Copies, pages => Assert.Equal(1, pages));
        pin.Release();
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_pin_of_a_folio_of_the_device_brings_it_home_as_one_and_holds_it_page_by_page()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));

        PinnedPages pin = f.Done(f.Space.Pin(range, PinMode.Pin | PinMode.LongTerm | PinMode.Write)).Result!;

        Assert.Equal([Count, Count], device.Copies);
        Assert.All(pin.Frames, p => Assert.Equal((PageFrameKind.System, 1, 0), (p.Kind, p.PinCount, p.Order)));
        Assert.Equal(Errno.ENOENT, f.Run(f.Space.MigrateToDevice(range, device.Memory)).Errno);
        pin.Release();
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_fork_splits_a_folio_and_each_side_writes_to_pages_of_its_own(bool isOnDevice)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        if (isOnDevice)
        {
            f.Done(f.Space.MigrateToDevice(range, device.Memory));
        }

        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        f.Write(range.Start, [0x55]);
        f.Write(range.Start + (7 * Page), [0x66], child);

        Assert.Equal((0x55, 1), (f.Read(range.Start, 1)[0], f.Read(range.Start, 1, child)[0]));
        Assert.Equal(
            (8, 0x66), (f.Read(range.Start + (7 * Page), 1)[0], f.Read(range.Start + (7 * Page), 1, child)[0]));
        f.ExpectFilled(SpaceFixture.Pages(range.Start + Page, 6), 2);
        f.ExpectFilled(SpaceFixture.Pages(range.Start + Page, 6), 2, child);
        f.Done(child.Exit());
        ExpectNothingLeft(f, device.Memory);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_unmap_of_a_part_splits_a_folio_and_frees_that_part(bool isOnDevice)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        if (isOnDevice)
        {
            f.Done(f.Space.MigrateToDevice(range, device.Memory));
        }

        f.Done(f.Space.Unmap(SpaceFixture.Pages(range.Start + (3 * Page), 2)));

        Assert.Equal(2, isOnDevice ? device.Memory.FreePages : f.Memory.FreePages - (f.Memory.PageCount - Count));
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 3), 1);
        f.ExpectFilled(SpaceFixture.Pages(range.Start + (5 * Page), 3), 6);
        Assert.Equal(Errno.EFAULT, f.TryRead(range.Start + (3 * Page), new byte[1]));
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_whole_unmap_and_a_whole_discard_split_nothing()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f, 2);
        CopyLog device = new(f, range, 2 * Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));

        f.Done(f.Space.Discard(SpaceFixture.Pages(range.Start, Count)));
        Assert.Equal((Count, 0), (device.Memory.FreePages, f.Read(range.Start, 1)[0]));
        f.Done(f.Space.Unmap(SpaceFixture.Pages(range.Start + (Count * Page), Count)));

        Assert.Equal([Order, Order], device.FreedOrders);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_protect_of_all_keeps_a_folio_and_one_of_a_part_splits_it()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        f.Done(f.Space.Protect(range, SpaceProtection.Read));
        Assert.Equal(Errno.EFAULT, f.TryWrite(range.Start, [1]));
        f.Done(f.Space.Protect(range, SpaceProtection.ReadWrite));
        f.Write(range.Start + Page, [2]);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));
        Assert.Equal([Count], device.Copies);

        f.Done(f.Space.Protect(SpaceFixture.Pages(range.Start, 1), SpaceProtection.Read));
        Assert.Equal((0, 0), (f.Snapshot(range, device)[0].Order, f.Snapshot(range, device)[7].Order));
        Assert.Equal(Errno.EFAULT, f.TryWrite(range.Start, [1]));
        f.Write(range.Start + Page, [2]);
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Theory]
    [InlineData(0x4000_0000UL, Order)]
    [InlineData(0x4000_1000UL, 0)]
    public void A_folio_moves_as_one_to_where_one_can_begin_and_is_split_elsewhere(ulong to, int order)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, AddressRange.All, Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));

        f.Done(f.Space.Move(range, to));

        AddressRange moved = SpaceFixture.Pages(to, Count);
        Assert.All(f.Snapshot(moved, device), p => Assert.Equal((order, true), (p.Order, p.IsValid)));
        f.ExpectFilled(moved, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_part_of_a_folio_migrates_by_itself()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);

        Assert.Equal(
            3, f.Done(f.Space.MigrateToDevice(SpaceFixture.Pages(range.Start + Page, 3), device.Memory)).MigratedCount);

        Assert.Equal([1, 1, 1], device.Copies);
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void Where_home_has_no_room_in_one_piece_the_page_that_was_touched_comes_alone()
    {
        using SpaceFixture f = new(pages: 8);
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));
        AddressRange other = f.Map(2);
        f.Fill(other, 0x70);

        Assert.Equal(5, f.Read(range.Start + (4 * Page), 1)[0]);

        Assert.Equal([Count, 1], device.Copies);
        Assert.Equal(1, device.Memory.FreePages);
        f.Done(f.Space.Unmap(other));
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Theory]
    [InlineData(7)]
    [InlineData(15)]
    public void A_device_without_room_in_one_piece_gets_single_pages(int pages)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f, 2);
        CopyLog device = new(f, range, pages);

        Assert.Equal(pages, f.Done(f.Space.MigrateToDevice(range, device.Memory)).MigratedCount);

        Assert.Equal(pages, device.Copies.Sum());
        Assert.Equal(pages / Count, device.Copies.Count(c => c == Count));
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_driver_that_knows_no_folios_gets_single_pages()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count) { TakesFolios = false };

        Assert.Equal(Count, f.Done(f.Space.MigrateToDevice(range, device.Memory)).MigratedCount);

        Assert.Equal(Enumerable.Repeat(1, Count), device.Copies);
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_copy_that_fails_leaves_the_folio_where_it_was()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count) { CopyErrno = Errno.EIO };

        Assert.Equal(Errno.ENOENT, f.Run(f.Space.MigrateToDevice(range, device.Memory)).Errno);

        Assert.All(f.Snapshot(range), p => Assert.Equal((Order, true), (p.Order, p.IsWritable)));
        Assert.Equal(Count, device.Memory.FreePages);
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void Reclaim_splits_a_folio_and_takes_pages_of_it_in_order()
    {
        using SpaceFixture f = new(pages: 16, swapPages: 16);
        AddressRange range = MapFilled(f);

        ReclaimOperation reclaim = f.Done(f.Memory.Reclaim(3));

        Assert.Equal((3, 3L), (reclaim.ReclaimedCount, f.Memory.SwapUsed));
        Assert.Equal(
            [false, false, false, true, true, true, true, true], f.Snapshot(range).Select(p => p.IsValid));
        f.ExpectFilled(range, 1);
        f.Done(f.Space.Exit());
        Assert.Equal((16L, 0L), (f.Memory.FreePages, f.Memory.SwapUsed));
    }

    [Fact]
    public void A_driver_that_unloads_brings_folios_home_as_they_are()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, range, Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory));

        EvictOperation evict = f.Done(device.Memory.Evict());

        Assert.Equal((Count, 0), (evict.MigratedCount, evict.LeftCount));
        Assert.Equal([Count, Count], device.Copies);
        f.ExpectFilled(range, 1);
        ExpectNothingLeft(f, device.Memory);
    }

    [Fact]
    public void A_device_gets_one_page_of_a_folio_for_itself_alone()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        SimulatedMirror device = new(f.Space, range, "device");

        f.Done(device.TakeExclusive(range.Start + Page));

        Assert.Equal(Errno.Success, device.TryWrite(range.Start + Page, [0x55]));
        Assert.Equal((1, 0x55), (f.Read(range.Start, 1)[0], f.Read(range.Start + Page, 1)[0]));
        f.Done(f.Space.Exit());
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
    }

    [Fact]
    public void Mirrors_hear_of_all_pages_of_a_folio_that_comes_home()
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        SimulatedMirror device = new(f.Space, range, "device");
        device.AddMemory(Count);
        f.Done(f.Space.MigrateToDevice(range, device.Memory!));
        f.Done(device.Fault(range, isWrite: true));
        Assert.Equal(Count, device.MappedCount);

        f.Read(range.Start + (6 * Page), 1);

        Assert.Equal(0, device.MappedCount);
        ExpectNothingLeft(f, device.Memory!);
    }

    // Whoever else is at work while the folio is on its way: at each step of it, one after the other.
    [Theory]
    [InlineData("discard", false)]
    [InlineData("discard all", false)]
    [InlineData("pin", false)]
    [InlineData("touch", false)]
    [InlineData("fork", true)]
    [InlineData("unmap", true)]
    [InlineData("protect", true)]
    [InlineData("move", true)]
    [InlineData("exit", true)]
    public void A_folio_on_its_way_can_be_split_at_every_step(string by, bool isEviction)
    {
        for (int step = 1; Interrupt(by, isEviction, step); step++)
        {
        }
    }

    // False when the migration was over before that step.
    private static bool Interrupt(string by, bool isEviction, int step)
    {
        using SpaceFixture f = new();
        AddressRange range = MapFilled(f);
        CopyLog device = new(f, AddressRange.All, Count);
        if (isEviction)
        {
            f.Done(f.Space.MigrateToDevice(range, device.Memory));
        }

        SpaceOperation migration =
            isEviction ? device.Memory.Evict() : f.Space.MigrateToDevice(range, device.Memory);
        for (int i = 0; i < step; i++)
        {
            if (migration.IsCompleted)
            {
                return false;
            }

            migration.Step();
        }

        AddressRange part = SpaceFixture.Pages(range.Start + (2 * Page), 3);
        SpaceOperation other = by switch
        {
            "discard" => f.Space.Discard(part),
            "discard all" => f.Space.Discard(range),
            "pin" => f.Space.Pin(part, PinMode.Pin | PinMode.Write),
            "touch" => f.Space.Write(range.Start, new byte[] { 1 }),
            "fork" => f.Space.Fork("child"),
            "unmap" => f.Space.Unmap(part),
            "protect" => f.Space.Protect(part, SpaceProtection.Read),
            "move" => f.Space.Move(part, 0x4000_0000),
            _ => f.Space.Exit(),
        };
        while (!other.IsCompleted || !migration.IsCompleted)
        {
            Assert.True(other.Proceed() || migration.IsReady, $"{by} at step {step}: {other}, {migration}");
            if (migration.IsReady)
            {
                migration.Step();
            }
        }

        Assert.Equal(Errno.Success, other.Errno);
        Check(f, range, by, other);
        ExpectNothingLeft(f, device.Memory);
        return true;
    }

    private static void Check(in SpaceFixture f, AddressRange range, string by, SpaceOperation other)
    {
        int behind = (int)(range.Start + (5 * Page) - range.Start);
        switch (by)
        {
            case "discard":
                Assert.All(f.Read(range.Start + (2 * Page), 3 * Page), b => Assert.Equal(0, b));
                goto case "unmap";
            case "unmap":
                f.ExpectFilled(SpaceFixture.Pages(range.Start, 2), 1);
                f.ExpectFilled(SpaceFixture.Pages(range.Start + (ulong)behind, 3), 6);
                break;
            case "discard all":
                Assert.All(f.Read(range.Start, Count * Page), b => Assert.Equal(0, b));
                break;
            case "move":
                f.ExpectFilled(SpaceFixture.Pages(0x4000_0000, 3), 3);
                goto case "unmap";
            case "exit":
                break;
            case "fork":
                AddressSpace child = ((ForkOperation)other).Child!;
                f.ExpectFilled(range, 1, child);
                f.Write(range.Start, [0x99], child);
                f.ExpectFilled(range, 1);
                f.Done(child.Exit());
                break;
            case "pin":
                PinnedPages pin = ((PinOperation)other).Result!;
                f.ExpectFilled(range, 1);
                Assert.Same(pin.Frames[0], f.Snapshot(range)[2].Frame);
                pin.Release();
                break;
            default:
                f.ExpectFilled(range, 1);
                break;
        }
    }

    private static AddressRange MapFilled(in SpaceFixture f, int folios = 1)
    {
        RegionRequest request = new() { LengthBytes = (ulong)(folios * Count * Page), UsesHugePages = true };
        AddressRange range = f.Done(f.Space.Map(request)).Addresses;
        f.Fill(range, 1);
        Assert.All(f.Snapshot(range), p => Assert.Equal(Order, p.Order));
        return range;
    }

    private static void ExpectNothingLeft(in SpaceFixture f, DeviceMemory device)
    {
        if (!f.Space.IsDead)
        {
            f.Done(f.Space.Exit());
        }

        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages);
        Assert.Equal(device.PageCount, device.FreePages);
        f.ExpectNoViolation();
    }

    /// <summary>A driver that notes how it was asked to copy.</summary>
    private sealed class CopyLog : IDeviceMemoryDriver
    {
        public CopyLog(in SpaceFixture f, AddressRange range, int pages)
        {
            Assert.True(range.LengthBytes > 0);
            Memory = new DeviceMemory(f.Memory, this, new byte[pages * Page]);
        }

        public DeviceMemory Memory { get; }

        /// <summary>Of how many pages each copy was.</summary>
        public List<int> Copies { get; } = [];

        public List<int> FreedOrders { get; } = [];

        public int Freed => FreedOrders.Sum(o => 1 << o);

        public Errno CopyErrno { get; init; }

        public string Name => "device";

        public object Owner => this;

        public bool TakesFolios { get; init; } = true;

        public Errno Copy(PageCopies copies, out Fence? fence)
        {
            fence = null;
            foreach ((PageFrame? source, PageFrame destination, int pages) in copies)
            {
                Memory<byte> to = destination.BytesOf(pages);
                (source?.BytesOf(pages) ?? new byte[to.Length]).CopyTo(to);
                Copies.Add(pages);
            }

            return CopyErrno;
        }

        public void HandleFree(PageFrame frame)
        {
            FreedOrders.Add(frame.Order);
            frame.BytesOf(1 << frame.Order).Span.Fill(0xDD);
        }
    }
}
