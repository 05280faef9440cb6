using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// What was said against resources with a handle when they were proposed for P2PDMA in 2023, one test for each
/// objection: how this design answers it.
/// </summary>
public sealed class HandleObjectionTests
{
    private const ulong Page = ResourceFixture.Page;

    [Fact]
    public void Objection_1_A_second_allocator_beside_the_drivers_is_the_wrong_layer()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 3);

        // The driver's own allocator counts the resource, gives its pages to nobody else, and has them back afterwards.
        Assert.Equal((3 * Page, 5 * Page), (f.Stats.VramUsedBytes, f.Stats.VramFreeBytes));
        Assert.Null(f.TakeVram(6));
        GpuBuffer other = f.TakeVram(5)!;
        DeviceRange lent = ((GpuBuffer)handle.Resource.Buffer.Exporter).Placement.Addresses.Entries[0];
        Assert.False(other.Placement.Addresses.Entries[0].Overlaps(lent));
        Assert.Null(f.Device.Pool);

        // And nobody puts a second one on top of it.
        Assert.Equal(
            Errno.EBUSY,
            f.Locked(() => PeerDevice.TryAddResource(f.Host, f.Fabric.Topology, f.Function, 0, Page, 0, out _)));
        f.Remove(handle);
        Assert.Equal(3 * Page, f.Stats.VramFreeBytes);
    }

    [Fact]
    public void Objection_2_Packets_must_land_in_the_memory_of_who_owns_the_connection()
    {
        ResourceFixture f = new();
        PeerHandle ofA = f.Add("a", 2);
        PeerHandle ofB = f.Add("b", 2, "process 2");
        (PeerUser queueOfA, PeerImport importA) = f.Use(ofA, f.Nic);
        (PeerUser queueOfB, PeerImport importB) = f.Use(ofB, f.Nic); // the same NIC, another queue

        PeerChunk[] ofQueueA = [f.Allocate(importA), f.Allocate(importA)];
        PeerChunk ofQueueB = f.Allocate(importB);

        // A's queue never gets a page of B, not even when its own are gone.
        Assert.Equal(Errno.ENOMEM, f.Locked(() => importA.TryAllocate(Page, out _)));
        Assert.All(
            ofQueueA,
            a => Assert.False(a.Locate(queueOfA.Mapping).Entries[0].Overlaps(
                ofQueueB.Locate(queueOfB.Mapping).Entries[0])));
        Assert.Throws<InvalidOperationException>(() => f.Locked(() => importA.Free(ofQueueB)));
    }

    [Fact]
    public void Objection_3_Struct_pages_for_every_display_driver_are_too_much_to_ask()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 2);
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);

        // The driver lends and takes back, by what it has for its own buffers; the importer gets addresses.
        Assert.Equal(
            ["Allocates", "TakeBack", "TryLend"],
            typeof(IPeerMemoryOwner).GetMethods().Select(m => m.Name).Order(StringComparer.Ordinal));
        Assert.IsType<GpuBuffer>(handle.Resource.Buffer.Exporter);
        Assert.Equal(StorageKind.Revocable, handle.Resource.Buffer.Exporter.Storage);
        Assert.True(nic.TryWrite(f.Allocate(import).Offset, 7));
        Assert.Equal(7, f.Vram[0]);
    }

    [Fact]
    public void Objection_4_Network_memory_and_pages_of_devices_do_not_go_together()
    {
        ResourceFixture f = new();
        (PeerUser nic, PeerImport import) = f.Use(f.Add("a", 4), f.Nic);
        f.Allocate(import);
        PeerChunk chunk = f.Allocate(import, 2);

        // As a net_iov: an offset within the binding, and an address by the binding's own mapping.
        Assert.Equal((Page, 2 * Page), (chunk.Offset, chunk.LengthBytes));
        Assert.Equal(
            nic.Mapping.Entries[0].Start + Page, Assert.Single(chunk.Locate(nic.Mapping).Entries.ToArray()).Start);
    }

    [Fact]
    public void Objection_5_The_owner_may_crash_while_the_NIC_still_has_chunks()
    {
        ResourceFixture f = new();
        PeerHandleTable process = new(f.Host, "process 1");
        PeerHandle handle = f.Add("a", 8);
        f.Locked(() => process.TryInstall(handle, out _));
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);
        PeerChunk chunk = f.Allocate(import, 2);
        Assert.True(nic.TryEnter());

        f.Locked(process.CloseAll);

        // Not returned while a packet is being placed; no packet after that one; a proof says why it is over.
        Assert.Equal((0UL, 8 * Page), (f.Stats.VramFreeBytes, f.Stats.VramQuarantinedBytes));
        nic.Leave();
        Assert.False(nic.TryWrite(chunk.Offset, 1));
        Assert.Equal(8 * Page, f.Stats.VramFreeBytes);
        RetirementProof proof = handle.Resource.Removal!.Proof!;
        Assert.Equal((RetirementGrade.Retired, 1L), (proof.Grade, Assert.Single(proof.Importers).InsideAtClose));
        Assert.Equal("the last handle was closed, by process 1", proof.Reason);
    }

    [Fact]
    public void Objection_6_Who_may_import_which_resource_is_who_holds_a_handle_to_it()
    {
        ResourceFixture f = new();
        PeerHandleTable owner = new(f.Host, "process 1");
        PeerHandleTable stranger = new(f.Host, "process 2");
        PeerHandle handle = f.Add("a", 1);
        f.Locked(() =>
        {
            Assert.Equal(Errno.Success, owner.TryInstall(handle, out int number));
            Assert.Equal(Errno.EBADF, stranger.TryGet(number, out _)); // a number is no right
            Assert.Equal(Errno.Success, owner.TrySend(number, stranger, out int received));
            Assert.Equal(Errno.Success, stranger.TryGet(received, out PeerHandle? sent));
            PeerUser user = new(f.Host, f.Other);
            Assert.Equal(Errno.Success, sent!.TryImport(f.Other, user, out PeerImport? import));
            import!.Close();

            stranger.CloseAll();
            Assert.Equal(Errno.ENODEV, sent.TryImport(f.Other, user, out _));
            Assert.Equal(PeerResourceState.Lent, handle.Resource.State);
        });

        // Who could not be made to stop is not let in at all, whatever it holds.
        Assert.Equal(
            Errno.EOPNOTSUPP,
            f.Locked(() => handle.Resource.Buffer.TryAttach(f.Nic, new TestPinnedImporter(), out _)));
    }
}
