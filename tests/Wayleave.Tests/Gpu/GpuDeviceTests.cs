using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class GpuDeviceTests
{
    [Theory]
    [InlineData(GpuDomain.Vram)]
    [InlineData(GpuDomain.System)]
    public void A_new_buffer_holds_zeros_once_its_KERNEL_fence_has_signalled(GpuDomain domain)
    {
        GpuFixture f = new();
        f.Vram.AsSpan().Fill(0xEE);
        f.System.AsSpan().Fill(0xEE);
        Assert.Equal(Errno.Success, f.TryCreate("a", 2, out GpuBuffer? buffer, domain: domain));
        Assert.False(f.IsIdle(buffer!));
        f.Run();
        Assert.True(f.IsIdle(buffer!));
        Assert.False(f.Bytes(buffer!).ContainsAnyExcept((byte)0), "bytes of the previous owner");
        Assert.Equal(2 * GpuFixture.Page, f.Stats.ClearedBytes);
    }

    [Fact]
    public void A_name_is_measured_in_bytes()
    {
        GpuFixture f = new();

        Assert.Equal(Errno.EINVAL, f.TryCreate(new string('\u00e4', 16), 1, out _));
        Assert.Equal(Errno.EINVAL, f.TryCreate("a\0b", 1, out _));
        Assert.Equal(Errno.Success, f.TryCreate(new string('\u00e4', 15), 1, out _));
    }

    [Fact]
    public void Without_the_clear_the_next_owner_finds_old_bytes()
    {
        GpuFixture f = new(new GpuOptions { ClearsNewBuffers = false });
        GpuBuffer old = f.Create(pages: 4);
        f.Bytes(old).Fill(0xEE);
        f.Free(old);
        Assert.True(f.Bytes(f.Create("next", pages: 4)).ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void A_static_importer_cannot_map_before_the_clear_has_ended()
    {
        GpuFixture f = new();
        f.TryCreate("a", 1, out GpuBuffer? buffer, domain: GpuDomain.System);
        Attachment attachment = f.Attach(buffer!, importer: null);
        Assert.Equal(MapOutcomeKind.MustWait, f.Map(attachment).Kind);
        f.Run();
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
    }

    [Fact]
    public void A_buffer_that_cannot_be_made_says_why_and_takes_nothing()
    {
        GpuFixture f = new();
        Assert.Equal(Errno.EINVAL, f.TryCreate("a", 0, out _));
        Assert.Equal(Errno.EINVAL, f.TryCreate(new string('n', 32), 1, out _));
        Assert.Equal(Errno.ENOSPC, f.TryCreate("a", 5, out _));
        Assert.Equal(Errno.ENOMEM, f.TryCreate("a", 5, out GpuBuffer? none, domain: GpuDomain.System));
        Assert.Null(none);
        Assert.Equal(
            (4 * GpuFixture.Page, 4 * GpuFixture.Page, 0),
            (f.Stats.VramFreeBytes, f.Stats.SystemFreeBytes, f.Stats.Buffers));
    }

    [Fact]
    public void A_full_ring_refuses_new_buffers_until_a_job_has_ended()
    {
        GpuFixture f = new(new GpuOptions { CopyRingSlots = 1 });
        Assert.Equal(Errno.Success, f.TryCreate("a", 1, out _));
        Assert.Equal(Errno.EAGAIN, f.TryCreate("b", 1, out _));
        Assert.Equal(3 * GpuFixture.Page, f.Stats.VramFreeBytes);
        f.Run();
        Assert.Equal(Errno.Success, f.TryCreate("b", 1, out _));
    }

    [Fact]
    public void A_map_gives_exactly_the_buffers_bytes_in_the_devices_memory()
    {
        GpuFixture f = new();
        using (f.Host.Enter())
        {
            Assert.Equal(
                Errno.Success,
                f.Gpu.TryCreate(new GpuBufferInfo("odd", 0x1801, StorageKind.Movable), out GpuBuffer? odd));
            Assert.Equal((0x1801UL, 0x2000UL), (odd!.Placement.Addresses.LengthBytes, odd.Placement.StorageBytes));
        }
    }

    [Fact]
    public void Vram_is_the_functions_bar_and_the_pool_is_host_memory()
    {
        GpuFixture f = new();
        DmaPort nic = new(f.Nic);
        nic.TryWrite(f.Create("a").Placement.Addresses.Entries[0].Start, 8, out _);
        nic.TryWrite(f.Create("b", domain: GpuDomain.System).Placement.Addresses.Entries[0].Start, 8, out _);
        Assert.Equal((8L, 8L), (nic.BytesWritten(PeerRoute.BusAddress), nic.BytesWritten(PeerRoute.HostMemory)));
    }

    [Theory]
    [InlineData(StorageKind.Static)]
    [InlineData(StorageKind.Revocable)]
    public void A_buffer_that_must_stay_in_vram_is_not_for_who_cannot_take_peer_addresses(StorageKind storage)
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(storage: storage);
        Attachment pins = f.Attach(buffer, f.NewImporter(ImporterKind.PinnedRevocable));
        Attachment maps = f.Attach(buffer, f.NewImporter());
        (pins.PeerToPeer, maps.PeerToPeer) = (false, false);
        Assert.Equal((Errno.EINVAL, Errno.EBUSY), (f.Pin(pins), f.Map(maps).Errno));
        Assert.Equal((0, 0), (buffer.PinCount, f.Stats.CopyJobs));
    }

    [Fact]
    public void A_static_importer_that_cannot_take_peer_addresses_brings_the_buffer_to_host_memory_and_waits_for_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Bytes(buffer).Fill(0xAB);
        Attachment attachment = f.Attach(buffer, importer: null);
        Assert.Equal(MapOutcomeKind.MustWait, f.Map(attachment).Kind);
        Assert.Equal((0, GpuDomain.System), (buffer.PinCount, buffer.Placement.Domain));
        f.Run();
        Assert.Equal((MapOutcomeKind.Mapped, 1), (f.Map(attachment).Kind, buffer.PinCount));
        Assert.Equal(0xAB, f.Bytes(buffer)[0]);
    }

    [Fact]
    public void A_static_importer_uses_what_never_moves_where_it_is_and_is_told_nothing()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(storage: StorageKind.Static);
        Attachment attachment = f.Attach(buffer, importer: null);
        Assert.False(attachment.PeerToPeer); // it has no way to say otherwise
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
        Assert.Equal((1, GpuDomain.Vram, 0), (buffer.PinCount, buffer.Placement.Domain, f.Stats.CopyJobs));
        DmaPort nic = new(f.Nic);
        DeviceAddress address = attachment.Addresses!.Entries[0].Start;
        Assert.Equal(Errno.Success, nic.TryWrite(address, 8, out Span<byte> bytes));
        Assert.Equal((8, 8L), (bytes.Length, nic.BytesWritten(PeerRoute.BusAddress)));
    }

    [Fact]
    public void A_dynamic_importer_that_cannot_take_peer_addresses_brings_the_buffer_to_host_memory_and_others_follow()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        TestImporter peer = f.NewImporter();
        Attachment follows = f.Attach(buffer, peer), far = f.Attach(buffer, f.NewImporter());
        far.PeerToPeer = false;
        f.Map(follows);
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(far).Kind);
        Assert.Equal((1, MappingState.Unmapped), (peer.Invalidations, follows.State));
        Assert.Equal((GpuDomain.System, false), (buffer.Placement.Domain, f.IsIdle(buffer)));
        f.Run();
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(follows).Kind);
    }

    [Fact]
    public void EXP_15_A_pin_stays_in_vram_while_all_attachments_reach_it_and_otherwise_goes_to_host_memory()
    {
        GpuFixture f = new();
        GpuBuffer near = f.Create("near"), far = f.Create("far");
        Assert.Equal(Errno.Success, f.Pin(f.Attach(near, f.NewImporter(ImporterKind.PinnedRevocable))));
        Assert.Equal(GpuDomain.Vram, near.Placement.Domain);
        f.Attach(far, f.NewImporter()).PeerToPeer = false;
        TestImporter pins = f.NewImporter(ImporterKind.PinnedRevocable);
        Attachment attachment = f.Attach(far, pins);
        Assert.Equal(Errno.Success, f.Pin(attachment));
        Assert.Equal((GpuDomain.System, 1, 0), (far.Placement.Domain, far.PinCount, pins.Invalidations));
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(attachment).Kind);
        Assert.False(f.IsIdle(far)); // the bytes follow; who maps waits for KERNEL
        f.Run();
        Assert.True(f.IsIdle(far));
    }

    [Fact]
    public void EXP_17_With_the_policy_of_2021_a_pin_always_goes_to_host_memory()
    {
        GpuFixture f = new(new GpuOptions { CopyBlockBytes = 0x400, PinPolicy = GpuPinPolicy.HostMemory });
        GpuBuffer buffer = f.Create();
        Attachment attachment = f.Attach(buffer, f.NewImporter(ImporterKind.PinnedRevocable));
        Assert.Equal((Errno.Success, GpuDomain.System), (f.Pin(attachment), buffer.Placement.Domain));
        Assert.Equal((Errno.Success, 2), (f.Pin(attachment), buffer.PinCount));
        Attachment stays = f.Attach(
            f.Create("stays", storage: StorageKind.Revocable), f.NewImporter(ImporterKind.PinnedRevocable));
        Assert.Equal(Errno.EINVAL, f.Pin(stays));
    }

    [Fact]
    public void A_pin_that_host_memory_has_no_room_for_says_so_and_moves_nothing()
    {
        GpuFixture f = new(systemPages: 1);
        GpuBuffer buffer = f.Create(pages: 2);
        Attachment attachment = f.Attach(buffer, f.NewImporter(ImporterKind.PinnedRevocable));
        attachment.PeerToPeer = false;
        Assert.Equal((Errno.ENOMEM, 0, GpuDomain.Vram), (f.Pin(attachment), buffer.PinCount, buffer.Placement.Domain));
        Assert.Equal((0, 0L), (f.Stats.CopyJobs, f.Stats.Moves));
    }

    [Fact]
    public void EXP_16_In_vram_a_pin_by_or_beside_an_attachment_without_peer_to_peer_is_EINVAL()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        Attachment peer = f.Attach(buffer, f.NewImporter(ImporterKind.PinnedRevocable));
        Assert.Equal(Errno.Success, f.Pin(peer));
        Attachment without = f.Attach(buffer, f.NewImporter(ImporterKind.PinnedRevocable));
        without.PeerToPeer = false;
        Assert.Equal(Errno.EINVAL, f.Pin(without));
        Assert.Equal(Errno.EINVAL, f.Pin(peer));
        Assert.Equal(1, buffer.PinCount);
    }

    [Fact]
    public void A_revocable_buffer_takes_only_importers_that_can_stop_and_a_freed_one_takes_none()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(storage: StorageKind.Revocable);
        Assert.Equal(Errno.EOPNOTSUPP, f.Locked(() => buffer.Shared.TryAttach(f.Nic, new TestPinnedImporter(), out _)));
        TestImporter importer = f.NewImporter();
        f.Free(buffer);
        Assert.Equal(Errno.ENODEV, f.Locked(() => buffer.Shared.TryAttach(f.Nic, importer, out _)));
    }

    [Fact]
    public void Room_is_made_by_evicting_the_least_recently_used()
    {
        GpuFixture f = new();
        GpuBuffer[] buffers = [.. "abcd".Select(n => f.Create($"{n}"))];
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(f.Attach(buffers[0], f.NewImporter())).Kind);
        f.Locked(buffers[1].Touch);
        Assert.Equal(["c", "d", "a", "b"], f.Locked(() => f.Gpu.Buffers.Select(b => b.Shared.Name).ToArray()));
        (Errno errno, IReadOnlyList<MoveOperation> evictions) = MakeRoom(f, 2);
        Assert.Equal((Errno.Success, 2), (errno, evictions.Count));
        Assert.Equal([buffers[2], buffers[3]], evictions.Select(e => e.Buffer));
        Assert.All(evictions, e => Assert.False(e.IsCompleted));
        Assert.Equal(evictions, MakeRoom(f, 2).Evictions);
        f.Run();
        Assert.All(evictions, e => Assert.Equal(MoveState.Moved, e.State));
        Assert.Empty(MakeRoom(f, 2).Evictions);
        Assert.Equal(Errno.Success, f.TryCreate("big", 2, out _));
    }

    [Fact]
    public void Pinned_static_and_unstoppably_mapped_buffers_are_not_evicted_for_others()
    {
        GpuFixture f = new();
        f.Pin(f.Attach(f.Create("pinned"), f.NewImporter(ImporterKind.PinnedRevocable)));
        f.Create("static", storage: StorageKind.Static);
        Attachment unstoppable = f.Attach(f.Create("mapped"), new TestPinnedImporter());
        Assert.Equal(MapOutcomeKind.Mapped, f.Map(unstoppable).Kind);
        GpuBuffer free = f.Create("movable");
        Assert.Equal(Errno.ENOSPC, MakeRoom(f, 2).Errno);
        Assert.Equal(0, f.Stats.CopyJobs);
        Assert.Same(free, Assert.Single(MakeRoom(f, 1).Evictions).Buffer);
    }

    [Fact]
    public void Room_that_system_memory_cannot_pay_for_is_ENOMEM_and_starts_nothing()
    {
        GpuFixture f = new(systemPages: 1);
        f.Create("a", pages: 2);
        f.Create("b", pages: 2);
        Assert.Equal(Errno.ENOMEM, MakeRoom(f, 4).Errno);
        Assert.Equal(0, f.Stats.CopyJobs);
        Assert.Equal(Errno.ENOSPC, MakeRoom(f, 5).Errno);
    }

    [Theory]
    [InlineData(0, 1, 1)]
    [InlineData(3, 1, 1)]
    [InlineData(4096, 0, 1)]
    [InlineData(4096, 1, 0)]
    [InlineData(4096, 1, 65537)]
    public void Options_out_of_range_are_refused_by_name(int granularity, int slots, int block)
    {
        GpuOptions options = new() { GranularityBytes = granularity, CopyRingSlots = slots, CopyBlockBytes = block };
        Assert.Throws<ArgumentException>(options.Validate);
        Assert.Throws<ArgumentException>(() => new GpuFixture(options));
    }

    [Fact]
    public void A_window_that_is_no_multiple_of_the_granularity_is_refused()
    {
        GpuFixture f = new();
        byte[] odd = new byte[0x1800], even = new byte[0x1000];
        Assert.Throws<ArgumentException>(() => f.Locked(
            () => new GpuDevice(f.Host, f.Fabric, f.Function, new GpuOptions(), [odd], [even])));
    }

    private static (Errno Errno, IReadOnlyList<MoveOperation> Evictions) MakeRoom(GpuFixture f, ulong pages)
    {
        using (f.Host.Enter())
        {
            Errno errno = f.Gpu.TryMakeRoom(pages * GpuFixture.Page, out IReadOnlyList<MoveOperation> evictions);
            return (errno, evictions);
        }
    }
}
