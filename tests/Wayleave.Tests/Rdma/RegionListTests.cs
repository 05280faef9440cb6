using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Tests.Gpu;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>The list of addresses of a dynamic region belongs to the place of the memory.</summary>
public sealed class RegionListTests
{
    [Theory]
    [InlineData(0UL)]
    [InlineData(0x1000_0000_0000UL)]
    public void A_dynamic_region_makes_no_list_when_the_memory_has_not_moved_and_one_when_it_has(ulong busOffset)
    {
        HostBridge bridge = new(0, 0) { BusOffset = busOffset };
        Tree tree = Trees.Switch(Trees.Unlisted, bridge: bridge);
        GpuFixture f = new(new PciFabric(tree.Topology), tree["a"]);
        GpuBuffer buffer = f.Create(storage: StorageKind.Movable);
        RdmaDevice nic = new(f.Host, f.Fabric, tree["b"], new RdmaDeviceOptions(), new SeededKeys(1));
        ProtectionDomain domain = nic.CreateProtectionDomain();
        MemoryRegion region = Register(f, nic, domain, buffer);
        Translation first = region.Current!;

        f.WithReservation(buffer.Shared, ticket =>
        {
            buffer.Shared.InvalidateMappings(ticket);
            return 0;
        });
        Assert.Null(region.Current);
        Remap(f, region);

        Assert.NotSame(first.Gate, region.Current!.Gate); // a gate never opens again
        Assert.Same(first.Addresses, region.Current.Addresses);

        f.Evict(buffer);
        f.Run();
        Remap(f, region);
        Assert.NotSame(first.Addresses, region.Current!.Addresses);
    }

    private static MemoryRegion Register(
        GpuFixture f, RdmaDevice nic, ProtectionDomain domain, GpuBuffer buffer) =>
        f.WithReservation(buffer.Shared, ticket =>
        {
            MemoryRegionRequest request = new(
                0, buffer.Shared.SizeBytes, 0x1000, AccessFlags.LocalWrite, ImporterKind.Dynamic);
            Errno errno = nic.RegisterLocked(
                ticket, domain, buffer.Shared, request, out MemoryRegion? region, out _);
            Assert.Equal(Errno.Success, errno);
            return region!;
        });

    private static void Remap(GpuFixture f, MemoryRegion region) => Assert.Equal(
        MapOutcomeKind.Mapped, f.WithReservation(region.Buffer!, ticket => region.RemapLocked(ticket).Kind));
}
