using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.AddressSpaces;

public sealed class ReclaimTests
{
    private const int Page = SpaceFixture.Page;

    [Fact]
    public void More_memory_than_there_is_works_by_taking_from_who_used_it_longest_ago()
    {
        using SpaceFixture f = new(8, swapPages: 64);
        AddressRange range = f.Map(32);

        f.Fill(range, 1);
        f.ExpectFilled(range, 1);
        f.Fill(range, 100);
        f.ExpectFilled(range, 100);

        Assert.True(f.Memory.Stats.SwappedOut > 24);
        f.Done(f.Space.Exit());
        Assert.Equal((f.Memory.PageCount, 0L), (f.Memory.FreePages, f.Memory.SwapUsed));
    }

    [Fact]
    public void The_page_that_was_used_longest_ago_goes_first()
    {
        using SpaceFixture f = new(8, swapPages: 8);
        AddressRange range = f.Map(3);
        f.Fill(range, 1);
        f.Read(range.Start, 1);

        Assert.Equal(1, f.Done(f.Memory.Reclaim(1)).ReclaimedCount);

        Assert.Equal([true, false, true], f.Snapshot(range).Select(p => p.IsValid));
    }

    [Fact]
    public void A_device_that_mirrors_a_page_is_told_before_the_page_goes_and_faults_it_back()
    {
        using SpaceFixture f = new(8, swapPages: 8);
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        SimulatedMirror device = new(f.Space, range, "device");
        byte[] seen = new byte[2 * Page];
        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));

        f.Done(f.Memory.Reclaim(2));

        Assert.Equal((0, 8L), (device.MappedCount, f.Memory.FreePages));
        Assert.Equal(Errno.Success, device.TryRead(range.Start, seen));
        Assert.Equal((1, 2), (seen[0], seen[Page]));
    }

    [Fact]
    public void A_page_that_a_device_has_for_itself_is_taken_from_it_first()
    {
        using SpaceFixture f = new(4, swapPages: 8);
        AddressRange range = f.Map(1);
        f.Fill(range, 9);
        SimulatedMirror device = new(f.Space, range, "device");
        f.Done(device.TakeExclusive(range.Start));

        ReclaimOperation reclaim = f.Memory.Reclaim(1);
        for (int step = 0; step < 100 && !reclaim.IsCompleted; step++)
        {
            reclaim.Step();
        }

        Assert.True(reclaim.IsCompleted);
        Assert.Equal((1L, 4L, 0), (reclaim.ReclaimedCount, f.Memory.FreePages, device.MappedCount));
        f.ExpectFilled(range, 9);
        f.ExpectNoViolation();
    }

    [Fact]
    public void Pinned_pages_are_passed_over()
    {
        using SpaceFixture f = new(4, swapPages: 8);
        AddressRange range = f.Map(3);
        f.Fill(range, 1);
        PinnedPages pin = f.Done(f.Space.Pin(range, PinMode.Pin | PinMode.LongTerm)).Result!;

        Assert.Equal(0, f.Done(f.Memory.Reclaim(3)).ReclaimedCount);
        AddressRange more = f.Map(2);
        f.Fill(SpaceFixture.Pages(more.Start, 1), 1);
        pin.Release();
        f.Fill(more, 1);
        f.ExpectFilled(range, 1);
    }

    [Fact]
    public void Without_a_place_for_their_content_pages_stay_and_memory_runs_out()
    {
        using SpaceFixture f = new(2);
        AddressRange range = f.Map(3);

        f.Fill(SpaceFixture.Pages(range.Start, 2), 1);
        Assert.Equal(Errno.ENOMEM, f.TryWrite(range.Start + (2 * Page), [1]));
        f.ExpectFilled(SpaceFixture.Pages(range.Start, 2), 1);
    }

    [Fact]
    public void Pages_of_files_are_written_back_and_read_again()
    {
        using SpaceFixture f = new(4);
        byte[] disk = new byte[8 * Page];
        AddressRange range = f.MapFile(MemoryFile.OnDisk(f.Memory, "file", disk), isShared: true);

        f.Fill(range, 1);
        f.ExpectFilled(range, 1);

        Assert.Equal(1, disk[0]);
        Assert.Equal(0, f.Memory.SwapUsed);
    }

    [Fact]
    public void Shared_memory_goes_to_swap_and_comes_back_for_all()
    {
        using SpaceFixture f = new(6, swapPages: 8);
        AddressRange range = f.Map(4, isShared: true);
        f.Fill(range, 1);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        f.ExpectFilled(range, 1, child);

        Assert.Equal(4, f.Done(f.Memory.Reclaim(4)).ReclaimedCount);

        Assert.Equal(4, f.Memory.SwapUsed);
        f.ExpectFilled(range, 1, child);
        f.Write(range.Start, [0x66], child);
        Assert.Equal(0x66, f.Read(range.Start, 1)[0]);
        Assert.Equal(0, f.Memory.SwapUsed);
    }

    [Fact]
    public void What_a_fork_shares_is_one_slot_and_still_copied_on_write_when_it_is_back()
    {
        using SpaceFixture f = new(8, swapPages: 8);
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        f.Done(f.Memory.Reclaim(1));
        Assert.Equal((1L, 8L), (f.Memory.SwapUsed, f.Memory.FreePages));

        f.Write(range.Start, [0xAA]);

        Assert.Equal(1, f.Read(range.Start, 1, child)[0]);
        f.Write(range.Start, [0xBB], child);
        Assert.Equal((0xAA, 0xBB), (f.Read(range.Start, 1)[0], f.Read(range.Start, 1, child)[0]));
        Assert.Equal(0, f.Memory.SwapUsed);
    }

    [Fact]
    public void A_page_that_is_pinned_while_it_is_on_its_way_out_stays_the_page_of_its_slot()
    {
        using SpaceFixture f = new(8, swapPages: 8);
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        SimulatedMirror device = new(child, range, "device");
        Assert.Equal(Errno.Success, device.TryRead(range.Start, new byte[1]));
        Assert.True(device.TryEnter(range.Start, isWrite: false, out SimulatedMirror.Access? access));
        ReclaimOperation reclaim = f.Memory.Reclaim(1);
        Assert.False(reclaim.Proceed()); // the parent's entry is gone, the child's device is still at it
        PinOperation pin = child.Pin(range, PinMode.Get);
        Assert.True(pin.Proceed());
        device.Exit(access!, new byte[1], default);
        f.Done(reclaim);

        Assert.Equal(0, reclaim.ReclaimedCount);
        f.ExpectFilled(range, 1);
        f.ExpectFilled(range, 1, child);
        pin.Result!.Release();
        f.Done(f.Space.Exit());
        f.Done(child.Exit());
        Assert.Equal((8L, 0L), (f.Memory.FreePages, f.Memory.SwapUsed));
    }

    [Theory]
    [InlineData(1UL, false)]
    [InlineData(2UL, false)]
    [InlineData(3UL, false)]
    [InlineData(1UL, true)]
    [InlineData(2UL, true)]
    [InlineData(3UL, true)]
    [InlineData(4UL, true)]
    public void Random_work_of_processes_devices_and_reclaim_loses_no_byte_and_no_page(ulong seed, bool isHuge)
    {
        using SpaceFixture f = new(24, movablePages: 8, swapPages: 64);
        SpaceModel model = new(f, seed, isHuge);

        for (int i = 0; i < 2000; i++)
        {
            model.Act(f);
        }

        model.End(f);
        Assert.Equal((32L, 0L), (f.Memory.FreePages, f.Memory.SwapUsed));
        f.ExpectNoViolation();
    }
}
