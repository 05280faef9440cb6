using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Gpu;

/// <summary>A BAR of two pages before eight pages of VRAM.</summary>
public sealed class HiddenVramTests
{
    private const ulong Page = GpuFixture.Page;

    private readonly GpuFixture _f =
        new(new GpuOptions { CopyBlockBytes = 0x400, VisibleBytes = 2 * Page }, vramPages: 8);

    [Fact]
    public void The_BAR_shows_a_part_and_the_rest_is_the_devices_own()
    {
        Assert.Equal((2 * Page, 6 * Page), (_f.Stats.VramTotalBytes, _f.Stats.HiddenVramTotalBytes));
        GpuBuffer hidden = CreateHidden();
        Assert.Equal(5 * Page, _f.Stats.HiddenVramFreeBytes);

        // Its own engine cleared it; nobody else gets an address for it, and a guess finds nothing.
        Assert.All(_f.Bytes(hidden).ToArray(), b => Assert.Equal(0, b));
        DeviceAddress address = hidden.Placement.Addresses.Entries[0].Start;
        Assert.Equal(Errno.EFAULT, new DmaPort(_f.Nic).TryRead(address, 1, out _));
        Assert.Equal(Errno.EFAULT, new DmaPort(_f.Fabric.Processor).TryRead(address, 1, out _));
        Assert.Equal(
            Errno.EREMOTEIO, _f.Locked(() => _f.Fabric.TryMap(_f.Nic, hidden.Placement.Addresses, out _)));
    }

    [Fact]
    public void A_peer_that_maps_it_gets_it_behind_the_BAR_and_waits_for_the_bytes()
    {
        GpuBuffer buffer = CreateHidden();
        _f.Bytes(buffer)[7] = 0x77;
        Attachment nic = _f.Attach(buffer, _f.NewImporter());

        MapOutcome outcome = _f.Map(nic);

        Assert.Equal(GpuDomain.Vram, buffer.Placement.Domain);
        Assert.False(_f.IsIdle(buffer));
        _f.Run();
        Assert.Equal(
            Errno.Success,
            new DmaPort(_f.Nic).TryRead(outcome.Addresses!.Entries[0].Start + 7, 1, out ReadOnlySpan<byte> bytes));
        Assert.Equal(0x77, bytes[0]);
        Assert.Equal(6 * Page, _f.Stats.HiddenVramFreeBytes);
    }

    [Fact]
    public void When_the_visible_part_is_full_it_comes_to_host_memory()
    {
        GpuBuffer buffer = CreateHidden();
        _f.Create("full", pages: 2);

        Assert.Equal(MapOutcomeKind.Mapped, _f.Map(_f.Attach(buffer, _f.NewImporter())).Kind);

        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
    }

    [Fact]
    public void A_peer_without_a_way_to_VRAM_gets_it_in_host_memory()
    {
        GpuBuffer buffer = CreateHidden();
        Attachment nic = _f.Attach(buffer, _f.NewImporter());
        nic.PeerToPeer = false;

        Assert.Equal(MapOutcomeKind.Mapped, _f.Map(nic).Kind);

        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
    }

    [Theory]
    [InlineData(StorageKind.Static)]
    [InlineData(StorageKind.Revocable)]
    public void What_cannot_move_is_refused(StorageKind storage)
    {
        GpuBuffer buffer = _f.Create("a", storage: storage, domain: GpuDomain.HiddenVram);
        Attachment nic = _f.Attach(buffer, _f.NewImporter());

        Assert.Equal(Errno.EBUSY, _f.Map(nic).Errno);
        Assert.Equal(Errno.EINVAL, _f.Pin(nic));
        Assert.Equal(
            Errno.EBUSY, _f.Locked(() => buffer.Shared.TryBeginCpuAccess(DmaDirection.Bidirectional, out _)));
        Assert.Equal(GpuDomain.HiddenVram, buffer.Placement.Domain);
    }

    [Fact]
    public void A_pin_brings_it_to_where_everybody_who_is_attached_reaches_it()
    {
        GpuBuffer forPeers = CreateHidden("peers");
        Assert.Equal(Errno.Success, _f.Pin(_f.Attach(forPeers, new TestPinnedImporter())));
        Assert.Equal((GpuDomain.Vram, 1), (forPeers.Placement.Domain, forPeers.PinCount));

        GpuBuffer forAll = CreateHidden("all");
        Attachment pinned = _f.Attach(forAll, new TestPinnedImporter());
        _f.Attach(forAll, null); // a static importer takes no peer addresses
        Assert.Equal(Errno.Success, _f.Pin(pinned));
        Assert.Equal(GpuDomain.System, forAll.Placement.Domain);
    }

    [Fact]
    public void A_processor_that_only_writes_needs_it_out_of_there_too()
    {
        GpuBuffer buffer = CreateHidden();

        Assert.Equal(
            Errno.Success, _f.Locked(() => buffer.Shared.TryBeginCpuAccess(DmaDirection.ToDevice, out _)));

        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
    }

    [Fact]
    public void The_owner_moves_it_as_it_likes()
    {
        GpuBuffer buffer = CreateHidden();
        _f.Bytes(buffer)[1] = 0x11;
        foreach (GpuDomain target in (GpuDomain[])[GpuDomain.System, GpuDomain.HiddenVram, GpuDomain.Vram])
        {
            _f.Locked(() => _f.Gpu.Move(buffer, target));
            _f.Run();
            Assert.Equal((target, 0x11), (buffer.Placement.Domain, _f.Bytes(buffer)[1]));
        }

        _f.Free(buffer);
        Assert.Equal((2 * Page, 6 * Page), (_f.Stats.VramFreeBytes, _f.Stats.HiddenVramFreeBytes));
    }

    [Fact]
    public void A_BAR_that_the_function_comes_with_decides()
    {
        PciFabric fabric = new();
        PciFunction function = new("0000:05:00.0", "gpu5");
        HostContext host = new(new VirtualClock());
        using HostContext.Scope scope = host.Enter();
        fabric.AddBar(function, GpuDevice.VramBar, PciBarKind.Memory, Page);

        GpuDevice gpu = new(host, fabric, function, new GpuOptions(), [new byte[3 * Page]], [new byte[Page]]);

        Assert.Equal((Page, 2 * Page), (gpu.Stats.VramTotalBytes, gpu.Stats.HiddenVramTotalBytes));
        Assert.Throws<ArgumentException>(new GpuOptions { VisibleBytes = 3 * Page }.Validate);
        Assert.Throws<ArgumentException>(new GpuOptions { VisibleBytes = Page / 2 }.Validate);
    }

    private GpuBuffer CreateHidden(string name = "a") => _f.Create(name, domain: GpuDomain.HiddenVram);
}
