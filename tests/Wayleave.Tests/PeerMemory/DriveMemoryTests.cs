using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Devices.Nvme;
using Wayleave.Simulation;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// Who puts the parts together in Linux (NVMe over fabrics): the drive publishes its controller memory buffer, the
/// orchestrator lists all who will touch the bytes, takes memory near all of them, and each maps it as any other.
/// </summary>
public sealed class DriveMemoryTests
{
    private const ulong Page = PeerPool.PageBytes;

    [Fact]
    public void Memory_of_the_drive_that_is_nearest_to_all_is_taken_written_by_the_NIC_and_read_by_the_drive()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        tree.AddSwitch(tree.Add(
            new PciBridge(new PciAddress(0, 0, 2, 0), "rp2", PciBridgeKind.RootPort, Trees.Unlisted),
            tree.Topology.HostBridges[0]), "far", 0x20, ["c"]);
        PciFabric fabric = new(tree.Topology);
        HostContext host = new(new VirtualClock());
        using HostContext.Scope scope = host.Enter();
        byte[] memory = new byte[16 * Page];
        NvmeController drive = AddDrive(fabric, tree["a"], memory);
        NvmeController far = AddDrive(fabric, tree["c"], new byte[16 * Page]);
        fabric.Plug(tree["b"]);
        foreach (NvmeController controller in (NvmeController[])[far, drive])
        {
            Assert.Equal(
                Errno.Success,
                PeerDevice.TryAddResource(
                    host, tree.Topology, controller.Function, NvmeController.MemoryBufferBar, 0, 0, out PeerPool? own));
            own!.Publish(true);
        }

        // The clients are a network interface and a namespace: children of their functions.
        IDeviceNode[] clients = [new ChildDevice("eth0", tree["b"]), new ChildDevice("nvme0n1", tree["a"])];
        PeerPool pool = PeerFinder.FindMany(tree.Topology, clients, new SplitMix64(7))!;
        Assert.Same(drive.Function, pool.Device.Function);
        Assert.Equal(Errno.Success, pool.TryAllocate(2 * Page, "nvmet queue 1", out PeerAllocation? taken));

        DmaPort nic = new(tree["b"]);
        Assert.Equal(Errno.Success, fabric.TryMap(tree["b"], taken!.Addresses, out DmaAddressList? byNic));
        Assert.Equal(Errno.Success, fabric.TryMap(tree["a"], taken.Addresses, out DmaAddressList? byDrive));
        Assert.Equal(Errno.Success, nic.TryWrite(byNic!.Entries[0].Start, 3, out Span<byte> written));
        written.Fill(0x5A);
        Assert.Equal(
            Errno.Success, drive.Port.TryRead(byDrive!.Entries[0].Start, 3, out ReadOnlySpan<byte> read));
        Assert.Equal([0x5A, 0x5A, 0x5A], read.ToArray());
        Assert.Equal(3, drive.Port.BytesRead(PeerRoute.SameDevice));
        Assert.Equal(3, nic.BytesWritten(PeerRoute.BusAddress));
        Assert.Equal(0x5A, memory.Max());

        // The NIC below the other root port is reached by neither.
        Assert.Null(PeerFinder.FindMany(tree.Topology, [clients[0], clients[1], tree["c"]], new SplitMix64(7)));
        fabric.Unmap(tree["b"], byNic);
        fabric.Unmap(tree["a"], byDrive);
        PeerUnbind unbind = pool.Device.Unbind(host);
        Assert.Equal(["nvmet queue 1"], unbind.Holders);
        pool.Free(taken);
        Assert.True(unbind.IsCompleted);
    }

    private static NvmeController AddDrive(PciFabric fabric, PciFunction function, byte[] memory)
    {
        NvmeControllerOptions options = new();
        byte[] buffers = new byte[options.RequestsMax * NvmeControllerOptions.TransferBytesMax];
        return new NvmeController(fabric, function, options, buffers, memory);
    }
}
