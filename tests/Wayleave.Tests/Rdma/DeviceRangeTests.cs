using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Tests.Gpu;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Ranges of a NIC's BAR that are exported.</summary>
public sealed class DeviceRangeTests
{
    private const ulong Page = PeerPool.PageBytes;
    private const AccessFlags Writable = SpaceRegionFixture.Writable;

    [Fact]
    public void A_range_that_is_not_whole_pages_of_a_BAR_is_EINVAL_and_a_function_without_peers_EOPNOTSUPP()
    {
        TestNode node = new("10.77.0.1", 1);
        PciFunction other = new("0000:05:00.0", "rdma1");
        using (node.Host.Enter())
        {
            node.Fabric.AddBar(other, 0, PciBarKind.Memory, 4 * Page);
        }

        Assert.Equal(Errno.EOPNOTSUPP, TryExport(node, other, 0, Page, out _));
        Offer(node, other);
        Assert.Equal(Errno.EINVAL, TryExport(node, other, 1, Page, out _));
        Assert.Equal(Errno.EINVAL, TryExport(node, other, 0, 0, out _));
        Assert.Equal(Errno.EINVAL, TryExport(node, other, 4 * Page, Page, out _));
        Assert.Equal(Errno.EINVAL, TryExport(node, other, Page, ulong.MaxValue - Page + 1, out _));
        Assert.Equal(Errno.Success, TryExport(node, other, 3 * Page, Page, out _));
    }

    [Fact]
    public void RDMA_40_Without_peer_to_peer_it_is_EOPNOTSUPP_dynamic_importers_map_and_who_pins_fails()
    {
        TestNode node = new("10.77.0.1", 1);
        DeviceRangeBuffer range = Export(node);

        using (node.Host.Enter())
        {
            Assert.Equal(
                Errno.EOPNOTSUPP, range.Shared.TryAttach(node.Function, importer: null, out Attachment? none));
            Assert.Null(none);
        }

        Assert.Equal(Errno.EOPNOTSUPP, TryRegister(node, range, ImporterKind.Pinned, out _));
        Assert.Equal(Errno.EOPNOTSUPP, TryRegister(node, range, ImporterKind.PinnedRevocable, out _));
        Assert.Empty(range.Shared.Attachments);
        Assert.Equal(Errno.Success, TryRegister(node, range, ImporterKind.Dynamic, out MemoryRegion? region));
        Assert.Equal(MemoryRegionState.Valid, region!.State);
    }

    [Fact]
    public void RDMA_41_A_context_that_closes_waits_for_the_unmap_of_its_importers_and_no_map_comes_after()
    {
        TestNode node = new("10.77.0.1", 1);
        DeviceRangeBuffer range = Export(node);
        Assert.Equal(Errno.Success, TryRegister(node, range, ImporterKind.Dynamic, out MemoryRegion? region));
        Translation inside = region!.Current!;
        Assert.True(inside.Gate.TryEnter());

        RevokeOperation close;
        using (node.Host.Enter())
        {
            close = range.Close();
            Assert.Same(close, range.Close());
        }

        Assert.Equal(MemoryRegionState.Dead, region.State);
        Assert.NotEqual(RevokeState.Retired, close.State);
        inside.Gate.Exit();
        Assert.Equal(RevokeState.Retired, close.State);
        Assert.Equal(Errno.ENODEV, TryRegister(node, range, ImporterKind.Dynamic, out _));
    }

    [Theory]
    [InlineData(ImporterKind.Pinned)]
    [InlineData(ImporterKind.PinnedRevocable)]
    public void RDMA_13_What_a_region_has_pinned_its_exporter_cannot_move(ImporterKind kind)
    {
        GpuFixture f = new();
        RdmaDevice nic = new(
            f.Host, f.Fabric, new PciFunction("0000:03:00.0", "rdma0"), new RdmaDeviceOptions(), new SeededKeys(1));
        ProtectionDomain domain = nic.CreateProtectionDomain();
        GpuBuffer buffer = f.Create("lent");
        using (f.Host.Enter())
        {
            AcquireTicket ticket = new(f.Host, "register");
            Assert.Equal(LockOutcomeKind.Acquired, buffer.Shared.Reservation.TryLock(ticket).Kind);
            Assert.Equal(Errno.Success, nic.RegisterLocked(
                ticket, domain, buffer.Shared,
                new MemoryRegionRequest(0, buffer.Shared.SizeBytes, TestNode.Iova, Writable, kind), out _, out _));
            buffer.Shared.Reservation.Unlock(ticket);
            GpuDomain before = buffer.Placement.Domain;
            GpuDomain other = before == GpuDomain.Vram ? GpuDomain.System : GpuDomain.Vram;
            MoveOperation move = f.Gpu.Move(buffer, other);
            Assert.Equal((true, Errno.EBUSY, before), (move.IsCompleted, move.Error, buffer.Placement.Domain));
        }
    }

    private static DeviceRangeBuffer Export(TestNode node)
    {
        PciFunction other = new("0000:05:00.0", "rdma1");
        using (node.Host.Enter())
        {
            PciBar bar = node.Fabric.AddBar(other, 0, PciBarKind.Memory, 4 * Page);
            node.Fabric.AddWindow(new byte[4 * Page], bar, 0);
        }

        Offer(node, other);
        Assert.Equal(Errno.Success, TryExport(node, other, Page, 2 * Page, out DeviceRangeBuffer? range));
        return range!;
    }

    private static void Offer(TestNode node, PciFunction function)
    {
        using (node.Host.Enter())
        {
            Assert.Equal(Errno.Success, PeerDevice.TryInitialize(node.Fabric.Topology, function, out _));
        }
    }

    private static Errno TryExport(
        TestNode node, PciFunction function, ulong offset, ulong length, out DeviceRangeBuffer? range)
    {
        using (node.Host.Enter())
        {
            return DeviceRangeBuffer.TryExport(
                node.Host, node.Fabric, function, bar: 0, offset, length, "doorbells", out range);
        }
    }

    private static Errno TryRegister(
        TestNode node, DeviceRangeBuffer range, ImporterKind kind, out MemoryRegion? region)
    {
        using (node.Host.Enter())
        {
            AcquireTicket ticket = new(node.Host, "register");
            Assert.Equal(LockOutcomeKind.Acquired, range.Shared.Reservation.TryLock(ticket).Kind);
            Errno errno = node.Device.RegisterLocked(
                ticket, node.Domain, range.Shared,
                new MemoryRegionRequest(0, 2 * Page, TestNode.Iova, Writable, kind), out region, out _);
            range.Shared.Reservation.Unlock(ticket);
            return errno;
        }
    }
}
