using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>NICs whose keys die under traffic, only while the port stands still, or not at all.</summary>
public sealed class RevocationModeTests
{
    private const int Bytes = 1 << 16;

    [Fact]
    public void A_port_that_has_to_stand_still_kills_the_key_between_two_packets_and_others_go_on()
    {
        (TestLink link, QueuePair a, MemoryRegion local) = Make(RegionRevocation.Quiesce);
        TestMemory memory = link.B.Allocate(Bytes), kept = link.B.Allocate(Bytes);
        MemoryRegion region = link.B.Register(memory), other = link.B.Register(kept);
        bool asked = false;
        link.B.Port.AttentionNeeded = () => asked = true;
        RevokeOperation revoke = Revoke(link.B, memory);

        // The key lives until the port has been there, and the owner has no proof.
        Assert.True(asked);
        Assert.Equal((MemoryRegionState.Valid, false), (region.State, revoke.IsCompleted));
        link.Run();
        Assert.Equal((MemoryRegionState.Dead, RetirementGrade.Retired), (region.State, revoke.Proof!.Grade));
        Assert.Equal(1, link.B.Port.Stats.Quiesces);

        Assert.Equal(WorkCompletionStatus.Success, Write(link, a, local, other));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, Write(link, a, local, region));
        Assert.Equal(0, region.BytesPlaced);
        Assert.Null(link.B.Deregister(region));
        Assert.Equal(0, link.B.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_move_waits_for_the_port_and_the_region_is_mapped_again()
    {
        (TestLink link, QueuePair a, MemoryRegion local) = Make(RegionRevocation.Quiesce);
        TestMemory memory = link.B.Allocate(Bytes);
        MemoryRegion region = link.B.Register(memory);
        memory.Invalidate();
        Assert.Equal(MemoryRegionState.Valid, region.State);
        Assert.Equal(MapOutcomeKind.MustWait, link.B.Remap(region).Kind);
        link.Run();
        Assert.Equal(MemoryRegionState.Invalidated, region.State);
        Assert.Equal(MapOutcomeKind.Mapped, link.B.Remap(region).Kind);
        Assert.Equal(WorkCompletionStatus.Success, Write(link, a, local, region));
        Assert.Equal(0, link.B.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_deregistration_in_the_middle_ends_with_the_port_as_well()
    {
        (TestLink link, _, _) = Make(RegionRevocation.Quiesce);
        TestMemory memory = link.B.Allocate(Bytes);
        MemoryRegion region = link.B.Register(memory);
        RevokeOperation revoke = Revoke(link.B, memory);
        Assert.NotNull(link.B.Deregister(region));
        link.Run();
        Assert.Null(link.B.Deregister(region));
        Assert.Equal(RetirementGrade.Retired, revoke.Proof!.Grade);
        Assert.Null(link.B.Device.FindRegion(region.Key));
        Assert.Equal(0, link.B.Host.Checker.ViolationCount);
    }

    [Theory]
    [InlineData(StorageKind.Revocable, ImporterKind.Dynamic, Errno.EOPNOTSUPP)]
    [InlineData(StorageKind.Revocable, ImporterKind.PinnedRevocable, Errno.EOPNOTSUPP)]
    [InlineData(StorageKind.Movable, ImporterKind.Dynamic, Errno.Success)]
    [InlineData(StorageKind.Static, ImporterKind.Dynamic, Errno.Success)]
    public void An_exporter_that_must_be_able_to_revoke_refuses_a_device_that_cannot(
        StorageKind storage, ImporterKind kind, Errno expected)
    {
        (TestLink link, QueuePair a, MemoryRegion local) = Make(RegionRevocation.None);
        TestMemory memory = link.B.Allocate(Bytes, storage);
        Errno errno = link.B.TryRegister(
            memory, new MemoryRegionRequest(0, Bytes, TestNode.Iova, Access, kind), out MemoryRegion? region);
        Assert.Equal(expected, errno);
        if (region is null)
        {
            Assert.Empty(memory.Buffer.Attachments);
            return;
        }

        // It holds the memory in place, and a revoke waits until it is deregistered.
        Assert.Equal(ImporterKind.Pinned, region.Kind);
        RevokeOperation revoke = Revoke(link.B, memory);
        Assert.Equal(WorkCompletionStatus.Success, Write(link, a, local, region));
        Assert.False(revoke.IsCompleted);
        Assert.Null(link.B.Deregister(region));
        Assert.True(revoke.IsCompleted);
    }

    [Theory]
    [InlineData(RegionRevocation.Concurrent, Errno.Success)]
    [InlineData(RegionRevocation.Quiesce, Errno.EOPNOTSUPP)]
    [InlineData(RegionRevocation.None, Errno.EOPNOTSUPP)]
    public void Paging_on_demand_needs_pages_that_can_go_under_traffic(RegionRevocation revocation, Errno expected)
    {
        SpaceRegionFixture f = new(configure: o => o with { Revocation = revocation });
        AddressRange range = f.Map(2);
        foreach (AccessFlags paged in (AccessFlags[])[Access | AccessFlags.OnDemand, AccessFlags.OnDemand])
        {
            Assert.Equal(expected, f.TryRegister(range, paged).Errno);
        }

        Assert.Equal(Errno.Success, f.TryRegister(range, Access).Errno); // pinned, as anywhere
    }

    [Fact]
    public void A_legacy_peer_needs_keys_that_can_die()
    {
        (TestLink link, _, _) = Make(RegionRevocation.None);
        MemoryRegionRequest request =
            new(0, Bytes, TestNode.Iova, Access, ImporterKind.Dynamic) { IsLegacyPeer = true };
        Assert.Equal(Errno.EOPNOTSUPP, link.B.TryRegister(link.B.Allocate(Bytes), request, out _));
    }

    [Theory]
    [InlineData(RegionRevocation.Concurrent)]
    [InlineData(RegionRevocation.Quiesce)]
    public void RDMA_42_A_legacy_peer_hears_of_its_loss_once_by_an_event_and_whoever_is_to_end_it_is_told(
        RegionRevocation revocation)
    {
        (TestLink link, _, _) = Make(revocation);
        TestMemory memory = link.B.Allocate(Bytes);
        List<MemoryRegion> ended = [];
        MemoryRegionRequest request = new(0, Bytes, TestNode.Iova, Access, ImporterKind.Dynamic)
        {
            IsLegacyPeer = true,
            Lost = ended.Add,
        };
        Assert.Equal(Errno.Success, link.B.TryRegister(memory, request, out MemoryRegion? region));
        memory.Invalidate();
        link.Run();
        Revoke(link.B, memory);
        link.Run();

        Assert.Same(region, Assert.Single(ended));
        Assert.True(link.B.Port.PollEvent(out AsyncEvent lost));
        Assert.Equal((AsyncEventType.MemoryRegionLost, region!.Key), (lost.Type, lost.Key));
        Assert.False(link.B.Port.PollEvent(out _));
        Assert.Null(link.B.Deregister(region));
    }

    private const AccessFlags Access = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead;

    private static (TestLink Link, QueuePair A, MemoryRegion Local) Make(RegionRevocation revocation)
    {
        TestLink link = new(configureB: o => o with { Revocation = revocation });
        (QueuePair a, _) = link.Connect();
        return (link, a, link.A.Register(link.A.Allocate(Bytes)));
    }

    private static RevokeOperation Revoke(TestNode node, TestMemory memory)
    {
        using (node.Host.Enter())
        {
            return RevokeOperation.Start(memory.Buffer, new RevokePolicy());
        }
    }

    private static WorkCompletionStatus Write(TestLink link, QueuePair a, MemoryRegion local, MemoryRegion remote)
    {
        Assert.Equal(Errno.Success, a.PostSend(
            new SendWorkRequest
            {
                WrId = 1,
                Opcode = WorkRequestOpcode.RdmaWrite,
                Flags = SendFlags.Signaled,
                RemoteAddress = remote.Iova,
                RKey = remote.Key,
            },
            new Sge(local.Iova, 5000, local.Key)));
        link.Run();
        return Assert.Single(TestNode.Poll(a.SendCompletionQueue)).Status;
    }
}
