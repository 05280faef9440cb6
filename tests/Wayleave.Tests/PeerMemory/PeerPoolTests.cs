using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Simulation;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

public sealed class PeerPoolTests
{
    private const ulong Page = PeerFixture.Page;

    [Fact]
    public void P2P_01_A_resource_is_whole_pages_inside_a_memory_BAR()
    {
        using PeerFixture f = new();

        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.PortBar, Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(3, Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(6, Page, 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.MemoryBar, Page, 16 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.MemoryBar, 0, 16 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.MemoryBar, 2 * Page, 15 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.MemoryBar, ulong.MaxValue - Page + 1, 2 * Page, out _));
        Assert.Equal(Errno.EINVAL, f.TryAdd(PeerFixture.MemoryBar, Page + 1, 0, out _));
        Assert.Null(f.A.PeerDevice!.Pool);

        Assert.Equal(Errno.Success, f.TryAdd(PeerFixture.MemoryBar, 0, 4 * Page, out PeerPool? pool));
        Assert.Equal(12 * Page, pool!.SizeBytes);
    }

    [Fact]
    public void A_resource_on_top_of_another_is_ENOMEM_and_changes_nothing()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(4 * Page, 4 * Page);

        Assert.Equal(Errno.ENOMEM, f.TryAdd(PeerFixture.MemoryBar, 2 * Page, 7 * Page, out _));
        Assert.Equal(4 * Page, pool.SizeBytes);
        Assert.Same(pool, f.Add(Page, 8 * Page));
    }

    [Fact]
    public void P2P_02_All_resources_of_a_function_are_one_pool()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(2 * Page, 0);
        Assert.Same(pool, f.Add(3 * Page, 8 * Page));

        Assert.Equal(5 * Page, pool.SizeBytes);
        PeerAllocation three = PeerFixture.Allocate(pool, 3 * Page);
        PeerAllocation two = PeerFixture.Allocate(pool, 2 * Page);
        Assert.Equal(f.A.Bars[PeerFixture.MemoryBar]!.Range.Start + (8 * Page), three.Range.Start);
        Assert.Equal(f.A.Bars[PeerFixture.MemoryBar]!.Range.Start, two.Range.Start);
        Assert.Equal(Errno.ENOMEM, pool.TryAllocate(1, "test", out _));

        // Five pages are free, but no four in one piece.
        pool.Free(three);
        pool.Free(two);
        Assert.Equal(5 * Page, pool.AvailableBytes);
        Assert.Equal(Errno.ENOMEM, pool.TryAllocate(4 * Page, "test", out _));
    }

    [Fact]
    public void P2P_03_One_byte_takes_one_page_and_gives_it_back()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);

        PeerAllocation one = PeerFixture.Allocate(pool, 1);

        Assert.Equal((15 * Page, Page), (pool.AvailableBytes, one.Range.LengthBytes));
        Assert.Equal(one.Range, Assert.Single(one.Addresses.Entries.ToArray()));
        pool.Free(one);
        Assert.Equal(16 * Page, pool.AvailableBytes);
        Assert.Throws<InvalidOperationException>(() => pool.Free(one));
        Assert.Equal(Errno.EINVAL, pool.TryAllocate(0, "test", out _));
        Assert.Equal(Errno.ENOMEM, pool.TryAllocate(ulong.MaxValue, "test", out _));
    }

    [Fact]
    public void Pages_come_back_in_any_order_and_join_their_neighbours()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PeerAllocation[] all = [.. Enumerable.Range(0, 16).Select(_ => PeerFixture.Allocate(pool, Page))];
        Assert.Equal(16, all.Select(a => a.Range.Start).Distinct().Count());

        SplitMix64 random = new(4);
        foreach (PeerAllocation allocation in all.OrderBy(_ => random.NextUInt64()))
        {
            pool.Free(allocation);
        }

        Assert.Equal(16 * Page, PeerFixture.Allocate(pool, 16 * Page).Range.LengthBytes);
    }

    [Fact]
    public void P2P_04_Memory_that_is_not_published_is_found_by_nobody_and_allocated_by_its_owner()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);

        Assert.Null(PeerFinder.FindMany(f.Tree.Topology, [f.B], new SplitMix64(1)));
        Assert.NotNull(PeerFixture.Allocate(pool, Page));

        pool.Publish(true);
        Assert.Same(pool, PeerFinder.FindMany(f.Tree.Topology, [f.B], new SplitMix64(1)));
        pool.Publish(false);
        Assert.Null(PeerFinder.FindMany(f.Tree.Topology, [f.B], new SplitMix64(1)));
    }

    [Fact]
    public void P2P_05_A_provider_before_init_is_a_violation_and_an_IO_BAR_has_none()
    {
        using PeerFixture f = new();

        Assert.Null(PeerDevice.FindProvider(f.Host, f.B, 0));
        Assert.Equal(1, f.Violations);
        Assert.Null(PeerDevice.FindProvider(f.Host, f.A, PeerFixture.PortBar));
        Assert.Null(PeerDevice.FindProvider(f.Host, f.A, 0));
        Assert.Equal(1, f.Violations);

        PeerProvider provider = PeerDevice.FindProvider(f.Host, f.A, PeerFixture.MemoryBar)!;
        Assert.Same(provider, PeerDevice.FindProvider(f.Host, f.A, PeerFixture.MemoryBar));
        Assert.Same(f.A, provider.Owner);
    }

    [Fact]
    public void A_function_whose_BARs_cannot_be_mapped_offers_nothing()
    {
        using PeerFixture f = new();
        PciFunction ism = new(PciAddress.Parse("0000:0a:00.0"), "ism") { HasUnmappableBars = true };
        f.Tree.Topology.Add(ism, f.Tree.Topology.HostBridges[0]);
        f.Fabric.AddWindow(new byte[Page], ism);

        Assert.Equal(Errno.EOPNOTSUPP, PeerDevice.TryInitialize(f.Tree.Topology, ism, out _));
        PciTopology topology = f.Tree.Topology;
        Assert.Throws<ArgumentException>(() => PeerDevice.Initialize(topology, ism));
        Assert.Equal(
            Errno.EOPNOTSUPP, PeerDevice.TryAddResource(f.Host, f.Tree.Topology, ism, 0, Page, 0, out _));
        Assert.Null(ism.PeerDevice);
    }

    [Fact]
    public void A_physical_address_has_the_bus_address_of_its_resource()
    {
        using PeerFixture f = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { BusOffset = 1UL << 46 }));
        PeerPool pool = f.Add(Page, 4 * Page);
        DeviceAddress start = f.A.Bars[PeerFixture.MemoryBar]!.Range.Start;

        Assert.Equal(start + (4 * Page) + 5 + (1UL << 46), pool.BusAddressOf(start + (4 * Page) + 5));
        Assert.Equal(default, pool.BusAddressOf(default));
        Assert.Equal(ulong.MaxValue, pool.BusAddressOf(start).Value);
    }

    [Fact]
    public void P2P_21_Allocate_is_mapped_shared_from_the_start_and_its_pages_come_back_when_the_mapping_ends()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PciFunction cpu = f.Fabric.Processor;

        Assert.Equal(Errno.EINVAL, pool.TryMmap("p", cpu, Page, isShared: false, offset: 0, out _));
        Assert.Equal(Errno.EINVAL, pool.TryMmap("p", cpu, Page, isShared: true, offset: Page, out _));
        Assert.Equal(Errno.ENOMEM, pool.TryMmap("p", cpu, 17 * Page, isShared: true, offset: 0, out _));

        PeerUserMapping first = f.Mmap(pool, 10 * Page);
        PeerUserMapping second = f.Mmap(pool, (5 * Page) + 1, "process 2");
        Assert.Equal(0UL, pool.AvailableBytes);
        Assert.Equal(Errno.ENOMEM, pool.TryMmap("p", cpu, Page, isShared: true, offset: 0, out _));

        first.End();
        Assert.Equal(10 * Page, pool.AvailableBytes);
        second.End(); // what a host does for a process that was killed
        Assert.Equal(16 * Page, pool.AvailableBytes);
        second.End();
        Assert.Empty(pool.UserMappings);
    }

    [Fact]
    public void A_process_finds_zeros_where_another_one_left_its_bytes()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(Page, 0);
        PeerUserMapping first = f.Mmap(pool, Page);
        Assert.Equal(Errno.Success, first.TryWrite(100, [1, 2, 3]));
        Assert.Equal([1, 2, 3], f.Memory[100..103]);
        first.End();

        PeerUserMapping second = f.Mmap(pool, Page, "process 2");
        byte[] bytes = new byte[Page];
        Assert.Equal(Errno.Success, second.TryRead(0, bytes));
        Assert.All(bytes, b => Assert.Equal(0, b));
        Assert.Equal(Errno.EFAULT, second.TryRead(1, bytes));
        Assert.Equal(Errno.EFAULT, first.TryRead(0, bytes));
    }

    [Fact]
    public void P2P_22_Unbind_waits_for_the_last_allocation_and_gives_nothing_new_out()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PeerAllocation live = PeerFixture.Allocate(pool, Page);

        PeerUnbind unbind = f.A.PeerDevice!.Unbind(f.Host);

        Assert.False(unbind.IsCompleted);
        Assert.Equal(["test"], unbind.Holders);
        Assert.Equal(Errno.ENODEV, pool.TryAllocate(Page, "test", out PeerAllocation? none));
        Assert.Null(none);
        Assert.Equal(Errno.ENODEV, f.TryAdd(PeerFixture.MemoryBar, Page, 0, out _));
        Assert.Same(unbind, f.A.PeerDevice.Unbind(f.Host));

        pool.Free(live);
        Assert.True(unbind.IsCompleted);
        Assert.Null(f.A.PeerDevice);
        Assert.Equal(0, f.Violations);
        Assert.False(unbind.TryAddCompletion(() => { }));

        // The driver may come back.
        Assert.NotSame(pool, f.Add(0, 0));
    }

    [Fact]
    public void P2P_23_Unbind_zaps_the_mappings_of_processes_and_does_not_wait_for_them()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PeerUserMapping mapping = f.Mmap(pool, 3 * Page);
        Assert.Equal(Errno.Success, mapping.TryWrite(0, [1]));

        PeerUnbind unbind = f.A.PeerDevice!.Unbind(f.Host);

        Assert.True(unbind.IsCompleted);
        Assert.True(mapping.IsGone);
        Assert.Equal(Errno.EFAULT, mapping.TryWrite(0, [2]));
        Assert.Equal(1, f.Memory[0]);
        Assert.Equal(Errno.ENODEV, pool.TryMmap("p", f.Fabric.Processor, Page, isShared: true, offset: 0, out _));
        mapping.End();
    }

    [Fact]
    public void A_completion_of_an_unbind_runs_after_the_lock()
    {
        bool called = false;
        PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PeerAllocation live = PeerFixture.Allocate(pool, Page);
        Assert.True(f.A.PeerDevice!.Unbind(f.Host).TryAddCompletion(() => called = true));
        pool.Free(live);
        Assert.False(called);
        f.Dispose();
        Assert.True(called);
    }

    [Fact]
    public void P2P_16_After_an_unbind_the_path_is_calculated_anew()
    {
        using PeerFixture f = new();
        (PeerMapType before, PeerMapType after) = TypesAroundUnbind(f, forgets: true);
        Assert.Equal((PeerMapType.BusAddress, PeerMapType.NotSupported), (before, after));
    }

    [Fact]
    public void A_device_that_keeps_its_cache_through_an_unbind_is_caught()
    {
        using PeerFixture f = new();
        (PeerMapType before, PeerMapType after) = TypesAroundUnbind(f, forgets: false);
        Assert.Equal((PeerMapType.BusAddress, PeerMapType.BusAddress), (before, after));
    }

    [Fact]
    public void P2P_24_Peer_memory_is_chosen_by_a_boolean_or_by_a_device_that_publishes_some()
    {
        using PeerFixture f = new();
        PeerPool pool = f.Add(0, 0);
        PciTopology topology = f.Tree.Topology;
        string address = f.A.Address.ToString();
        (string Text, bool IsEnabled)[] words =
        [
            ("1", true), ("0", false), ("on", true), ("off", false), ("y", true), ("No", false), ("t", true),
            ("false", false), ("Enabled", true), ("d", false), ("1\n", true), ("ON\n", true),
        ];

        foreach ((string text, bool isEnabled) in words)
        {
            Assert.Equal(Errno.Success, PeerMemoryChoice.TryParse(text, topology, out PeerMemoryChoice choice));
            Assert.Equal(new PeerMemoryChoice(isEnabled, null), choice);
            Assert.Equal(isEnabled ? "1" : "0", choice.ToString());
        }

        foreach (string text in (string[])["0000:ff:1f.7", address, "10", "00", "", "\n", "o", "maybe", "a", "03:00.0"])
        {
            Assert.Equal(Errno.ENODEV, PeerMemoryChoice.TryParse(text, topology, out _));
        }

        pool.Publish(true);
        Assert.Equal(Errno.Success, PeerMemoryChoice.TryParse($"{address}\n", topology, out PeerMemoryChoice device));
        Assert.Equal(new PeerMemoryChoice(IsEnabled: true, f.A.PeerDevice), device);
        Assert.Equal(address, device.ToString());
    }

    // An ACS bit is set between the unbind and the next init.
    private static (PeerMapType Before, PeerMapType After) TypesAroundUnbind(in PeerFixture f, bool forgets)
    {
        f.Add(0, 0);
        f.A.PeerDevice!.ForgetsAtUnbind = forgets;
        PeerMapType before = f.A.PeerDevice.MapTypeFor(f.B);
        PciTopology.SetAcs(f.Tree["sw.1"], AcsControl.RequestRedirect);
        Assert.Equal(before, f.A.PeerDevice.MapTypeFor(f.B));
        f.A.PeerDevice.Unbind(f.Host);
        return (before, PeerDevice.Initialize(f.Tree.Topology, f.A).MapTypeFor(f.B));
    }
}
