using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>What is about to happen to memory (<c>enum ibv_advise_mr_advice</c>, same numbers).</summary>
public enum AdviceKind
{
    /// <summary>It will be read: pages come in, and into reach.</summary>
    Prefetch = 0,

    /// <summary>It will be written.</summary>
    PrefetchWrite = 1,

    /// <summary>What is in memory comes into reach; nothing is faulted in.</summary>
    PrefetchNoFault = 2,
}

/// <summary>Prefetches parts of regions that are paged on demand (<c>ibv_advise_mr</c>).</summary>
public static class RegionAdvice
{
    /// <summary>
    /// Starts to prefetch. Host lock held by the caller.
    /// </summary>
    /// <param name="device">The NIC.</param>
    /// <param name="domain">Whose regions.</param>
    /// <param name="kind">What for.</param>
    /// <param name="ranges">By local key; each inside its region.</param>
    /// <param name="completed">
    /// With it this is synchronous (<c>IBV_ADVISE_MR_FLAG_FLUSH</c>): it runs once, after the host lock was released,
    /// with the first error or 0. Without it nobody hears of errors.
    /// </param>
    /// <returns>
    /// <see cref="Errno.ENOENT"/> for a key that names nothing, <see cref="Errno.EINVAL"/> for a region that is not
    /// paged on demand or a range outside it, <see cref="Errno.EPERM"/> for one of another domain and for a write
    /// prefetch of what may only be read. Then nothing was started.
    /// </returns>
    public static Errno Advise(
        RdmaDevice device,
        ProtectionDomain domain,
        AdviceKind kind,
        IReadOnlyList<Sge> ranges,
        Action<Errno>? completed = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(ranges);
        device.Host.AssertHeld();
        foreach (Sge range in ranges)
        {
            Errno errno = Check(device, domain, kind, range);
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        int pending = 1;
        Errno first = Errno.Success;
        void End(Errno errno)
        {
            first = first == Errno.Success ? errno : first;
            if (--pending == 0 && completed is not null)
            {
                device.Host.Defer(() => completed(first));
            }
        }

        foreach (Sge range in ranges)
        {
            pending++;
            MemoryRegion region = device.FindRegion(range.LKey)!;
            OnDemandBacking backing = (OnDemandBacking)region.Backing!;
            backing.Page(RequestFor(region, backing, kind, range), End);
        }

        End(Errno.Success);
        return Errno.Success;
    }

    private static Errno Check(RdmaDevice device, ProtectionDomain domain, AdviceKind kind, in Sge range)
    {
        if (device.FindRegion(range.LKey) is not { } region)
        {
            return Errno.ENOENT;
        }

        bool isWrite = kind == AdviceKind.PrefetchWrite;
        if (!ReferenceEquals(region.Domain, domain) || (isWrite && !RegionRules.IsWritable(region.Access)))
        {
            return Errno.EPERM;
        }

        return region is { Backing: OnDemandBacking, State: not MemoryRegionState.Dead }
            && region.Permits(domain, AccessFlags.None, range.Address, range.LengthBytes)
            ? Errno.Success
            : Errno.EINVAL;
    }

    private static PagingRequest RequestFor(
        MemoryRegion region, OnDemandBacking backing, AdviceKind kind, in Sge range)
    {
        ulong start = backing.AddressOf(range.Address - region.Iova);
        const ulong Mask = PageFrame.SizeBytes - 1;
        ulong first = start & ~Mask;
        AddressRange pages = new(first, ((start + range.LengthBytes + Mask) & ~Mask) - first);
        return new PagingRequest(
            pages, Ahead: 0, kind == AdviceKind.PrefetchWrite, Faults: kind != AdviceKind.PrefetchNoFault);
    }
}
