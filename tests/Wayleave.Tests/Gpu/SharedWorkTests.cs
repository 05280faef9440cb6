using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>Jobs of devices on buffers of others, ordered by fences alone (igt prime_vgem, dmabuf-heaps).</summary>
public class SharedWorkTests
{
    private const PollEvents Both = PollEvents.In | PollEvents.Out;

    [Theory]
    [InlineData(1UL)]
    [InlineData(256UL)]
    public void DBUF_46_New_buffers_in_the_place_of_32_that_were_filled_and_freed_are_zero(ulong pages)
    {
        GpuFixture f = new(vramPages: 32 * pages, systemPages: 1);
        GpuBuffer[] filled = [.. Enumerable.Range(0, 32).Select(i => f.Create($"old {i}", pages))];
        Assert.Equal(Errno.ENOSPC, f.TryCreate("more", 1, out _));
        foreach (GpuBuffer buffer in filled)
        {
            f.Bytes(buffer).Fill(0xFF);
            f.Free(buffer);
        }

        for (int i = 0; i < 32; i++)
        {
            Assert.False(f.Bytes(f.Create($"new {i}", pages)).ContainsAnyExcept((byte)0));
        }
    }

    [Fact]
    public void DBUF_48_differs_A_heap_buffer_is_mapped_filled_between_two_syncs_and_imported_without_the_heaps_ioctls()
    {
        using BufferFixture f = new();
        BufferFile file = new(f.Buffer);
        AcquireTicket ticket = f.Lock();
        Assert.Equal(Errno.Success, f.Buffer.TryVmapLocked(ticket, out Memory<byte> memory));
        f.Buffer.Reservation.Unlock(ticket);
        foreach (byte value in new byte[] { 1, 2 })
        {
            Assert.Equal(Errno.Success, file.TrySync(BufferSync.Write, out CpuAccess? access, out _));
            Assert.Null(access!.FirstUnsignaled());
            memory.Span.Fill(value);
            Assert.Equal(Errno.Success, file.TrySync(BufferSync.Write | BufferSync.End, out _, out _));
            f.AttachAndMap(f.NewImporter());
        }
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(0x1000_0000_0000UL)]
    public void DBUF_49_Below_a_switch_an_importer_gets_bus_addresses_that_no_IOMMU_translates(ulong busOffset)
    {
        HostBridge bridge = new(0, 0) { BusOffset = busOffset, Iommu = IommuMode.Strict };
        (GpuFixture f, GpuBuffer buffer, PciFunction nic) = Below(Trees.Switch(Trees.Unlisted, bridge: bridge));
        DmaAddressList mapped = Map(f, buffer, nic).Addresses!;
        Assert.Equal(buffer.Placement.Addresses.Entries[0].Start + busOffset, mapped.Entries[0].Start);
        f.Bytes(buffer)[0] = 0x77;
        Assert.Equal(Errno.Success, new DmaPort(nic).TryRead(mapped.Entries[0].Start, 1, out ReadOnlySpan<byte> read));
        Assert.Equal((0x77, 0L), (read[0], f.Fabric.IommuFaults(nic)));
    }

    [Fact]
    public void DBUF_50_differs_Where_no_path_leads_the_attach_clears_peer_to_peer_and_a_map_in_vram_is_EBUSY()
    {
        Tree tree = Trees.Switch(Trees.Unlisted);
        PciTopology.SetAcs(tree["sw.0"], AcsControl.RequestRedirect);
        (GpuFixture f, GpuBuffer buffer, PciFunction nic) = Below(tree);
        Assert.Equal(Errno.EBUSY, Map(f, buffer, nic).Errno);
        Assert.Equal(
            Errno.EREMOTEIO, f.Locked(() => f.Fabric.TryMap(nic, buffer.Placement.Addresses, out _)));
    }

    [Fact]
    public void DBUF_51_While_a_job_writes_a_shared_buffer_a_poll_is_busy_both_ways_and_its_bytes_are_there_after_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        Fill(f, buffer, 0x31);
        Assert.Equal(PollEvents.None, Poll(f, buffer));
        f.Gpu.CopyEngine.Drive(3);
        Assert.Equal(PollEvents.None, Poll(f, buffer));
        Assert.Equal(0, f.Bytes(buffer)[^1]);
        f.Run();
        Assert.Equal(Both, Poll(f, buffer));
        Assert.False(f.Bytes(buffer).ContainsAnyExcept((byte)0x31));
    }

    [Fact]
    public void DBUF_52_A_sync_to_read_waits_for_the_job_and_then_the_new_bytes_are_read()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(storage: StorageKind.Static);
        Fill(f, buffer, 0x32);
        CpuAccess read = f.Locked(() =>
        {
            new BufferFile(buffer.Shared).TrySync(BufferSync.Read, out CpuAccess? access, out _);
            return access!;
        });
        Assert.NotNull(f.Locked(read.FirstUnsignaled));
        f.Run();
        Assert.Null(f.Locked(read.FirstUnsignaled));
        Assert.Equal(0x32, f.Bytes(buffer)[0]);
    }

    [Fact]
    public void DBUF_53_A_job_on_a_buffer_that_is_produced_does_not_run_before_its_producer_signals()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        Fence producer = f.Locked(() => f.Work.CreateFence());
        f.WithReservation(buffer.Shared, ticket =>
        {
            SyncFile file = new(f.Host, producer);
            return new BufferFile(buffer.Shared).TryImportSyncFileLocked(ticket, BufferSync.Write, file);
        });
        Fill(f, buffer, 0x33);
        Assert.Equal((0, PollEvents.None, (byte)0), (f.Run(), Poll(f, buffer), f.Bytes(buffer)[0]));
        f.Locked(() => producer.Signal());
        f.Run();
        Assert.Equal((Both, (byte)0x33), (Poll(f, buffer), f.Bytes(buffer)[0]));
    }

    [Fact]
    public void DBUF_55_Two_devices_write_and_read_in_turn_and_an_eviction_in_between_loses_nothing()
    {
        GpuFixture f = new();
        GpuBuffer shared = f.Create("shared");
        PciFunction function = new("0000:03:00.0", "gpu1");
        byte[] vram = new byte[GpuFixture.Page], unused = new byte[GpuFixture.Page];
        GpuDevice other = f.Locked(() => new GpuDevice(
            f.Host, f.Fabric, function, new GpuOptions { CopyBlockBytes = 0x400 }, [vram], [unused]));
        GpuBuffer? own = null;
        GpuBufferInfo info = new("own", GpuFixture.Page, StorageKind.Static);
        Assert.Equal(Errno.Success, f.Locked(() => other.TryCreate(info, out own)));
        TestImporter importer = f.NewImporter();
        Attachment attachment = f.Locked(() =>
        {
            shared.Shared.TryAttach(function, importer, out Attachment? made);
            return made!;
        });
        for (byte round = 1; round <= 8; round++)
        {
            Fill(f, shared, round);
            if (round % 2 == 0)
            {
                f.Evict(shared);
            }

            f.WithReservation(shared.Shared, ticket =>
            {
                if (attachment.State == MappingState.Unmapped)
                {
                    Assert.Equal(
                        MapOutcomeKind.Mapped, attachment.MapLocked(ticket, DmaDirection.ToDevice).Kind);
                }

                Submit(f, shared, other.CopyEngine, ticket, ReservationUsage.Read, new JobPlan(
                    attachment.Addresses, own!.Placement.LocalAddresses));
                return true;
            });
            while (f.Run() + other.CopyEngine.Drive(int.MaxValue) > 0)
            {
                // Whoever is ready: fences alone say in which order.
            }

            Assert.False(vram.AsSpan().ContainsAnyExcept(round));
            f.Restore(shared);
            f.Run();
        }

        Assert.Equal((4L, 8), (f.Locked(() => f.Gpu.Stats).Evictions, importer.Invalidations));
    }

    private static PollEvents Poll(GpuFixture f, GpuBuffer buffer) => f.Locked(() => buffer.Shared.Poll(Both));

    private static void Fill(GpuFixture f, GpuBuffer buffer, byte pattern) =>
        f.WithReservation(buffer.Shared, ticket =>
        {
            JobPlan plan = new(null, buffer.Placement.LocalAddresses, pattern);
            Submit(f, buffer, f.Gpu.CopyEngine, ticket, ReservationUsage.Write, plan);
            return true;
        });

    // As a driver does with implicit synchronisation: a writer waits for everybody, a reader for writers.
    private static void Submit(
        GpuFixture f, GpuBuffer on, CopyEngine engine, AcquireTicket ticket, ReservationUsage usage, JobPlan plan)
    {
        Reservation reservation = on.Shared.Reservation;
        ReservationUsage waits = usage == ReservationUsage.Write ? ReservationUsage.Read : ReservationUsage.Write;
        CopyJob job = new()
        {
            Name = $"job on {on.Name}",
            Source = plan.Source,
            Target = plan.Target,
            Pattern = plan.Pattern,
            Waits = reservation.GetPendingFences(waits),
            Fence = new Timeline(f.Host, "job").CreateFence(),
        };
        Assert.Equal(Errno.Success, engine.TrySubmit(job));
        reservation.ReserveFences(ticket, 1);
        reservation.AddFence(ticket, job.Fence, usage);
    }

    private static MapOutcome Map(GpuFixture f, GpuBuffer buffer, PciFunction device)
    {
        Attachment attachment = f.Locked(() =>
        {
            TestImporter importer = new(new Timeline(f.Host, "importer"));
            Assert.Equal(Errno.Success, buffer.Shared.TryAttach(device, importer, out Attachment? made));
            return made!;
        });
        return f.Map(attachment);
    }

    private static (GpuFixture Fixture, GpuBuffer Buffer, PciFunction Nic) Below(Tree tree)
    {
        GpuFixture f = new(new PciFabric(tree.Topology), tree["a"]);
        f.Locked(() => f.Fabric.Plug(tree["b"]));
        return (f, f.Create(storage: StorageKind.Static), tree["b"]);
    }

    private sealed record JobPlan(DmaAddressList? Source, DmaAddressList Target, byte Pattern = 0);
}
