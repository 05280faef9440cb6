using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

public sealed class ReregistrationTests
{
    private const int Page = SpaceRegionFixture.Page;
    private const AccessFlags Writable = SpaceRegionFixture.Writable;

    [Fact]
    public void RDMA_21_No_change_is_EINVAL_and_one_that_does_not_exist_EOPNOTSUPP()
    {
        SpaceRegionFixture f = new();
        MemoryRegion region = f.Register(f.Map(1), Writable);

        Assert.Equal(Errno.EINVAL, Change(f, region, new(RegionChange.None)).Errno);
        Assert.Equal(Errno.EOPNOTSUPP, Change(f, region, new((RegionChange)8)).Errno);
        Assert.Equal(Errno.EINVAL, Change(f, region, new(RegionChange.Access, Access: AccessFlags.RemoteWrite)).Errno);
        Assert.Equal(MemoryRegionState.Valid, region.State);
    }

    [Fact]
    public void RDMA_22_A_right_to_write_on_pages_pinned_to_be_read_is_EACCES_and_allowed_with_other_memory()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        AddressRange one = range with { LengthBytes = Page };
        MemoryRegion region = f.Register(one, SpaceRegionFixture.Readable);

        Assert.Equal(Errno.EACCES, Change(f, region, new(RegionChange.Access, Access: Writable)).Errno);
        Assert.Equal([1], f.ReadBack(region, one.Start, 1));
        AddressRange other = new(range.Start + Page, Page);
        RegionReregistration changed = Change(f, region, new(
            RegionChange.Access | RegionChange.Translation, Access: Writable,
            Memory: new SpaceRegionRequest(f.Space, other, other.Start, default)));

        Assert.Equal((Errno.Success, region.Key), (changed.Errno, changed.Region.Key));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(changed.Region, other.Start, 9));
        Assert.Equal((1, 9), (f.Load(one.Start, 1)[0], f.Load(other.Start, 1)[0]));
        Assert.Equal(1, f.Space.Pins.Pages);
        Assert.Equal(Errno.Success, f.Deregister(changed.Region));
        Assert.Equal(0, f.Space.Pins.Pages);
    }

    [Fact]
    public void RDMA_23_A_region_of_a_buffer_that_was_revoked_lives_again_only_with_memory_of_a_process()
    {
        SpaceRegionFixture f = new();
        TestMemory memory = f.Node.Allocate(Page);
        MemoryRegion region = f.Node.Register(memory, kind: ImporterKind.PinnedRevocable);
        using (f.Host.Enter())
        {
            RevokeOperation.Start(memory.Buffer, new RevokePolicy());
        }

        Assert.Equal(MemoryRegionState.Dead, region.State);
        Assert.Equal(
            Errno.EINVAL, Change(f, region, new(RegionChange.Access, Access: SpaceRegionFixture.Readable)).Errno);
        AddressRange range = f.Map(1);
        RegionReregistration changed = Change(f, region, new(
            RegionChange.Translation, Memory: new SpaceRegionRequest(f.Space, range, range.Start, default)));

        Assert.Equal((Errno.Success, region.Key), (changed.Errno, changed.Region.Key));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(changed.Region, range.Start, 4));
        Assert.Equal(4, f.Load(range.Start, 1)[0]);
        Assert.Empty(memory.Buffer.Attachments);
    }

    [Fact]
    public void RDMA_24_The_same_domain_again_changes_nothing()
    {
        SpaceRegionFixture f = new();
        MemoryRegion region = f.Register(f.Map(1), Writable);

        RegionReregistration changed = Change(f, region, new(RegionChange.Domain, f.Node.Domain));

        Assert.Equal(Errno.Success, changed.Errno);
        Assert.Same(region, changed.Region);
        Assert.Same(region, f.Node.Device.FindRegion(region.Key));
    }

    [Fact]
    public void In_another_domain_the_key_is_refused_to_the_old_one_and_the_pages_stay_pinned()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        MemoryRegion region = f.Register(range, Writable);
        IReadOnlyList<PageFrame> pages = ((PinnedBacking)region.Backing!).Pages.Frames;

        RegionReregistration changed =
            Change(f, region, new(RegionChange.Domain, f.Node.Device.CreateProtectionDomain()));

        Assert.Equal((Errno.Success, MemoryRegionState.Dead), (changed.Errno, region.State));
        Assert.Same(pages, ((PinnedBacking)changed.Region.Backing!).Pages.Frames);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(changed.Region, range.Start, 1));
        Assert.Equal(Errno.Success, f.Deregister(changed.Region));
        Assert.Equal(32, f.Memory.FreePages + 1);
    }

    [Fact]
    public void A_region_that_pages_or_that_is_over_a_buffer_changes_no_rights_alone()
    {
        SpaceRegionFixture f = new();
        MemoryRegion paged = f.Register(f.Map(1), Writable | AccessFlags.OnDemand);
        MemoryRegion shared = f.Node.Register(f.Node.Allocate(Page));

        RegionChangeRequest readOnly = new(RegionChange.Access, Access: SpaceRegionFixture.Readable);
        Assert.Equal(Errno.EOPNOTSUPP, Change(f, paged, readOnly).Errno);
        Assert.Equal(Errno.EOPNOTSUPP, Change(f, shared, readOnly).Errno);
    }

    [Fact]
    public void A_change_of_memory_that_fails_leaves_the_region_as_it_was()
    {
        SpaceRegionFixture f = new(limits: new PinLimits(Page));
        AddressRange range = f.Map(1);
        MemoryRegion region = f.Register(range, Writable);

        Assert.Equal(Errno.ENOMEM, Change(f, region, new(
            RegionChange.Translation, Memory: new SpaceRegionRequest(f.Space, range, range.Start, default))).Errno);
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 1));
    }

    [Theory]
    [InlineData(RegionChange.Domain)]
    [InlineData(RegionChange.Access)]
    [InlineData(RegionChange.Translation)]
    public void A_region_that_a_window_is_bound_to_is_not_changed(RegionChange change)
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        MemoryRegion region = f.Register(range, Writable | AccessFlags.WindowBind);
        MemoryWindow window = Bind(f, region, range);
        RegionChangeRequest request = new(
            change,
            f.Node.Device.CreateProtectionDomain(),
            SpaceRegionFixture.Readable,
            new SpaceRegionRequest(f.Space, range, range.Start, default));

        Assert.Equal(Errno.EBUSY, Change(f, region, request).Errno);
        Assert.Equal((MemoryRegionState.Valid, 2L), (region.State, f.Space.Pins.Pages));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 3));

        f.Node.Device.DeallocateWindow(window);
        Assert.Equal(Errno.Success, Change(f, region, request).Errno);
    }

    [Fact]
    public void The_old_memory_of_a_changed_legacy_peer_may_move_and_nobody_is_told_of_a_loss()
    {
        SpaceRegionFixture f = new();
        TestMemory memory = f.Node.Allocate(Page);
        int lost = 0;
        MemoryRegionRequest legacy = new(0, Page, TestNode.Iova, Writable, ImporterKind.Dynamic)
        {
            IsLegacyPeer = true,
            Lost = _ => lost++,
        };
        Assert.Equal(Errno.Success, f.Node.TryRegister(memory, legacy, out MemoryRegion? region));
        AddressRange range = f.Map(1);
        AcquireTicket mover;
        using (f.Host.Enter())
        {
            mover = new AcquireTicket(f.Host, "mover");
            Assert.Equal(LockOutcomeKind.Acquired, memory.Buffer.Reservation.TryLock(mover).Kind);
        }

        RegionReregistration changed = Change(f, region!, new(
            RegionChange.Translation, Memory: new SpaceRegionRequest(f.Space, range, range.Start, default)));
        Assert.Equal(Errno.Success, changed.Errno);
        using (f.Host.Enter())
        {
            memory.Buffer.InvalidateMappings(mover);
            memory.Buffer.Reservation.Unlock(mover);
        }

        Assert.Equal((0, MemoryRegionState.Valid), (lost, changed.Region.State));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(changed.Region, range.Start, 1));
        Assert.Empty(memory.Buffer.Attachments);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void RDMA_42_A_legacy_peers_key_dies_when_the_owner_moves_or_frees_the_memory_and_deregisters_well(
        bool isMoved)
    {
        SpaceRegionFixture f = new();
        TestMemory memory = f.Node.Allocate(Page);
        MemoryRegionRequest request =
            new(0, Page, TestNode.Iova, Writable, ImporterKind.Dynamic) { IsLegacyPeer = true };
        Assert.Equal(Errno.Success, f.Node.TryRegister(memory, request, out MemoryRegion? region));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region!, TestNode.Iova, 1));
        Assert.Equal(0, memory.Pins);

        if (isMoved)
        {
            memory.Move();
        }
        else
        {
            using (f.Host.Enter())
            {
                RevokeOperation.Start(memory.Buffer, new RevokePolicy());
            }
        }

        Assert.Equal(MemoryRegionState.Dead, region!.State);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(region, TestNode.Iova, 2));
        Assert.Equal(1, memory.At(0, 0));
        Assert.Null(f.Node.Deregister(region));
        Assert.False(f.Space.IsDead);
    }

    [Fact]
    public void A_cached_registration_is_found_again_until_the_process_changes_the_mapping()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        RegionCache cache = MakeCache(f);
        MemoryRegion first = Take(f, cache, range);
        Locked(f, () => cache.Return(first));
        Assert.Same(first, Take(f, cache, range));
        Locked(f, () => cache.Return(first));

        f.Done(f.Space.Unmap(range));
        f.Map(2, address: range.Start);
        f.Fill(range, 2);
        MemoryRegion second = Take(f, cache, range);

        Assert.NotSame(first, second);
        Assert.Equal((1L, 2L, 1L), (cache.Hits, cache.Misses, cache.Stale));
        Assert.Null(f.Node.Device.FindRegion(first.Key));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(second, range.Start, 7));
        Assert.Equal([7, 2], f.Load(range.Start, 2));
        Locked(f, () =>
        {
            cache.Return(second);
            cache.Clear();
        });
        Assert.Equal((0L, 0), (f.Space.Pins.Pages, cache.Count));
    }

    [Fact]
    public void A_cached_registration_that_went_stale_in_use_serves_its_user_and_then_ends()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        RegionCache cache = MakeCache(f);
        MemoryRegion first = Take(f, cache, range);
        f.Done(f.Space.Discard(range));
        MemoryRegion second = Take(f, cache, range);

        Assert.NotSame(first, second);
        Assert.Equal([1], f.ReadBack(first, range.Start, 1)); // the pages that it pinned
        Assert.Equal([0], f.ReadBack(second, range.Start, 1));
        Locked(f, () => cache.Return(first));
        Assert.Null(f.Node.Device.FindRegion(first.Key));
        Assert.Equal(1, f.Space.Pins.Pages);
    }

    [Fact]
    public void A_cache_that_is_full_lets_the_registration_go_that_was_used_longest_ago()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(3);
        RegionCache cache = MakeCache(f, unusedMax: 2);
        MemoryRegion[] regions = [.. Enumerable.Range(0, 3).Select(
            i => Take(f, cache, new AddressRange(range.Start + (ulong)(i * Page), Page)))];
        Locked(f, () => Array.ForEach(regions, cache.Return));

        Assert.Equal(2, cache.Count);
        Assert.Null(f.Node.Device.FindRegion(regions[0].Key));
    }

    private static MemoryWindow Bind(SpaceRegionFixture f, MemoryRegion region, AddressRange range)
    {
        MemoryWindow window = f.Node.AllocateWindow(MemoryWindowType.Type1);
        WindowBind bind = new(region.Key, range.Start, range.LengthBytes, AccessFlags.RemoteRead);
        Assert.Equal(Errno.Success, f.B.PostBind(window, bind, 1));
        f.Link.Run();
        Assert.True(window.IsBound);
        return window;
    }

    private static RegionReregistration Change(SpaceRegionFixture f, MemoryRegion region, RegionChangeRequest request)
    {
        using (f.Host.Enter())
        {
            RegionReregistration change = RegionReregistration.Start(f.Node.Device, region, request);
            Assert.True(change.IsCompleted);
            return change;
        }
    }

    private static RegionCache MakeCache(SpaceRegionFixture f, int unusedMax = 16) =>
        new(f.Node.Device, f.Node.Domain, f.Space, Writable, unusedMax);

    private static MemoryRegion Take(SpaceRegionFixture f, RegionCache cache, AddressRange range)
    {
        using (f.Host.Enter())
        {
            Assert.Equal(Errno.Success, cache.TryTake(range, out MemoryRegion? region));
            return region!;
        }
    }

    private static void Locked(SpaceRegionFixture f, Action action)
    {
        using (f.Host.Enter())
        {
            action();
        }
    }
}
