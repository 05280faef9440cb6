using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Topology;

public sealed class PciFabricTests
{
    private const int Page = 4096;

    [Fact]
    public void P2P_17_Of_a_mixed_list_below_a_strict_IOMMU_only_what_is_not_a_bus_address_gets_an_IOVA()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { Iommu = IommuMode.Strict }));
        DmaAddressList physical = new([machine.Ram(0, Page), machine.Bar(0, Page), machine.Ram(2 * Page, Page)]);

        DmaAddressList mapped = machine.Map("b", physical);

        Assert.Equal(machine.Bar(0, Page), mapped.Entries[1]);
        Assert.Equal(mapped.Entries[0].Start + Page, mapped.Entries[2].Start);
        machine.WriteBy("b", mapped, [1, 2, 3]);
        Assert.Equal([1, 2, 3], [machine.RamBytes[0], machine.BarBytes[0], machine.RamBytes[2 * Page]]);
    }

    [Fact]
    public void After_an_unmap_a_strict_IOMMU_lets_nothing_through_and_an_identity_map_everything()
    {
        Machine strict = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { Iommu = IommuMode.Strict }));
        DmaAddressList list = strict.Map("b", new DmaAddressList([strict.Ram(0, Page)]));
        strict.Fabric.Unmap(strict["b"], list);
        Assert.Equal(Errno.EFAULT, strict.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
        Assert.Equal(1, strict.Fabric.IommuFaults(strict["b"]));

        Machine off = new(Trees.Switch(Trees.Unlisted));
        list = off.Map("b", new DmaAddressList([off.Ram(0, Page)]));
        off.Fabric.Unmap(off["b"], list);
        Assert.Equal(Errno.Success, off.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
    }

    [Fact]
    public void A_strict_IOMMU_keeps_the_devices_apart_and_gives_addresses_again_after_an_unmap()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { Iommu = IommuMode.Strict }));
        DmaAddressList physical = new([machine.Ram(Page, 3 * Page)]);
        DmaAddressList first = machine.Map("b", physical);

        Assert.Equal(Errno.EFAULT, machine.Port("a").TryRead(first.Entries[0].Start, 1, out _));

        // An address of the wrong kind lands where the IOMMU puts it, which is not where its author meant.
        machine.RamBytes[2 * Page] = 0x22;
        DeviceAddress meant = machine.Ram(Page, 1).Start;
        Assert.Equal(Errno.Success, machine.Port("b").TryRead(meant, 1, out ReadOnlySpan<byte> wrong));
        Assert.Equal(0x22, wrong[0]);

        DmaAddressList second = machine.Map("b", physical);
        Assert.NotEqual(first.Entries[0], second.Entries[0]);
        machine.Fabric.Unmap(machine["b"], first);
        Assert.Equal(Errno.Success, machine.Port("b").TryRead(second.Entries[0].Start, 3 * Page, out _));
        Assert.Equal(first.Entries[0], machine.Map("b", physical).Entries[0]);
    }

    [Fact]
    public void Behind_the_end_of_a_block_a_strict_IOMMU_translates_nothing()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { Iommu = IommuMode.Strict }));
        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Ram(0, Page)]));
        machine.Map("b", new DmaAddressList([machine.Ram(Page, Page)]));

        Assert.Equal(Errno.Success, machine.Port("b").TryWrite(list.Entries[0].Start, 2 * Page, out Span<byte> bytes));
        Assert.Equal(Page, bytes.Length);
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(list.Entries[0].Start + Page, 1, out _));
    }

    [Fact]
    public void P2P_18_A_list_with_an_entry_out_of_reach_is_EREMOTEIO_and_leaves_nothing_mapped()
    {
        HostBridge bridge = new(0, 0) { Iommu = IommuMode.Strict };
        Machine machine = new(Trees.RootPorts(Trees.Unlisted, bridge: bridge));
        DmaAddressList physical = new([machine.Ram(0, Page), machine.Bar(0, Page)]);

        Assert.Equal(Errno.EREMOTEIO, machine.Fabric.TryMap(machine["b"], physical, out DmaAddressList? list));
        Assert.Null(list);
        DmaAddressList ram = machine.Map("b", new DmaAddressList([machine.Ram(0, Page)]));
        machine.Fabric.Unmap(machine["b"], ram);
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryRead(ram.Entries[0].Start, 1, out _));
    }

    [Fact]
    public void P2P_19_Through_the_host_bridge_without_an_IOMMU_the_address_is_the_physical_one()
    {
        HostBridge bridge = new(0, 0) { BusOffset = 0x1000_0000_0000 };
        Machine machine = new(Trees.RootPorts(Trees.AnyPair, bridge: bridge));

        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(Page, Page)]));

        Assert.Equal(machine.Bar(Page, Page), list.Entries[0]);
        machine.WriteBy("b", list, [7]);
        Assert.Equal(7, machine.BarBytes[Page]);
        Assert.Equal(1, machine.LastWritten);
    }

    [Fact]
    public void A_port_that_has_been_at_an_address_looks_again_when_something_else_answers_there()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DeviceAddress bar = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)])).Entries[0].Start;
        DmaPort port = machine.Port("b");
        Assert.Equal(Errno.Success, port.TryWrite(bar, 1, out _));
        Assert.Equal(Errno.Success, port.TryWrite(bar + 1, 1, out Span<byte> again));
        again[0] = 3;
        Assert.Equal(3, machine.BarBytes[1]);

        machine.Fabric.SetMemoryDecoding(machine["a"], isEnabled: false);
        Assert.Equal(Errno.EFAULT, port.TryWrite(bar, 1, out _));
        machine.Fabric.SetMemoryDecoding(machine["a"], isEnabled: true);
        Assert.Equal(Errno.Success, port.TryWrite(bar + ((4 * Page) - 1), 2, out Span<byte> last));
        Assert.Equal(1, last.Length); // the window ends there
        Assert.Equal(Errno.EFAULT, port.TryWrite(bar + (4 * Page), 1, out _));
        Assert.Equal((3L, 2L), (port.BytesWritten(PeerRoute.BusAddress), port.Aborts));
    }

    [Theory]
    [InlineData(0x1000_0000_0000UL)]
    [InlineData(unchecked(0UL - 0x1000_0000_0000UL))]
    public void P2P_20_A_bus_address_is_the_physical_one_and_the_offset_of_the_bridge(ulong offset)
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0) { BusOffset = offset }));

        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));

        Assert.Equal(machine.Bar(0, Page).Start + offset, list.Entries[0].Start);
        machine.WriteBy("b", list, [9]);
        Assert.Equal(9, machine.BarBytes[0]);

        // The physical address is nobody's on this bus.
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(machine.Bar(0, Page).Start, 1, out _));
    }

    [Fact]
    public void A_map_of_what_has_not_moved_gives_the_list_of_before()
    {
        HostBridge bridge = new(0, 0) { BusOffset = 0x1000_0000_0000 };
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: bridge));
        DmaAddressList physical = new([machine.Bar(0, Page)]);
        DmaAddressList list = machine.Map("b", physical);
        machine.Fabric.Unmap(machine["b"], list);

        Assert.Same(list, machine.Map("b", physical));
        Assert.NotSame(list, machine.Map("b", new DmaAddressList([machine.Bar(Page, Page)])));
    }

    [Fact]
    public void With_a_redirect_the_bus_address_goes_up_and_nothing_answers_there()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));
        machine.WriteBy("b", list, [1]);

        // The map type is cached; the requests are not.
        machine.Fabric.SetAcs(machine["sw.1"], AcsControl.RequestRedirect);

        machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
    }

    [Fact]
    public void A_listed_bridge_that_does_not_forward_aborts_what_the_rules_allow()
    {
        HostBridge bridge = new(0, 0) { ForwardsPeerRequests = false };
        Machine machine = new(Trees.RootPorts(Trees.AnyPair, bridge: bridge));

        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));

        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
    }

    [Fact]
    public void A_bridge_that_loses_peer_requests_passes_the_rules_takes_the_bytes_and_keeps_them()
    {
        HostBridge bridge = new(0, 0) { Iommu = IommuMode.Strict, LosesPeerRequests = true };
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: bridge));
        DmaPort port = machine.Port("b");

        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));

        Assert.Equal(Errno.Success, port.TryWrite(list.Entries[0].Start, Page, out Span<byte> bytes));
        bytes.Fill(0xEE);
        Assert.Equal(Page, port.LostBytes);
        Assert.All(machine.BarBytes[..Page], b => Assert.Equal(0, b));
    }

    [Fact]
    public void Every_byte_is_counted_on_every_link_that_it_crosses()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DmaPort port = machine.Port("b");
        port.TryWrite(machine.Bar(0, Page).Start, 100, out _);
        port.TryRead(machine.Bar(0, Page).Start, 30, out _);
        port.TryWrite(machine.Ram(0, Page).Start, 7, out _);
        machine.Port("a").TryWrite(machine.Bar(0, Page).Start, 1000, out _);

        Dictionary<string, (long Up, long Down)> links =
            machine.Fabric.LinkTraffic().ToDictionary(l => l.Function.Name, l => (l.UpBytes, l.DownBytes));

        Assert.Equal((107, 30), links["b"]);
        Assert.Equal((107, 30), links["sw.1"]);
        Assert.Equal((30, 100), links["a"]);
        Assert.Equal((30, 100), links["sw.0"]);
        Assert.Equal((7, 0), links["sw"]);
        Assert.Equal((7, 0), links["rp0"]);
    }

    [Fact]
    public void Bytes_that_went_the_old_way_stay_on_its_links_when_the_way_changes()
    {
        Machine machine = new(Trees.Switch(Trees.AnyPair));
        DmaPort port = machine.Port("b");
        port.TryWrite(machine.Bar(0, Page).Start, 100, out _);
        machine.Fabric.SetAcs(machine["sw.1"], AcsControl.RequestRedirect);
        port.TryWrite(machine.Bar(0, Page).Start, 10, out _);

        Dictionary<string, (long Up, long Down)> links =
            machine.Fabric.LinkTraffic().ToDictionary(l => l.Function.Name, l => (l.UpBytes, l.DownBytes));

        Assert.Equal((110, 0), links["sw.1"]);
        Assert.Equal((0, 110), links["a"]);
        Assert.Equal((10, 10), links["rp0"]);
        Assert.Equal(100, port.BytesWritten(PeerRoute.BusAddress));
        Assert.Equal(10, port.BytesWritten(PeerRoute.ThroughHostBridge));
    }

    [Fact]
    public void What_lies_behind_a_write_is_shown_as_far_as_its_window_goes_and_is_not_counted()
    {
        Machine machine = new(Trees.Switch(Trees.AnyPair));
        DmaPort port = machine.Port("b");
        int all = machine.BarBytes.Length;
        for (int i = 0; i < all; i++)
        {
            machine.BarBytes[i] = (byte)i;
        }

        DeviceAddress start = machine.Bar(0, Page).Start;
        port.TryWrite(start + 10, 20, 50, out Span<byte> bytes, out DmaRest rest);
        Assert.Equal((20, 10, 30, 30), (bytes.Length, bytes[0], rest.LengthBytes, rest.Ahead(9)[0]));
        Assert.Equal((9, 30), (rest.Ahead(9).Length, rest.Ahead(99).Length));
        port.TryWrite(start + (ulong)(all - 25), 20, 50, out bytes, out rest);
        Assert.Equal((20, 5), (bytes.Length, rest.LengthBytes));
        port.TryWrite(start + (ulong)(all - 20), 30, 60, out bytes, out rest);
        Assert.Equal((20, 0), (bytes.Length, rest.LengthBytes));
        Assert.Equal(
            Errno.EFAULT, port.TryWrite(new DeviceAddress(ulong.MaxValue - 99), 10, 20, out bytes, out rest));
        Assert.Equal((0, 0), (bytes.Length, rest.LengthBytes));

        Assert.Equal(60, port.BytesWritten(PeerRoute.BusAddress));
    }

    [Fact]
    public void A_write_goes_on_behind_the_last_one_and_is_counted_until_something_is_plugged_in()
    {
        Machine machine = new(Trees.Switch(Trees.AnyPair));
        DmaPort port = machine.Port("b");
        machine.BarBytes[40] = 4;
        port.TryWrite(machine.Bar(0, Page).Start + 10, 20, 60, out _, out DmaRest rest);

        Assert.True(port.TryWriteNext(ref rest, 10, out Span<byte> bytes));
        Assert.Equal((10, 30), (bytes.Length, rest.LengthBytes));
        Assert.True(port.TryWriteNext(ref rest, 10, out bytes));
        Assert.Equal((10, 4, 20), (bytes.Length, bytes[0], rest.LengthBytes));
        Assert.False(port.TryWriteNext(ref rest, 21, out bytes)); // it ends before
        Assert.Equal((0, 20), (bytes.Length, rest.LengthBytes));
        Assert.Equal(40, port.BytesWritten(PeerRoute.BusAddress));

        machine.Fabric.AddWindow(new byte[Page], owner: null);
        Assert.False(port.TryWriteNext(ref rest, 10, out bytes));
        Assert.Equal((0, 40), (bytes.Length, port.BytesWritten(PeerRoute.BusAddress)));
    }

    [Fact]
    public void Bytes_on_their_way_through_host_memory_are_counted_as_staged_and_no_others()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        MemoryWindow staging = machine.Fabric.AddStagingWindow(new byte[Page]);
        DmaPort a = machine.Port("a");
        DmaPort b = machine.Port("b");
        a.TryWrite(machine.Bar(0, Page).Start, 50, out _);
        a.TryWrite(staging.Range.Start, 100, out _);
        b.TryRead(staging.Range.Start, 100, out _);
        b.TryRead(machine.Ram(0, Page).Start, 7, out _);

        Assert.Equal((100, 100), (a.BytesWritten(PeerRoute.Staging), b.BytesRead(PeerRoute.Staging)));
        Assert.Equal(
            (100, 100),
            (Staged(machine.Fabric).Sum(p => p.WrittenBytes), Staged(machine.Fabric).Sum(p => p.ReadBytes)));
        Assert.Equal(7, b.BytesRead(PeerRoute.HostMemory));

        static IEnumerable<PathTraffic> Staged(PciFabric fabric) =>
            fabric.Traffic.Where(p => p.Route == PeerRoute.Staging);
    }

    [Fact]
    public void What_is_pulled_out_reaches_nothing_and_is_reached_by_nobody()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DmaPort a = machine.Port("a");
        DmaPort b = machine.Port("b");
        PciFunction gone = machine["a"];

        machine.Fabric.Unplug(machine["sw.0"]);

        Assert.Equal(Errno.EFAULT, b.TryRead(machine.Bar(0, Page).Start, 1, out _));
        Assert.Equal(Errno.EFAULT, a.TryRead(machine.Ram(0, Page).Start, 1, out _));
        Assert.Equal(1, a.Aborts);
        DmaAddressList list = new([machine.Bar(0, Page)]);
        Assert.Equal(Errno.EFAULT, machine.Fabric.TryMap(machine["b"], list, out _));
        Assert.Equal(Errno.ENODEV, machine.Fabric.TryMap(gone, list, out _));
    }

    [Fact]
    public void The_processor_reaches_everything_at_its_physical_address()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: new HostBridge(0, 0)
        {
            Iommu = IommuMode.Strict,
            BusOffset = 1UL << 46,
        }));
        DmaPort port = new(machine.Fabric.Processor);

        Assert.Equal(Errno.Success, port.TryWrite(machine.Bar(0, Page).Start, 1, out Span<byte> bar));
        Assert.Equal(Errno.Success, port.TryWrite(machine.Ram(0, Page).Start, 1, out Span<byte> ram));
        (bar[0], ram[0]) = (5, 6);
        Assert.Equal((5, 6), (machine.BarBytes[0], machine.RamBytes[0]));
        Assert.Equal(1, port.BytesWritten(PeerRoute.ThroughHostBridge));
        Assert.Equal(1, port.BytesWritten(PeerRoute.HostMemory));
    }

    [Fact]
    public void A_BAR_is_a_power_of_two_and_its_windows_fit_and_do_not_overlap()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        PciFunction b = machine["b"];
        PciBar bar = machine.Fabric.AddBar(b, 2, PciBarKind.Memory, 4 * Page);

        Assert.Throws<ArgumentException>(() => machine.Fabric.AddBar(b, 3, PciBarKind.Memory, 3 * Page));
        Assert.Throws<ArgumentException>(() => machine.Fabric.AddBar(b, 2, PciBarKind.Memory, Page));
        machine.Fabric.AddWindow(new byte[Page], bar, Page);
        Assert.Throws<ArgumentException>(() => machine.Fabric.AddWindow(new byte[Page], bar, Page + 1));
        Assert.Throws<ArgumentException>(() => machine.Fabric.AddWindow(new byte[Page], bar, 4 * Page));
        PciBar ports = machine.Fabric.AddBar(b, 4, PciBarKind.IoPort, 256);
        Assert.Throws<ArgumentException>(() => machine.Fabric.AddWindow(new byte[16], ports, 0));
        Assert.Equal(0UL, bar.Range.Start.Value % bar.Range.LengthBytes);
    }

    [Fact]
    public void A_range_may_go_on_in_the_next_window_of_a_BAR_and_not_behind_the_last()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        PciBar bar = machine.Fabric.AddBar(machine["b"], 2, PciBarKind.Memory, 4 * Page);
        byte[][] windows = [new byte[Page], new byte[Page]];
        machine.Fabric.AddWindow(windows[0], bar, 0);
        machine.Fabric.AddWindow(windows[1], bar, Page);
        DmaPort port = machine.Port("a");

        DmaAddressList list = machine.Map("a", new DmaAddressList([new DeviceRange(bar.Range.Start + 1, 5000)]));
        for (ulong done = 0; done < 5000;)
        {
            Assert.Equal(
                Errno.Success,
                port.TryWrite(list.Entries[0].Start + done, (int)(5000 - done), out Span<byte> bytes));
            bytes.Fill(1);
            done += (ulong)bytes.Length;
        }

        Assert.Equal(5000, windows[0].Sum(b => b) + windows[1].Sum(b => b));
        DmaAddressList outside = new([new DeviceRange(bar.Range.Start + Page, Page + 1)]);
        Assert.Equal(Errno.EFAULT, machine.Fabric.TryMap(machine["a"], outside, out _));
        outside = new([new DeviceRange(bar.Range.Start + Page, ulong.MaxValue)]);
        Assert.Equal(Errno.EFAULT, machine.Fabric.TryMap(machine["a"], outside, out _));
    }

    [Fact]
    public void Memory_beyond_its_BAR_is_reached_by_its_owner_alone()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DeviceRange hidden = machine.Fabric.AddPrivateWindow(new byte[Page], machine["a"]).Range;
        DmaAddressList list = new([hidden]);

        DmaAddressList own = machine.Map("a", list);
        Assert.Equal(Errno.Success, machine.Port("a").TryWrite(own.Entries[0].Start, 1, out _));
        Assert.Equal(Errno.EREMOTEIO, machine.Fabric.TryMap(machine["b"], list, out _));
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(hidden.Start, 1, out _));
        Assert.Equal(Errno.EFAULT, new DmaPort(machine.Fabric.Processor).TryRead(hidden.Start, 1, out _));
    }

    [Fact]
    public void Without_memory_decoding_requests_to_a_BAR_abort_and_its_owners_go_on()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DmaAddressList list = machine.Map("b", new DmaAddressList([machine.Bar(0, Page)]));

        machine.Fabric.SetMemoryDecoding(machine["a"], isEnabled: false);
        Assert.Equal(Errno.EFAULT, machine.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
        Assert.Equal(Errno.EFAULT, new DmaPort(machine.Fabric.Processor).TryRead(machine.Bar(0, 1).Start, 1, out _));
        Assert.Equal(Errno.Success, machine.Port("a").TryRead(machine.Ram(0, 1).Start, 1, out _));
        Assert.Equal(Errno.Success, machine.Port("a").TryRead(machine.Bar(0, 1).Start, 1, out _));

        machine.Fabric.SetMemoryDecoding(machine["a"], isEnabled: true);
        Assert.Equal(Errno.Success, machine.Port("b").TryWrite(list.Entries[0].Start, 1, out _));
    }

    [Fact]
    public void The_switch_of_the_fabric_takes_names_that_the_tree_leaves_free()
    {
        Tree tree = Trees.RootPorts(Trees.AnyPair);
        PciBridge taken = new(PciAddress.Parse("00:05.0"), "rp0", PciBridgeKind.RootPort);
        tree.Topology.Add(taken, tree.Topology.HostBridges[0]);
        PciFabric fabric = new(tree.Topology);

        fabric.Plug(new PciFunction("0000:0a:00.0", "late"));

        Assert.Equal("sw0.0", tree["late"].Upstream!.Name);
        Assert.NotNull(tree.Topology.Find("rp1"));
    }

    [Fact]
    public void A_function_without_a_place_of_its_own_is_put_below_the_switch_of_the_fabric()
    {
        PciFabric fabric = new();
        PciFunction a = new("0000:03:00.0", "a");
        PciFunction b = new("0000:04:00.0", "b");
        fabric.Plug(a);
        fabric.Plug(b);
        fabric.Plug(b);

        PeerVerdict verdict = PeerPath.Calculate(fabric.Topology, a, b);
        Assert.Equal((PeerMapType.BusAddress, 4), (verdict.MapType, verdict.Distance));
        Assert.Throws<ArgumentException>(() => fabric.Plug(new PciFunction("0000:03:00.0", "c")));
    }

    /// <summary>A tree with memory: one BAR of a, and system memory.</summary>
    private sealed class Machine
    {
        private readonly Tree _tree;
        private readonly MemoryWindow _bar;
        private readonly MemoryWindow _ram;

        public Machine(Tree tree)
        {
            _tree = tree;
            Fabric = new PciFabric(tree.Topology);
            _bar = Fabric.AddWindow(BarBytes, tree["a"]);
            _ram = Fabric.AddWindow(RamBytes, owner: null);
            Fabric.Plug(tree["b"]);
        }

        public PciFabric Fabric { get; }

        public byte[] BarBytes { get; } = new byte[4 * Page];

        public byte[] RamBytes { get; } = new byte[4 * Page];

        public int LastWritten { get; private set; }

        public PciFunction this[string name] => _tree[name];

        public DeviceRange Bar(ulong offset, ulong length) => new(_bar.Range.Start + offset, length);

        public DeviceRange Ram(ulong offset, ulong length) => new(_ram.Range.Start + offset, length);

        public DmaPort Port(string name) => new(_tree[name]);

        public DmaAddressList Map(string client, DmaAddressList physical)
        {
            Assert.Equal(Errno.Success, Fabric.TryMap(_tree[client], physical, out DmaAddressList? list));
            return list!;
        }

        /// <summary>One byte to the start of each entry.</summary>
        public void WriteBy(string client, DmaAddressList list, byte[] values)
        {
            DmaPort port = Port(client);
            for (int i = 0; i < values.Length; i++)
            {
                Assert.Equal(Errno.Success, port.TryWrite(list.Entries[i].Start, 1, out Span<byte> bytes));
                bytes[0] = values[i];
            }

            LastWritten = (int)port.BytesWritten(PeerRoute.ThroughHostBridge);
        }
    }
}
