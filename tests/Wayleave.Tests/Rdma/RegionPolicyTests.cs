using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>What happens when somebody wants pages that a region has pinned, and what a cache makes again.</summary>
public sealed class RegionPolicyTests
{
    private const int Page = SpaceRegionFixture.Page;

    private readonly SpaceRegionFixture _f = new();

    [Theory]
    [InlineData(PinnedMemoryPolicy.Keep)]
    [InlineData(PinnedMemoryPolicy.Refuse)]
    public void An_unmap_of_pinned_pages_is_refused_or_leaves_them_to_the_region(PinnedMemoryPolicy policy)
    {
        AddressRange range = _f.Map(4);
        MemoryRegion region = Register(range, policy);
        AddressRange middle = new(range.Start + Page, Page);
        Errno expected = policy == PinnedMemoryPolicy.Refuse ? Errno.EBUSY : Errno.Success;

        Assert.Equal(expected, Run(_f.Space.Discard(middle)));
        Assert.Equal(expected, Run(_f.Space.Move(new AddressRange(range.Start + (2 * Page), Page), 0x7000_0000)));
        Assert.Equal(expected, Run(_f.Space.Unmap(middle)));
        Assert.Equal(
            WorkCompletionStatus.Success,
            _f.Transfer(WorkRequestOpcode.RdmaWrite, region, range.Start, (int)range.LengthBytes));

        Assert.Equal(Errno.Success, _f.Deregister(region));
        Assert.Equal(Errno.Success, Run(_f.Space.Unmap(range))); // nobody holds it any more
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void The_end_of_a_process_asks_no_policy()
    {
        AddressRange range = _f.Map(4);
        MemoryRegion region = Register(range, PinnedMemoryPolicy.Refuse);
        Assert.Equal(Errno.Success, Run(_f.Space.Exit()));
        Assert.Equal(Errno.Success, _f.Deregister(region));
        Assert.Equal(_f.Memory.PageCount, _f.Memory.FreePages);
    }

    [Fact]
    public void A_process_that_unmaps_what_peers_reach_is_ended_if_the_policy_says_so()
    {
        AddressRange range = _f.Map(4);
        List<string> reasons = [];
        MemoryRegion region = Register(range, PinnedMemoryPolicy.EndProcess, reasons.Add);

        Assert.Equal(Errno.Success, Run(_f.Space.Protect(range, SpaceProtection.Read)));
        Assert.Empty(reasons);
        Assert.Equal(Errno.Success, Run(_f.Space.Unmap(new AddressRange(range.Start, Page))));
        Assert.Equal(Errno.Success, Run(_f.Space.Unmap(new AddressRange(range.Start + Page, Page))));
        Assert.StartsWith("it unmapped ", Assert.Single(reasons), StringComparison.Ordinal);

        // What the edge does about it: the process ends, and its regions with it.
        Assert.Equal(Errno.Success, Run(_f.Space.Exit()));
        Assert.Equal(Errno.Success, _f.Deregister(region));
        Assert.Equal(_f.Memory.PageCount, _f.Memory.FreePages);
        Assert.Single(reasons);
    }

    [Theory]
    [InlineData(PinnedMemoryPolicy.Keep)]
    [InlineData(PinnedMemoryPolicy.Refuse)]
    [InlineData(PinnedMemoryPolicy.EndProcess)]
    public void Pressure_passes_pinned_pages_over_and_ends_the_largest_process_only_if_the_policy_says_so(
        PinnedMemoryPolicy policy)
    {
        int pages = (int)_f.Memory.FreePages;
        AddressRange small = _f.Map(2), large = _f.Map(pages - 6);
        List<string> reasons = [];
        MemoryRegion[] regions = [Register(small, policy, reasons.Add), Register(large, policy, reasons.Add)];
        AddressSpace other = Other();
        AddressRange wanted = MapIn(other, 80); // more than what is free and the swap store hold

        Assert.Equal(Errno.ENOMEM, Run(other.Write(wanted.Start, new byte[(int)wanted.LengthBytes])));
        Assert.All(regions, r => Assert.Equal(MemoryRegionState.Valid, r.State));
        if (policy != PinnedMemoryPolicy.EndProcess)
        {
            Assert.Empty(reasons);
            return;
        }

        Assert.Contains($"holds {pages - 6} pages", Assert.Single(reasons), StringComparison.Ordinal);
        Assert.Equal(1, _f.Memory.Stats.LastResorts);
        Run(_f.Space.Exit());
        Assert.All(regions, r => Assert.Equal(Errno.Success, _f.Deregister(r)));
        Assert.Equal(Errno.Success, Run(other.Write(wanted.Start, new byte[(int)wanted.LengthBytes])));
    }

    [Fact]
    public void A_process_without_an_end_cannot_be_ended()
    {
        AddressRange range = _f.Map(1);
        using (_f.Host.Enter())
        {
            RegionRegistration registration = RegionRegistration.Start(
                _f.Node.Device,
                _f.Node.Domain,
                new SpaceRegionRequest(_f.Space, range, range.Start, SpaceRegionFixture.Writable)
                {
                    Policy = PinnedMemoryPolicy.EndProcess,
                });
            Assert.Equal(Errno.EINVAL, registration.Errno);
        }
    }

    [Fact]
    public void A_cache_makes_no_new_list_when_the_pages_are_where_they_were()
    {
        AddressRange range = _f.Map(8);
        RegionCache cache = new(_f.Node.Device, _f.Node.Domain, _f.Space, SpaceRegionFixture.Writable);
        MemoryRegion first = Take(cache, range);
        Return(cache, first);

        // Marked by a notifier, and still there.
        Run(_f.Space.Protect(range, SpaceProtection.Read));
        Run(_f.Space.Protect(range, SpaceProtection.ReadWrite));
        MemoryRegion second = Take(cache, range);
        Assert.Same(first, second);
        Assert.Equal((1L, 1L, 1L), (cache.Stale, cache.Kept, cache.ListsBuilt));
        Assert.Equal(
            WorkCompletionStatus.Success,
            _f.Transfer(WorkRequestOpcode.RdmaWrite, second, range.Start, (int)range.LengthBytes));
        Return(cache, second);

        // The same addresses, other memory: the old list would lead to pages that the process has not any more.
        Run(_f.Space.Unmap(range));
        Assert.Equal(range, _f.Map(8, address: range.Start));
        _f.Fill(range, 7);
        MemoryRegion third = Take(cache, range);
        Assert.NotSame(first, third);
        Assert.Equal((2L, 1L, 2L), (cache.Stale, cache.Kept, cache.ListsBuilt));
        Assert.Equal(MemoryRegionState.Dead, first.State);

        // A change while it is in use: whoever has it goes on, and the next one gets the same.
        Run(_f.Space.Protect(range, SpaceProtection.ReadWrite));
        Assert.Same(third, Take(cache, range));
        Return(cache, third);
        Return(cache, third);
        using (_f.Host.Enter())
        {
            cache.Clear();
        }

        Run(_f.Space.Exit());
        Assert.Equal(_f.Memory.PageCount, _f.Memory.FreePages);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_range_that_may_not_be_written_any_more_is_not_kept()
    {
        AddressRange range = _f.Map(4);
        RegionCache cache = new(_f.Node.Device, _f.Node.Domain, _f.Space, SpaceRegionFixture.Writable);
        Return(cache, Take(cache, range));
        Run(_f.Space.Protect(range, SpaceProtection.Read));
        using (_f.Host.Enter())
        {
            Assert.Equal(Errno.EFAULT, cache.TryTake(range, out _));
            Assert.Equal(0, cache.Count);
        }
    }

    private MemoryRegion Register(AddressRange range, PinnedMemoryPolicy policy, Action<string>? end = null)
    {
        using (_f.Host.Enter())
        {
            RegionRegistration registration = RegionRegistration.Start(
                _f.Node.Device,
                _f.Node.Domain,
                new SpaceRegionRequest(_f.Space, range, range.Start, SpaceRegionFixture.Writable)
                {
                    Policy = policy,
                    EndProcess = end,
                });
            Assert.Equal((true, Errno.Success), (registration.IsCompleted, registration.Errno));
            return registration.Region!;
        }
    }

    private Errno Run(SpaceOperation operation)
    {
        using (_f.Host.Enter())
        {
            Assert.True(operation.Proceed(), $"waits at '{operation.Next}'");
        }

        return operation.Errno;
    }

    private AddressSpace Other()
    {
        using (_f.Host.Enter())
        {
            return new AddressSpace(_f.Memory, "other");
        }
    }

    private AddressRange MapIn(AddressSpace space, int pages)
    {
        MapOperation map = space.Map(new RegionRequest { LengthBytes = (ulong)(pages * Page) });
        Assert.Equal(Errno.Success, Run(map));
        return map.Addresses;
    }

    private MemoryRegion Take(RegionCache cache, AddressRange range)
    {
        using (_f.Host.Enter())
        {
            Assert.Equal(Errno.Success, cache.TryTake(range, out MemoryRegion? region));
            return region!;
        }
    }

    private void Return(RegionCache cache, MemoryRegion region)
    {
        using (_f.Host.Enter())
        {
            cache.Return(region);
        }
    }
}
