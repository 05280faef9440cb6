using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.Topology;

public sealed class RouteProbeTests
{
    private const int Page = 4096;
    private const int Length = 4 * Page;

    [Theory]
    [InlineData(IommuMode.Off)]
    [InlineData(IommuMode.Strict)]
    public void Over_a_good_route_every_byte_arrives_both_ways(IommuMode mode)
    {
        Machine machine = new(Trees.RootPorts(Trees.AnyPair, bridge: new HostBridge(0, 0) { Iommu = mode }));

        RouteProbe probe = machine.Probe(machine.Map());

        ProbeFinding intact = new(ProbeOutcome.Intact, Length, 0, 0);
        Assert.Equal((intact, intact), (probe.Write, probe.Read));
    }

    [Fact]
    public void What_the_rules_allow_and_a_strict_IOMMU_loses_is_found_though_no_access_fails()
    {
        HostBridge bridge = new(0, 0) { Iommu = IommuMode.Strict, LosesPeerRequests = true };
        Machine machine = new(Trees.Switch(Trees.Unlisted, bridge: bridge));
        DmaAddressList mapped = machine.Map(); // the rules say yes

        RouteProbe probe = machine.Probe(mapped);

        ProbeFinding lost = new(ProbeOutcome.Corrupt, Length, Length, 0);
        Assert.Equal((lost, lost), (probe.Write, probe.Read));
        Assert.Equal(0, machine.Client.Aborts);
        Assert.True(machine.Client.LostBytes >= Length);
    }

    [Fact]
    public void A_listed_host_bridge_that_forwards_nothing_aborts()
    {
        Machine machine =
            new(Trees.RootPorts(Trees.AnyPair, bridge: new HostBridge(0, 0) { ForwardsPeerRequests = false }));

        RouteProbe probe = machine.Probe(machine.Map());

        ProbeFinding aborted = new(ProbeOutcome.Aborted, Length, Length, 0);
        Assert.Equal((aborted, aborted), (probe.Write, probe.Read));
    }

    [Fact]
    public void P2P_18_An_exporter_that_skips_the_route_check_hands_out_addresses_that_a_probe_finds_dead()
    {
        Machine machine = new(Trees.RootPorts(Trees.Unlisted));
        Assert.Equal(Errno.EREMOTEIO, machine.Fabric.TryMap(machine["b"], machine.Memory, out _));

        // The twin: the physical addresses, as a driver without pci_p2pdma_map_type would give them.
        RouteProbe probe = machine.Probe(machine.Memory);

        Assert.Equal((ProbeOutcome.Aborted, ProbeOutcome.Aborted), (probe.Write.Outcome, probe.Read.Outcome));
    }

    [Fact]
    public void An_address_that_leads_to_other_memory_is_corruption_and_not_a_success()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DeviceRange right = machine.Map().Entries[0];
        DmaAddressList shifted = new([right with { Start = right.Start + 8 }]);

        RouteProbe probe = machine.Probe(shifted, Length - Page);

        Assert.Equal((ProbeOutcome.Corrupt, ProbeOutcome.Corrupt), (probe.Write.Outcome, probe.Read.Outcome));
    }

    [Fact]
    public void What_arrived_in_an_earlier_probe_does_not_pass_for_this_one()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        DmaAddressList mapped = machine.Map();
        Assert.Equal(ProbeOutcome.Intact, machine.Probe(mapped).Write.Outcome);
        machine.Fabric.SetAcs(machine["sw"], AcsControl.RequestRedirect);

        Assert.Equal(ProbeOutcome.Aborted, machine.Probe(mapped).Write.Outcome);
    }

    [Fact]
    public void A_route_that_was_marked_bad_is_refused_with_the_reason_until_it_is_cleared()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        PeerDevice owner = machine["a"].PeerDevice!;
        PciFunction client = machine["b"];
        machine.Map();

        owner.MarkBad(new RouteFault(client, "16 KiB did not arrive", TimeSpan.FromSeconds(3)));

        Assert.Equal(Errno.EREMOTEIO, machine.Fabric.TryMap(client, machine.Memory, out _));
        PeerVerdict verdict = owner.VerdictFor(client);
        Assert.Equal(
            (PeerMapType.NotSupported, 4, PeerObstacle.FailedProbe, "16 KiB did not arrive"),
            (verdict.MapType, verdict.Distance, verdict.Obstacle, verdict.Refusal));
        Assert.Equal(PeerMapType.BusAddress, owner.Recalculate(client).MapType); // the rules are what they were
        Assert.Equal(PeerMapType.NotSupported, owner.MapTypeFor(client));
        Assert.Equal(PeerMapType.BusAddress, owner.MapTypeFor(machine["a"])); // nobody else is meant
        Assert.Single(owner.RouteFaults);

        Assert.NotNull(owner.ClearFault(client));
        Assert.Null(owner.ClearFault(client));
        Assert.Equal(PeerMapType.BusAddress, owner.MapTypeFor(client));
        Assert.Empty(owner.RouteFaults);
    }

    [Fact]
    public void A_record_of_a_device_that_was_pulled_out_does_not_meet_the_one_plugged_in_after_it()
    {
        Machine machine = new(Trees.Switch(Trees.Unlisted));
        PeerDevice owner = machine["a"].PeerDevice!;
        owner.MarkBad(new RouteFault(machine["b"], "lost", default));
        PciAddress address = machine["b"].Address;
        PciBridge port = machine["b"].Upstream!;
        machine.Fabric.Unplug(machine["b"]);
        PciFunction next = new(address, "b");
        machine.Fabric.Topology.Add(next, port);

        Assert.Equal(PeerMapType.BusAddress, owner.MapTypeFor(next));
    }

    private sealed class Machine
    {
        private readonly Tree _tree;

        public Machine(Tree tree)
        {
            _tree = tree;
            Fabric = new PciFabric(tree.Topology);
            Memory = new DmaAddressList([Fabric.AddWindow(new byte[Length], tree["a"]).Range]);
            Fabric.Plug(tree["b"]);
            Client = new DmaPort(tree["b"]);
        }

        public PciFabric Fabric { get; }

        public DmaAddressList Memory { get; }

        public DmaPort Client { get; }

        public PciFunction this[string name] => _tree[name];

        public DmaAddressList Map()
        {
            Assert.Equal(Errno.Success, Fabric.TryMap(_tree["b"], Memory, out DmaAddressList? list));
            return list!;
        }

        public RouteProbe Probe(DmaAddressList mapped, int length = Length)
        {
            RouteProbe probe = new(Client, new DmaPort(Fabric.Processor), seed: 42);
            for (ulong offset = 0; offset < (ulong)length; offset += Page)
            {
                Assert.True(mapped.TryLocate(offset, out DeviceAddress address, out _));
                Assert.True(Memory.TryLocate(offset, out DeviceAddress physical, out _));
                probe.TryBlock(address, physical, Page);
            }

            return probe;
        }
    }
}
