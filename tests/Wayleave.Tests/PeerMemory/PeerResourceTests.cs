using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

public sealed class PeerResourceTests
{
    private const ulong Page = ResourceFixture.Page;

    [Fact]
    public void The_table_of_states() => Snapshot.Match(
        TransitionTable.Of<PeerResourceState, PeerResourceEvent>(PeerResource.Next), "PeerResourceTransitions");

    [Fact]
    public void P2P_25_Of_two_handles_on_a_device_the_range_of_a_crashed_owner_returns_when_its_chunks_have_drained()
    {
        ResourceFixture f = new();
        PeerHandleTable a = new(f.Host, "process 1");
        PeerHandleTable b = new(f.Host, "process 2");
        PeerHandle ofA = f.Add("a", 3);
        PeerHandle ofB = f.Add("b", 3, "process 2");
        f.Locked(() => a.TryInstall(ofA, out _));
        f.Locked(() => b.TryInstall(ofB, out _));
        (PeerUser nicA, PeerImport importA) = f.Use(ofA, f.Nic);
        (PeerUser nicB, PeerImport importB) = f.Use(ofB, f.Other);
        PeerChunk chunkA = f.Allocate(importA);
        PeerChunk chunkB = f.Allocate(importB);
        Assert.True(nicA.TryEnter()); // a packet for A is being placed

        f.Locked(a.CloseAll); // A crashes

        Assert.Equal(PeerResourceState.Removing, ofA.Resource.State);
        Assert.Null(f.TakeVram(3));
        nicA.Land(chunkA.Offset, 0xA5);
        nicA.Leave();
        Assert.Equal(PeerResourceState.Returned, ofA.Resource.State);
        Assert.Equal(RetirementGrade.Retired, ofA.Resource.Removal!.Proof!.Grade);
        Assert.False(nicA.TryWrite(chunkA.Offset, 1));
        Assert.NotNull(f.TakeVram(3));
        Assert.True(f.Vram.AsSpan(0, 3 * (int)Page).IndexOfAnyExcept((byte)0) < 0); // cleared for the new owner

        Assert.Equal(PeerResourceState.Lent, ofB.Resource.State);
        Assert.True(nicB.TryWrite(chunkB.Offset, 0x5A));
        Assert.Equal(0, nicB.Invalidations);
        f.Locked(importA.Close); // what is left of A's NIC
        Assert.Equal([ofB.Resource], f.Device.Resources);
    }

    [Fact]
    public void P2P_26_Nothing_is_had_from_a_closed_handle_and_the_range_returns_once()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 3);
        PeerImport import = f.Use(handle, f.Nic).Import;
        PeerChunk chunk = f.Allocate(import);

        f.Remove(handle);

        Assert.Equal(8 * Page, f.Stats.VramFreeBytes);
        Assert.Equal(Errno.ENODEV, f.Locked(() => import.TryAllocate(Page, out _)));
        Assert.Equal(Errno.ENODEV, f.Locked(() => handle.TryImport(f.Nic, new PeerUser(f.Host, f.Nic), out _)));
        Assert.Equal(Errno.ENODEV, f.Locked(() => handle.TryDuplicate("process 2", out _)));
        Assert.Equal(Errno.ENODEV, f.Locked(() => handle.TryRemove(new RevokePolicy(), out _)));
        Assert.Equal(Errno.ENODEV, f.Locked(() => handle.Resource.TryRemove(new RevokePolicy(), out _)));
        f.Locked(handle.Close);
        f.Locked(() => import.Free(chunk));
        f.Locked(import.Close);
        Assert.Equal(8 * Page, f.Stats.VramFreeBytes);
        Assert.Equal(0UL, handle.Resource.AvailableBytes);
    }

    [Fact]
    public void Chunks_are_pages_come_back_and_are_where_the_mapping_says()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 4);
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);

        PeerChunk first = f.Locked(() =>
        {
            Assert.Equal(Errno.EINVAL, import.TryAllocate(0, out _));
            Assert.Equal(Errno.Success, import.TryAllocate(1, out PeerChunk? chunk));
            return chunk!;
        });
        PeerChunk second = f.Allocate(import, 3);
        Assert.Equal((0UL, Page, Page, 3 * Page), (first.Offset, first.LengthBytes, second.Offset, second.LengthBytes));
        Assert.Equal(Errno.ENOMEM, f.Locked(() => import.TryAllocate(1, out _)));

        DmaAddressList where = second.Locate(nic.Mapping);
        Assert.Equal((3 * Page, nic.Mapping.Entries[0].Start + Page), (where.LengthBytes, where.Entries[0].Start));
        Assert.Throws<ArgumentException>(() => second.Locate(first.Locate(nic.Mapping)));

        f.Locked(() => import.Free(first));
        Assert.Equal(Page, handle.Resource.AvailableBytes);
        Assert.Throws<InvalidOperationException>(() => f.Locked(() => import.Free(first)));
        nic.Unmap();
        f.Locked(import.Close);
        Assert.Equal(4 * Page, handle.Resource.AvailableBytes);
        Assert.Equal(Errno.ENODEV, f.Locked(() => import.TryAllocate(1, out _)));
        Assert.Empty(handle.Resource.Imports);
    }

    [Fact]
    public void A_chunk_that_is_freed_with_work_under_way_is_nobodys_until_that_has_ended()
    {
        ResourceFixture f = new();
        PeerImport import = f.Use(f.Add("a", 1), f.Nic).Import;
        PeerChunk chunk = f.Allocate(import);
        Fence work = f.Locked(() => new Timeline(f.Host, "nic0 queue").CreateFence());

        f.Locked(() => import.Free(chunk, work));
        Assert.Equal(Errno.ENOMEM, f.Locked(() => import.TryAllocate(1, out _)));
        f.Locked(() => work.Force(Errno.ETIMEDOUT));
        Assert.Equal(Errno.ENOMEM, f.Locked(() => import.TryAllocate(1, out _)));
        f.Locked(() => work.Signal());
        f.Allocate(import);
    }

    [Fact]
    public void A_resource_is_refused_when_it_is_nothing_too_large_or_nobody_lends()
    {
        ResourceFixture f = new();
        Errno Add(ulong size, string name = "a") =>
            f.Locked(() => PeerResource.TryAdd(f.Host, f.Device, name, size, "process 1", out _));

        Assert.Equal(Errno.EINVAL, Add(0));
        Assert.Equal(Errno.EINVAL, Add(ulong.MaxValue));
        Assert.Equal(Errno.EINVAL, Add(Page, new string((char)0xe4, 16)));
        Assert.Equal(Errno.ENOSPC, Add(9 * Page));
        PeerDevice nobody = PeerDevice.Initialize(f.Fabric.Topology, f.Nic);
        Assert.Equal(
            Errno.EOPNOTSUPP, f.Locked(() => PeerResource.TryAdd(f.Host, nobody, "a", Page, "process 1", out _)));
        Assert.Equal(8 * Page, f.Stats.VramFreeBytes);
        Assert.Throws<InvalidOperationException>(() => f.Device.SetMemoryOwner(f.Gpu));
    }

    [Fact]
    public void A_handle_that_was_sent_keeps_the_resource_when_the_sender_closes()
    {
        ResourceFixture f = new();
        PeerHandleTable sender = new(f.Host, "process 1");
        PeerHandleTable receiver = new(f.Host, "process 2", capacity: 1);
        PeerHandle handle = f.Add("a", 1);
        f.Locked(() =>
        {
            Assert.Equal(Errno.Success, sender.TryInstall(handle, out int number));
            Assert.Equal(Errno.Success, sender.TrySend(number, receiver, out int received));
            Assert.Equal(Errno.EMFILE, sender.TrySend(number, receiver, out _));
            Assert.Equal(Errno.EBADF, sender.TrySend(7, receiver, out _));
            Assert.Equal(Errno.Success, sender.Close(number));
            Assert.Equal(Errno.EBADF, sender.Close(number));
            Assert.Equal(PeerResourceState.Lent, handle.Resource.State);
            Assert.Equal("process 2", Assert.Single(handle.Resource.Handles).Holder);
            Assert.Equal(Errno.Success, receiver.TryGet(received, out _));
            receiver.CloseAll();
        });
        Assert.Equal(PeerResourceState.Returned, handle.Resource.State);
    }

    [Fact]
    public void An_importer_that_does_not_stop_keeps_the_range_in_quarantine_and_the_driver_waiting()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 3);
        PeerUser deaf = new(f.Host, f.Nic) { IsDeaf = true };
        PeerImport import = deaf.Import(handle);
        deaf.Map();

        RevokeOperation removal = f.Remove(handle);
        PeerUnbind unbind = f.Locked(() => f.Device.Unbind(f.Host));
        f.Clock.Advance(TimeSpan.FromSeconds(6));
        f.Locked(() => removal.HandleTimeout(f.Host.Now));

        Assert.Equal(RevokeState.Quarantined, removal.State);
        Assert.Equal(3 * Page, f.Stats.VramQuarantinedBytes);
        Assert.False(unbind.IsCompleted);
        Assert.Equal(["resource a of gpu0"], f.Locked(() => unbind.Holders));

        f.Locked(import.Attachment.UnmapInvalidated);
        Assert.Equal(PeerResourceState.Returned, handle.Resource.State);
        Assert.True(unbind.IsCompleted);
        Assert.Equal(8 * Page, f.Stats.VramFreeBytes);
    }

    [Fact]
    public void A_crash_has_a_deadline_like_any_removal_and_names_who_is_late()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 3);
        PeerUser deaf = new(f.Host, f.Nic) { IsDeaf = true };
        deaf.Import(handle);
        deaf.Map();
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        PeerHandle later = f.Add("b", 1);
        PeerUser second = new(f.Host, f.Other) { IsDeaf = true };
        second.Import(later);
        second.Map();
        Assert.Null(f.Locked(() => f.Device.NextDeadline));

        f.Locked(handle.Close);
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        f.Locked(later.Close);

        Assert.Equal(TimeSpan.FromSeconds(6), f.Locked(() => f.Device.NextDeadline));
        f.Clock.Advance(TimeSpan.FromSeconds(4));
        f.Locked(() => f.Device.HandleTimeout(f.Host.Now));
        RetirementProof proof = handle.Resource.Removal!.Proof!;
        Assert.Equal((QuarantineCause.StillMapped, "nic0 user"), (proof.Cause, proof.Importers[0].Importer));
        Assert.Equal(TimeSpan.FromSeconds(7), f.Locked(() => f.Device.NextDeadline));
        f.Clock.Advance(TimeSpan.FromSeconds(1));
        f.Locked(() => f.Device.HandleTimeout(f.Host.Now));
        Assert.Null(f.Locked(() => f.Device.NextDeadline));
        Assert.Equal(4 * Page, f.Locked(() => f.Gpu.Quarantine.OverdueBytes));
    }

    [Fact]
    public void Unbind_removes_every_resource_and_ends_when_all_have_drained()
    {
        ResourceFixture f = new();
        (PeerUser first, _) = f.Use(f.Add("a", 2), f.Nic);
        (PeerUser second, _) = f.Use(f.Add("b", 2), f.Other);
        f.Add("c", 1);
        Assert.True(first.TryEnter());
        Assert.True(second.TryEnter());

        PeerUnbind unbind = f.Locked(() => f.Device.Unbind(f.Host));

        PeerDevice device = unbind.Device;
        Assert.Equal(["a", "b"], device.Resources.Select(r => r.Name));
        Assert.Equal(
            Errno.ENODEV, f.Locked(() => PeerResource.TryAdd(f.Host, device, "d", Page, "process 1", out _)));
        first.Leave();
        Assert.False(unbind.IsCompleted);
        second.Leave();
        Assert.True(unbind.IsCompleted);
        Assert.Equal((8 * Page, 0), (f.Stats.VramFreeBytes, f.Violations));
    }

    [Fact]
    public void A_device_that_is_pulled_out_takes_its_resources_back()
    {
        ResourceFixture f = new();
        PeerHandle handle = f.Add("a", 2);
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);
        Assert.True(nic.TryEnter());

        f.Locked(() => f.Fabric.Unplug(f.Function));

        Assert.Equal(PeerResourceState.Removing, handle.Resource.State);
        Assert.Equal(Errno.ENODEV, f.Locked(() => import.TryAllocate(Page, out _)));
        nic.Leave();
        Assert.Equal(PeerResourceState.Returned, handle.Resource.State);
    }

    [Fact]
    public void P2P_27_A_provider_that_ends_under_a_mapping_is_a_violation()
    {
        using PeerFixture f = new();
        PeerProvider provider = PeerDevice.FindProvider(f.Host, f.A, PeerFixture.MemoryBar)!;
        DmaAddressList physical = new([provider.Bar.Range]);
        Assert.Equal(Errno.Success, provider.TryMap(f.Fabric, f.B, physical, out DmaAddressList? mapped));

        Assert.True(f.A.PeerDevice!.Unbind(f.Host).IsCompleted);

        Assert.Equal("violation.provider_destroyed_while_mapped", f.Trace.Events[^2].Name);
        provider.Unmap(f.Fabric, f.B, mapped!);
    }

    [Fact]
    public void P2P_27_After_a_revoke_nothing_is_mapped_when_the_provider_ends()
    {
        PoolFixture f = new();
        (PeerUser nic, PeerHandle handle) = f.Lend();
        PeerProvider provider = handle.Resource.Device.Provider(PeerFixture.MemoryBar)!;
        Assert.Equal(1, provider.MappingCount);
        Assert.True(nic.TryEnter());

        PeerUnbind unbind = f.Locked(() => handle.Resource.Device.Unbind(f.Host));

        Assert.False(unbind.IsCompleted);
        nic.Leave();
        Assert.True(unbind.IsCompleted);
        Assert.Equal((0, 0), (provider.MappingCount, f.Violations));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Handles_that_take_from_one_range_are_caught(bool ownRange)
    {
        ResourceFixture f = new();
        f.Device.GivesEachHandleItsOwnRange = ownRange;
        PeerHandle ofA = f.Add("a", 4);
        PeerHandle ofB = f.Add("b", 4, "process 2");
        (PeerUser nicB, PeerImport importB) = f.Use(ofB, f.Other);
        PeerChunk chunk = f.Allocate(importB);

        f.Locked(ofA.Close);
        GpuBuffer? taken = f.TakeVram(4);

        // B's memory went to a new owner, and B was stopped with A.
        bool isLate = taken is null || !nicB.TryWrite(chunk.Offset, 0xBB)
            || f.Vram.AsSpan((int)(taken.Placement.Addresses.Entries[0].Start.Value
                - f.Function.Bars[0]!.Range.Start.Value), 4 * (int)Page).Contains((byte)0xBB);
        Assert.Equal(ownRange, !isLate);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_range_that_returns_before_the_drain_is_caught(bool waits)
    {
        ResourceFixture f = new(new GpuOptions { WaitsForProof = waits });
        PeerHandle handle = f.Add("a", 8);
        (PeerUser nic, PeerImport import) = f.Use(handle, f.Nic);
        PeerChunk chunk = f.Allocate(import);
        Assert.True(nic.TryEnter());

        f.Locked(handle.Close);
        GpuBuffer? taken = f.TakeVram(8);
        nic.Land(chunk.Offset, 0xEE);

        bool isLate = taken is not null && f.Vram.Contains((byte)0xEE);
        Assert.Equal(waits, !isLate);
        nic.Leave();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_pool_that_takes_its_range_back_before_the_drain_is_caught(bool waits)
    {
        PoolFixture f = new(waits);
        (PeerUser nic, PeerHandle handle) = f.Lend();
        Assert.True(nic.TryEnter());

        f.Locked(handle.Close);

        Assert.Equal(waits ? 0UL : Page, f.Locked(() => f.Pool.AvailableBytes));
        nic.Leave();
        Assert.Equal(Page, f.Locked(() => f.Pool.AvailableBytes));
    }

    /// <summary>A pool of one page, whose owner lends it.</summary>
    private sealed class PoolFixture
    {
        private readonly PciFunction _owner;
        private readonly PciFunction _client;
        private readonly TraceLog _trace;

        public PoolFixture(bool waitsForProof = true)
        {
            using PeerFixture f = new();
            (Host, Pool, _owner, _client, _trace) = (f.Host, f.Add(Page, 0), f.A, f.B, f.Trace);
            _ = new PeerPoolLender(Host, f.Fabric, Pool) { WaitsForProof = waitsForProof };
        }

        public HostContext Host { get; }

        public PeerPool Pool { get; }

        public int Violations =>
            _trace.Events.Count(e => e.Name.StartsWith("violation.", StringComparison.Ordinal));

        public T Locked<T>(Func<T> action)
        {
            using (Host.Enter())
            {
                return action();
            }
        }

        public void Locked(Action action)
        {
            using (Host.Enter())
            {
                action();
            }
        }

        public (PeerUser User, PeerHandle Handle) Lend()
        {
            PeerHandle? handle = null;
            Assert.Equal(
                Errno.Success,
                Locked(() => PeerResource.TryAdd(Host, _owner.PeerDevice!, "a", Page, "process 1", out handle)));
            PeerUser user = new(Host, _client);
            user.Import(handle!);
            user.Map();
            return (user, handle!);
        }
    }
}
