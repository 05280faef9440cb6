using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Regions over the memory of a process: pinned, or paged on demand.</summary>
public sealed class SpaceRegionTests
{
    private const int Page = SpaceRegionFixture.Page;
    private const AccessFlags Writable = SpaceRegionFixture.Writable;
    private const AccessFlags OnDemand = Writable | AccessFlags.OnDemand;

    [Fact]
    public void RDMA_02_Of_own_memory_a_hint_that_is_not_known_is_ignored_and_another_bit_EINVAL()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);

        Assert.Equal(Errno.EINVAL, f.TryRegister(range, Writable | (AccessFlags)(1 << 10)).Errno);
        Assert.Equal(Errno.Success, f.TryRegister(range, Writable | (AccessFlags)(1 << 25)).Errno);
        Assert.Equal(Errno.EINVAL, f.TryRegister(range, AccessFlags.RemoteWrite).Errno);
        Assert.Equal(Errno.EINVAL, f.TryRegister(range, Writable, iova: range.Start + 1).Errno);
        Assert.Equal(Errno.EINVAL, f.TryRegister(range with { LengthBytes = 0 }, Writable).Errno);
    }

    [Fact]
    public void RDMA_03_A_device_that_cannot_page_refuses_to_with_EOPNOTSUPP()
    {
        SpaceRegionFixture f = new(configure: o => o with { PagesOnDemand = false });
        AddressRange range = f.Map(1);

        Assert.Equal(Errno.EOPNOTSUPP, f.TryRegister(range, OnDemand).Errno);
        Assert.Equal(Errno.Success, f.TryRegister(range, Writable).Errno);
    }

    [Fact]
    public void RDMA_04_A_region_over_the_limit_is_ENOMEM_and_nothing_is_charged()
    {
        SpaceRegionFixture f = new(limits: new PinLimits(2 * Page));
        AddressRange range = f.Map(3);

        Assert.Equal(Errno.ENOMEM, f.TryRegister(range, Writable).Errno);
        Assert.Equal(0, f.Space.Pins.Pages);
        MemoryRegion two = f.Register(range with { LengthBytes = 2 * Page }, Writable);
        Assert.Equal(2, f.Space.Pins.Pages);
        Assert.Equal(Errno.Success, f.Deregister(two));
        Assert.Equal(0, f.Space.Pins.Pages);
        Assert.Equal(Errno.Success, f.TryRegister(range, OnDemand).Errno); // nothing is pinned
    }

    [Fact]
    public void RDMA_05_A_region_over_pages_of_a_BAR_is_EREMOTEIO()
    {
        SpaceRegionFixture f = new();
        PciFunction drive = new("0000:05:00.0", "nvme0");
        PeerUserMapping mapping;
        using (f.Host.Enter())
        {
            PciBar bar = f.Node.Fabric.AddBar(drive, 0, PciBarKind.Memory, 16 * Page);
            f.Node.Fabric.AddWindow(new byte[16 * Page], bar, 0);
            Assert.Equal(Errno.Success, PeerDevice.TryAddResource(
                f.Host, f.Node.Fabric.Topology, drive, 0, 0, 0, out PeerPool? pool));
            Assert.Equal(Errno.Success, pool!.TryMmap(
                "process", f.Node.Fabric.Processor, Page, isShared: true, offset: 0, out PeerUserMapping? mapped));
            mapping = mapped!;
        }

        AddressRange range = f.Done(f.Space.Map(new RegionRequest
        {
            LengthBytes = Page,
            Kind = RegionKind.PeerMemory,
            Peer = mapping,
            IsShared = true,
        })).Addresses;

        Assert.Equal(Errno.EREMOTEIO, f.TryRegister(range, Writable).Errno);
        Assert.Equal(0, f.Space.Pins.Pages);
    }

    [Theory]
    [InlineData(0x1000ul, null, null, Errno.Success)]
    [InlineData(null, 7, 0ul, Errno.Success)]
    [InlineData(0x1000ul, 7, 0ul, Errno.EINVAL)]
    [InlineData(0x1000ul, 7, null, Errno.EINVAL)]
    [InlineData(null, 7, null, Errno.EINVAL)]
    [InlineData(null, null, 0ul, Errno.EINVAL)]
    [InlineData(null, null, null, Errno.EINVAL)]
    [InlineData(null, -1, 0ul, Errno.EBADF)]
    public void RDMA_09_A_registration_names_an_address_or_a_descriptor_with_an_offset(
        ulong? address, int? descriptor, ulong? offset, Errno expected) =>
        Assert.Equal(expected, RegionRules.CheckArguments(address, descriptor, offset));

    [Fact]
    public void A_pinned_region_stays_where_it_is_while_the_process_unmaps_and_memory_is_short()
    {
        SpaceRegionFixture f = new(pages: 8);
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, Writable);
        f.Done(f.Memory.Reclaim(8));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start + 10, 1, 2, 3));
        Assert.Equal([1, 2, 3], f.Load(range.Start + 10, 3));

        f.Done(f.Space.Unmap(range));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start + 20, 4));
        Assert.Equal([1, 2, 3], f.ReadBack(region, range.Start + 10, 3)); // nobody else has got the page
        Assert.Equal(6, f.Memory.FreePages);
        Assert.Equal(Errno.Success, f.Deregister(region));
        Assert.Equal(8, f.Memory.FreePages);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(region, range.Start, 1));
    }

    [Fact]
    public void RDMA_25_After_an_unmap_and_a_map_of_the_same_address_a_peer_reads_what_is_there_now_by_the_same_key()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(4);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);
        Assert.Equal([1, 1], f.ReadBack(region, range.Start + (2 * Page) - 1, 2));
        AddressRange middle = new(range.Start + Page, 2 * Page);

        f.Done(f.Space.Unmap(middle));
        f.Map(2, address: middle.Start);
        f.Fill(middle, 9);

        Assert.Equal([1, 9], f.ReadBack(region, middle.Start - 1, 2));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, middle.End - 1, 5, 6));
        Assert.Equal([5, 6], f.Load(middle.End - 1, 2));
        Assert.Equal(0, f.Space.Pins.Pages);
    }

    [Fact]
    public void RDMA_26_A_hole_is_an_access_error_once_its_fault_has_failed()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        MemoryRegion region = f.Register(range, OnDemand);
        f.Done(f.Space.Unmap(new AddressRange(range.Start + Page, Page)));

        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 1));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(region, range.Start + Page, 1));
        Assert.Equal(QueuePairState.Error, f.B.State);
    }

    // Ends of the next answers that go ahead look at no memory that is paged on demand: they would take the refusal
    // that the READ at the head waits for, and nobody would ever hear of it.
    [Fact]
    public void A_hole_is_refused_also_when_answers_may_go_ahead()
    {
        SpaceRegionFixture f = new(
            attributes: q => q with { Profile = PeerProfile.Default with { FirstsAhead = 7 } });
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);
        Assert.Equal([1], f.ReadBack(region, range.Start, 1));
        f.Done(f.Space.Unmap(new AddressRange(range.Start + Page, Page)));
        for (int i = 0; i < 4; i++)
        {
            f.Post(WorkRequestOpcode.RdmaRead, region, range.Start, 2 * Page);
        }

        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Finish());
    }

    [Fact]
    public void RDMA_27_An_implicit_region_begins_at_0_for_peers_too_and_reaches_what_is_mapped_later()
    {
        SpaceRegionFixture f = new();
        AddressRange all = new(0, ulong.MaxValue);
        Assert.Equal(Errno.EINVAL, f.TryRegister(all, OnDemand, iova: Page).Errno);
        Assert.Equal(Errno.EINVAL, f.TryRegister(all, Writable, iova: 0).Errno);

        MemoryRegion region = f.Register(all, OnDemand);
        AddressRange low = f.Map(1, address: 0x10_0000);
        AddressRange high = f.Map(1);
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, low.Start + 5, 1));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, high.Start + 6, 2));
        Assert.Equal((1, 2), (f.Load(low.Start + 5, 1)[0], f.Load(high.Start + 6, 1)[0]));

        f.Done(f.Space.Unmap(low));
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(region, low.Start, 1));
    }

    [Fact]
    public void RDMA_28_Advice_is_checked_first_and_what_fails_later_is_silent_unless_it_is_waited_for()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        MemoryRegion region = f.Register(range, AccessFlags.RemoteRead | AccessFlags.OnDemand);
        MemoryRegion pinned = f.Register(range, Writable);
        ProtectionDomain other = f.Node.Device.CreateProtectionDomain();
        Sge whole = new(range.Start, 2 * Page, region.Key);

        Assert.Equal(Errno.EPERM, Advise(f, AdviceKind.PrefetchWrite, whole));
        Assert.Equal(Errno.EPERM, Advise(f, AdviceKind.Prefetch, whole, other));
        Assert.Equal(Errno.ENOENT, Advise(f, AdviceKind.Prefetch, whole with { LKey = 0xABCDEF00 }));
        Assert.Equal(Errno.EINVAL, Advise(f, AdviceKind.Prefetch, whole with { LKey = pinned.Key }));
        Assert.Equal(Errno.EINVAL, Advise(f, AdviceKind.Prefetch, whole with { Address = range.Start + Page }));

        f.Done(f.Space.Unmap(range with { LengthBytes = Page }));
        Assert.Equal(Errno.Success, Advise(f, AdviceKind.Prefetch, whole));
        Errno? outcome = null;
        Assert.Equal(Errno.Success, Advise(f, AdviceKind.Prefetch, whole, completed: e => outcome = e));
        Assert.Equal(Errno.EFAULT, outcome);
    }

    [Fact]
    public void RDMA_29_Advice_without_faults_maps_what_is_in_memory_and_nothing_else()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(4);
        MemoryRegion region = f.Register(range, OnDemand);
        f.Fill(new AddressRange(range.Start + Page, Page), 7);
        OnDemandBacking backing = (OnDemandBacking)region.Backing!;
        Assert.Equal(0, backing.MappedCount);
        Sge whole = new(range.Start, 4 * Page, region.Key);

        Assert.Equal(Errno.Success, Advise(f, AdviceKind.PrefetchNoFault, whole, completed: _ => { }));
        Assert.Equal(1, backing.MappedCount);
        Assert.Equal(31, f.Memory.FreePages);

        Assert.Equal(Errno.Success, Advise(f, AdviceKind.PrefetchWrite, whole, completed: _ => { }));
        Assert.Equal((4, 28L), (backing.MappedCount, f.Memory.FreePages));
        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 1));
        Assert.Equal(0, f.ServeFaults());
    }

    [Fact]
    public void RDMA_30_A_WRITE_to_an_absent_page_is_told_to_come_again_and_ends_well()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        MemoryRegion region = f.Register(range, OnDemand);

        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 1, 2));

        Assert.Contains(f.Link.Log, l => l.StartsWith("B RC_ACKNOWLEDGE", StringComparison.Ordinal)
            && l.Contains(" 2c ", StringComparison.Ordinal)); // RNR NAK, timer 12
        Assert.Equal([1, 2], f.Load(range.Start, 2));
    }

    [Fact]
    public void RDMA_30_Without_retries_an_absent_page_ends_the_request()
    {
        SpaceRegionFixture f = new(attributes: a => a with { RnrRetry = 0 });
        AddressRange range = f.Map(1);
        MemoryRegion region = f.Register(range, OnDemand);

        Assert.Equal(WorkCompletionStatus.RnrRetryExceeded, f.Write(region, range.Start, 1));
    }

    [Fact]
    public void A_page_that_is_read_only_for_now_is_faulted_for_a_peers_write()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 3);
        AddressSpace child = f.Done(f.Space.Fork("child")).Child!;
        MemoryRegion region = f.Register(range, OnDemand);
        Assert.Equal([3], f.ReadBack(region, range.Start, 1));

        Assert.Equal(WorkCompletionStatus.Success, f.Write(region, range.Start, 8));

        byte[] childs = new byte[1];
        f.Done(child.Read(range.Start, childs));
        Assert.Equal((8, 3), (f.Load(range.Start, 1)[0], childs[0]));
    }

    [Fact]
    public void Reclaim_takes_pages_of_a_region_that_pages_and_a_peer_gets_them_back()
    {
        SpaceRegionFixture f = new(pages: 8);
        AddressRange range = f.Map(4);
        f.Fill(range, 6);
        MemoryRegion region = f.Register(range, OnDemand);
        Assert.Equal([6], f.ReadBack(region, range.Start, 1));

        f.Done(f.Memory.Reclaim(4));

        Assert.Equal((0, 8L), (((OnDemandBacking)region.Backing!).MappedCount, f.Memory.FreePages));
        Assert.Equal([6, 6], f.ReadBack(region, range.Start + Page - 1, 2));
    }

    [Fact]
    public void A_packet_inside_is_waited_for_before_its_page_goes()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);
        Core.Buffers.Translation inside = region.Current!;
        Assert.True(inside.Gate.TryEnter());
        ChangeOperation unmap = f.Space.Unmap(range);
        using (f.Host.Enter())
        {
            Assert.False(unmap.Proceed());
        }

        Assert.NotSame(inside, region.Current);
        inside.Gate.Exit();
        f.Done(unmap);
        Assert.Equal(32, f.Memory.FreePages);
        Assert.Empty(f.Host.Checker.Violations);
    }

    [Fact]
    public void A_packet_inside_an_older_list_is_waited_for_by_whoever_takes_another_page_of_it()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);
        Core.Buffers.Translation inside = region.Current!;
        Assert.True(inside.Gate.TryEnter());
        ChangeOperation first = f.Space.Discard(range with { LengthBytes = Page });
        ChangeOperation second = f.Space.Discard(new AddressRange(range.Start + Page, Page));
        ChangeOperation again = f.Space.Discard(range with { LengthBytes = Page });
        using (f.Host.Enter())
        {
            Assert.False(first.Proceed());
            Assert.False(second.Proceed());
            Assert.False(again.Proceed());
        }

        inside.Gate.Exit();
        f.Done(first);
        f.Done(second);
        f.Done(again);
        Assert.Equal(32, f.Memory.FreePages);
    }

    [Fact]
    public void A_region_that_pages_and_is_deregistered_with_a_packet_inside_lets_no_page_go_until_that_has_left()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);
        Core.Buffers.Translation inside = region.Current!;
        Assert.True(inside.Gate.TryEnter());
        ChangeOperation unmap = f.Space.Unmap(range);
        using (f.Host.Enter())
        {
            Assert.Equal(Errno.Success, RegionRegistration.TryDeregister(f.Node.Device, region, out Fence? drain));
            Assert.False(drain!.HasEnded);
            Assert.False(unmap.Proceed());
        }

        inside.Gate.Exit();
        f.Done(unmap);
        Assert.Equal(Errno.Success, f.Deregister(region));
        Assert.Equal((32L, 0), (f.Memory.FreePages, f.Space.SubscriptionCount));
    }

    [Fact]
    public void A_process_that_ends_takes_its_memory_from_regions_and_later_access_is_an_error()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        MemoryRegion region = f.Register(range, OnDemand);

        f.Done(f.Space.Exit());

        Assert.Equal(32, f.Memory.FreePages);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, f.Write(region, range.Start, 1));
        Assert.Equal(Errno.Success, f.Deregister(region));
        Assert.Equal(Errno.EINVAL, f.TryRegister(range, OnDemand).Errno);
    }

    [Fact]
    public void A_region_that_is_deregistered_with_a_packet_inside_keeps_its_pins_until_that_has_left()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        MemoryRegion region = f.Register(range, Writable);
        Assert.True(region.Current!.Gate.TryEnter());
        Core.Buffers.Translation inside = region.Current!;
        using (f.Host.Enter())
        {
            Assert.Equal(Errno.Success, RegionRegistration.TryDeregister(f.Node.Device, region, out Fence? drain));
            Assert.Equal((false, 1L), (drain!.HasEnded, f.Space.Pins.Pages));
        }

        inside.Gate.Exit();
        Assert.Equal(Errno.Success, f.Deregister(region));
        Assert.Equal(0, f.Space.Pins.Pages);
        Assert.Null(f.Node.Device.FindRegion(region.Key));
    }

    private static Errno Advise(
        SpaceRegionFixture f,
        AdviceKind kind,
        Sge range,
        ProtectionDomain? domain = null,
        Action<Errno>? completed = null)
    {
        using (f.Host.Enter())
        {
            return RegionAdvice.Advise(f.Node.Device, domain ?? f.Node.Domain, kind, [range], completed);
        }
    }
}
