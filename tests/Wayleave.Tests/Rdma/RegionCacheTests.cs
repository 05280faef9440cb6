using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Who keeps a cached registration, and until when.</summary>
public sealed class RegionCacheTests
{
    private const int Page = SpaceRegionFixture.Page;

    [Fact]
    public void A_registration_that_two_use_and_whose_range_has_changed_ends_with_the_last_of_them()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 1);
        RegionCache cache = Make(f);
        MemoryRegion first = Take(f, cache, range);
        Assert.Same(first, Take(f, cache, range));
        f.Done(f.Space.Discard(range));
        MemoryRegion other = Take(f, cache, range);
        Assert.NotSame(first, other);

        Return(f, cache, first);
        Assert.Equal([1], f.ReadBack(first, range.Start, 1)); // the second user still has it
        Return(f, cache, first);
        Assert.Null(f.Node.Device.FindRegion(first.Key));
        Assert.Throws<ArgumentException>(() => Return(f, cache, first));
        Assert.Equal([0], f.ReadBack(other, range.Start, 1));
    }

    [Fact]
    public void Pages_that_nobody_uses_are_free_soon_after_their_range_is_unmapped()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(2);
        RegionCache cache = Make(f);
        MemoryRegion region = Take(f, cache, range);
        Return(f, cache, region);
        Assert.Equal((2L, 1), (f.Space.Pins.Pages, cache.UnusedCount));

        f.Done(f.Space.Unmap(range with { LengthBytes = Page }));

        Assert.Equal((0L, 0), (f.Space.Pins.Pages, cache.Count));
        Assert.Null(f.Node.Device.FindRegion(region.Key));
        Assert.Equal(f.Memory.PageCount, f.Memory.FreePages + 1); // the page that is still mapped
    }

    [Fact]
    public void What_is_used_when_its_range_is_unmapped_stays_until_it_is_returned()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        f.Fill(range, 5);
        RegionCache cache = Make(f);
        MemoryRegion region = Take(f, cache, range);
        f.Done(f.Space.Unmap(range));
        Assert.Equal([5], f.ReadBack(region, range.Start, 1));
        Return(f, cache, region);
        Assert.Equal((0L, 0), (f.Space.Pins.Pages, cache.Count));
    }

    [Fact]
    public void A_client_at_its_limit_pins_again_what_it_does_not_use_any_more()
    {
        SpaceRegionFixture f = new(limits: new PinLimits(2 * Page));
        AddressRange range = f.Map(4);
        RegionCache cache = Make(f);
        AddressRange half = range with { LengthBytes = 2 * Page };
        MemoryRegion first = Take(f, cache, half);
        AddressRange rest = new(range.Start + (2 * Page), 2 * Page);
        using (f.Host.Enter())
        {
            Assert.Equal(Errno.ENOMEM, cache.TryTake(rest, out _)); // it is in use
            cache.Return(first);
            Assert.Equal(Errno.Success, cache.TryTake(rest, out MemoryRegion? second, out RegionOrigin origin));
            Assert.Equal((RegionOrigin.Made, 1), (origin, cache.Count));
            Assert.Null(f.Node.Device.FindRegion(first.Key));
            cache.Return(second!);
            Assert.Null(cache.Clear());
        }

        Assert.Equal(0, f.Space.Pins.Pages);
    }

    [Fact]
    public void Where_a_region_is_from_is_said()
    {
        SpaceRegionFixture f = new();
        AddressRange range = f.Map(1);
        RegionCache cache = Make(f);
        List<RegionOrigin> origins = [];
        for (int i = 0; i < 4; i++)
        {
            using (f.Host.Enter())
            {
                Assert.Equal(Errno.Success, cache.TryTake(range, out MemoryRegion? region, out RegionOrigin origin));
                origins.Add(origin);
                cache.Return(region!);
            }

            if (i == 1)
            {
                f.Done(f.Space.Protect(range, SpaceProtection.ReadWrite));
            }
        }

        Assert.Equal([RegionOrigin.Made, RegionOrigin.Found, RegionOrigin.Kept, RegionOrigin.Found], origins);
    }

    private static RegionCache Make(SpaceRegionFixture f) =>
        new(f.Node.Device, f.Node.Domain, f.Space, SpaceRegionFixture.Writable);

    private static MemoryRegion Take(SpaceRegionFixture f, RegionCache cache, AddressRange range)
    {
        using (f.Host.Enter())
        {
            Assert.Equal(Errno.Success, cache.TryTake(range, out MemoryRegion? region));
            return region!;
        }
    }

    private static void Return(SpaceRegionFixture f, RegionCache cache, MemoryRegion region)
    {
        using (f.Host.Enter())
        {
            cache.Return(region);
        }
    }
}
