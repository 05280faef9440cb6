using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Nvme;
using Xunit;

namespace Wayleave.Tests.Nvme;

public sealed class NvmeBufferUserTests
{
    private const int Page = NvmeFixture.Page;

    [Theory]
    [InlineData(IommuMode.Off)]
    [InlineData(IommuMode.Strict)]
    public void Blocks_go_from_the_medium_to_VRAM_and_nothing_passes_through_system_memory(IommuMode iommu)
    {
        NvmeFixture f = new(new HostBridge(0, 0) { Iommu = iommu });
        f.Ready();
        GpuBuffer buffer = f.Create(1 << 20);
        NvmeBufferUser user = f.Use(buffer);
        long host = f.Controller.Port.BytesWritten(PeerRoute.HostMemory);

        for (int i = 0; i < 8; i++)
        {
            Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, (ulong)(i * 256), 256, (ulong)i << 17));
        }

        f.Run();
        Assert.Equal(f.Medium[..(1 << 20)], f.BytesOf(buffer));
        Assert.Equal(1 << 20, f.Controller.Port.BytesWritten(PeerRoute.BusAddress));
        Assert.InRange(f.Controller.Port.BytesWritten(PeerRoute.HostMemory) - host, 1, 8 * NvmeCompletion.SizeBytes);
        Assert.Equal(0, f.Controller.Port.BytesWritten(PeerRoute.Staging));
    }

    [Fact]
    public void After_an_eviction_the_next_command_goes_where_the_buffer_is_now()
    {
        NvmeFixture f = new();
        f.Ready();
        GpuBuffer buffer = f.Create(16 * Page);
        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 64, 0));
        f.Run();

        f.Locked(() => f.Gpu.Evict(buffer));
        f.Run();
        Assert.Equal(GpuDomain.System, buffer.Placement.Domain);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 64, 64, 8 * Page));
        f.Run();

        Assert.Equal(f.Medium[..(16 * Page)], f.BytesOf(buffer));
    }

    [Fact]
    public void A_mover_waits_for_the_commands_that_are_under_way()
    {
        NvmeFixture f = new() { HoldsMedium = true };
        f.Ready();
        GpuBuffer buffer = f.Create(16 * Page);
        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 128, 0));
        f.Run();

        MoveOperation move = f.Locked(() => f.Gpu.Evict(buffer));
        f.Run();
        Assert.NotEqual(MoveState.Moved, move.State);

        f.CompleteHeld();
        f.Run();
        Assert.Equal(MoveState.Moved, move.State);
        Assert.Equal(f.Medium[..(16 * Page)], f.BytesOf(buffer));
    }

    [Fact]
    public void A_revoke_stops_a_command_that_is_being_written_and_is_not_proven_before_it_has_ended()
    {
        NvmeFixture f = new();
        f.Ready();
        GpuBuffer buffer = f.Create(64 * Page);
        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 512, 0));
        StepUntilWriting(f, buffer);

        RevokeOperation revoke = f.Locked(() => f.Gpu.Free(buffer, new RevokePolicy()));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        Assert.Equal(1, user.Outstanding);

        f.Run();
        Assert.Equal(RevokeState.Retired, revoke.State);
        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        Assert.Equal(0, user.Outstanding);
        Assert.Equal(Errno.ENODEV, f.Start(user, buffer, NvmeOpcode.Read, 0, 1, 0));
        Assert.True(f.BytesOf(buffer).AsSpan(48 * Page).IndexOfAnyExcept((byte)0) < 0, "the whole command was written");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void No_byte_of_a_command_lands_after_the_proof_and_a_user_that_does_not_wait_is_caught(bool waits)
    {
        NvmeFixture f = new();
        f.Ready();
        GpuBuffer buffer = f.Create(64 * Page);
        NvmeBufferUser user = f.Use(buffer);
        user.WaitsForCommands = waits;
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 512, 0));
        StepUntilWriting(f, buffer);

        RevokeOperation revoke = f.Locked(() => f.Gpu.Free(buffer, new RevokePolicy()));
        int late = 0;
        byte[] before = f.BytesOf(buffer);
        do
        {
            byte[] after = f.BytesOf(buffer);
            late += revoke.State == RevokeState.Retired && !before.AsSpan().SequenceEqual(after) ? 1 : 0;
            before = revoke.State == RevokeState.Retired ? before : after;
        }
        while (f.Step() | f.Locked(f.Driver.Poll));

        Assert.Equal(RevokeState.Retired, revoke.State);
        Assert.Equal(waits, late == 0);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(512)]
    [InlineData(3 * Page + 1)]
    public void A_buffer_that_ends_inside_a_block_is_written_with_zeros_behind_it(int bytes)
    {
        NvmeFixture f = new();
        f.Ready();
        GpuBuffer buffer = f.Create(bytes);
        f.Fill(buffer, 0x5A);
        f.Medium.AsSpan().Fill(0xEE);
        NvmeBufferUser user = f.Use(buffer);
        int blocks = (bytes + 511) / 512;

        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Write, 0, blocks, 0));
        f.Run();

        Assert.True(f.Medium.AsSpan(0, bytes).IndexOfAnyExcept((byte)0x5A) < 0, "the content differs");
        Assert.True(f.Medium.AsSpan(bytes..(blocks * 512)).IndexOfAnyExcept((byte)0) < 0, "what follows is not zero");
    }

    [Fact]
    public void A_dead_medium_keeps_no_memory_and_what_it_reads_later_lands_nowhere()
    {
        NvmeFixture f = new() { HoldsMedium = true };
        f.Ready();
        GpuBuffer buffer = f.Create(16 * Page);
        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 128, 0));
        f.Run();

        f.Locked(() => f.Gpu.Free(buffer, new RevokePolicy()));
        Assert.Equal(16UL * Page, f.Locked(() => f.Gpu.Stats.VramQuarantinedBytes));
        f.Run();
        Assert.Equal(0UL, f.Locked(() => f.Gpu.Stats.VramQuarantinedBytes));
        Assert.Equal(0, user.Outstanding);

        f.CompleteHeld();
        f.Run();
        Assert.True(f.Vram.AsSpan().IndexOfAnyExcept((byte)0) < 0, "an aborted read was written");
    }

    [Fact]
    public void Without_a_path_a_buffer_that_stays_in_VRAM_is_refused_and_one_that_moves_comes_to_system_memory()
    {
        NvmeFixture f = new(arrange: topology =>
        {
            HostBridge bridge = topology.HostBridges[0];
            PciBridge first = new(PciAddress.Parse("00:01.0"), "rp1", PciBridgeKind.RootPort);
            PciBridge second = new(PciAddress.Parse("00:02.0"), "rp2", PciBridgeKind.RootPort);
            topology.Add(first, bridge);
            topology.Add(second, bridge);
            topology.Add(new PciFunction("0000:03:00.0", "gpu0"), first);
            topology.Add(new PciFunction("0000:04:00.0", "nvme0"), second);
        });
        f.Ready();
        GpuBuffer stays = f.Create(16 * Page, StorageKind.Static), buffer = f.Create(16 * Page);
        Assert.Equal(Errno.EBUSY, f.Start(f.Use(stays), stays, NvmeOpcode.Read, 0, 8, 0));

        NvmeBufferUser user = f.Use(buffer);
        Assert.Equal(Errno.EAGAIN, f.Start(user, buffer, NvmeOpcode.Read, 0, 128, 0));
        f.Run();
        Assert.Equal(Errno.Success, f.Start(user, buffer, NvmeOpcode.Read, 0, 128, 0));
        Assert.Equal(GpuDomain.System, f.Locked(() => buffer.Placement.Domain));
        f.Run();
        Assert.Equal(f.Medium[..(16 * Page)], f.BytesOf(buffer));
    }

    [Fact]
    public void What_a_peer_wrote_into_the_memory_buffer_the_drive_writes_from_there()
    {
        NvmeFixture f = new();
        f.Ready();
        PciFunction nic = new("0000:05:00.0", "nic0");
        PciBar bar = f.Controller.Function.Bars[NvmeController.MemoryBufferBar]!;
        DmaAddressList physical = new([new DeviceRange(bar.Range.Start + (8 * Page), 4 * Page)]);
        DmaAddressList? byNic = null;
        DmaAddressList? byDrive = null;
        f.Locked(() =>
        {
            f.Fabric.Plug(nic);
            Assert.Equal(Errno.Success, f.Fabric.TryMap(nic, physical, out byNic));
            Assert.Equal(Errno.Success, f.Fabric.TryMap(f.Controller.Function, physical, out byDrive));
        });
        DmaPort port = new(nic);
        Assert.Equal(Errno.Success, port.TryWrite(byNic!.Entries[0].Start, 4 * Page, out Span<byte> bytes));
        bytes.Fill(0xC7);

        Assert.Equal(NvmeStatus.Success, f.Transfer(NvmeOpcode.Write, byDrive, lba: 800, blocks: 32));

        Assert.Equal(-1, f.Medium.AsSpan(800 * 512, 4 * Page).IndexOfAnyExcept((byte)0xC7));
        Assert.Equal(4 * Page, port.BytesWritten(PeerRoute.BusAddress));
        Assert.Equal(4 * Page, f.Controller.Port.BytesRead(PeerRoute.SameDevice));
    }

    private static void StepUntilWriting(NvmeFixture f, GpuBuffer buffer)
    {
        while (f.BytesOf(buffer).AsSpan(4 * Page).IndexOfAnyExcept((byte)0) < 0)
        {
            Assert.True(f.Step(), "the controller has nothing to do");
        }
    }
}
