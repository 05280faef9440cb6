using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>
/// What of a process's memory to register (<c>ibv_reg_mr</c>). With <see cref="AccessFlags.OnDemand"/> nothing is
/// pinned; otherwise every page is, for long.
/// </summary>
/// <param name="Space">Whose memory.</param>
/// <param name="Addresses">
/// Any alignment. From 0 and of the greatest length, on demand: all there is and will be (an implicit region).
/// </param>
/// <param name="Iova">How peers name the first byte; the same offset within a page.</param>
/// <param name="Access">Who may do what.</param>
/// <param name="Key">The key's number, for replays; null takes a random one.</param>
public sealed record SpaceRegionRequest(
    AddressSpace Space, AddressRange Addresses, ulong Iova, AccessFlags Access, uint? Key = null)
{
    /// <summary>
    /// What happens when somebody wants pinned pages. On demand nothing is pinned, and nothing happens.
    /// </summary>
    public PinnedMemoryPolicy Policy { get; init; }

    /// <summary>
    /// Ends the process, with the reason; runs once, after the host lock was released. Needed, and only used, with
    /// <see cref="PinnedMemoryPolicy.EndProcess"/>.
    /// </summary>
    public Action<string>? EndProcess { get; init; }

    /// <summary>All of the address space, whatever is mapped there later.</summary>
    public bool IsImplicit =>
        IsOnDemand && Addresses.Start == 0 && Addresses.LengthBytes == ulong.MaxValue;

    public bool IsOnDemand => (Access & AccessFlags.OnDemand) != 0;

    /// <summary>Whether the pages must be writable (<c>ib_access_writable</c>).</summary>
    public bool IsWritable => RegionRules.IsWritable(Access);
}

/// <summary>The rules of registration that need no device (linux.md 5.1 to 5.3, 5.6). Pure.</summary>
public static class RegionRules
{
    /// <summary>Whether what is behind a region with those rights must be writable.</summary>
    public static bool IsWritable(AccessFlags access) => (access & (AccessFlags.LocalWrite
        | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic | AccessFlags.WindowBind)) != 0;

    /// <summary>
    /// The arguments of the one call that registers either (<c>UVERBS_METHOD_REG_MR</c>): an address of the process, or
    /// a file descriptor of a dma-buf and an offset in it.
    /// </summary>
    /// <returns><see cref="Errno.EINVAL"/> for both, for half of one, and for neither.</returns>
    public static Errno CheckArguments(ulong? address, int? descriptor, ulong? descriptorOffset) =>
        (address, descriptor, descriptorOffset) switch
        {
            ({ }, null, null) => Errno.Success,
            (null, { } number, { }) => number < 0 ? Errno.EBADF : Errno.Success,
            _ => Errno.EINVAL,
        };

    /// <summary>What is to change of a region, before anything that it names is looked at.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for nothing; <see cref="Errno.EOPNOTSUPP"/> for what there is not.</returns>
    public static Errno CheckChange(RegionChange change)
    {
        const RegionChange All = RegionChange.Translation | RegionChange.Domain | RegionChange.Access;
        return change == RegionChange.None ? Errno.EINVAL
            : (change & ~All) != 0 ? Errno.EOPNOTSUPP
            : Errno.Success;
    }

    /// <summary>Checks that come before any page is looked at, in the kernel's order.</summary>
    internal static Errno Check(SpaceRegionRequest request, RdmaDeviceOptions options)
    {
        AccessFlags access = request.Access;
        if (!AccessRules.IsConsistent(access) || (access & AccessRules.Refused(RegistrationKind.OwnMemory)) != 0)
        {
            return Errno.EINVAL;
        }

        // Pages go one by one under traffic: a device that has to stand still first, or cannot, has no page faults.
        bool canPage = options.PagesOnDemand && options.Revocation == RegionRevocation.Concurrent;
        bool lacks = (request.IsOnDemand && !canPage)
            || ((access & AccessFlags.FlushPersistent) != 0 && options.Persist is null);
        if (lacks)
        {
            return Errno.EOPNOTSUPP;
        }

        if (request.Policy == PinnedMemoryPolicy.EndProcess && request.EndProcess is null)
        {
            return Errno.EINVAL;
        }

        AddressRange range = request.Addresses;
        if (request.IsImplicit)
        {
            return request.Iova == 0 ? Errno.Success : Errno.EINVAL;
        }

        bool isSane = range.LengthBytes != 0 && range.Start <= ulong.MaxValue - range.LengthBytes
            && range.Start % PageFrame.SizeBytes == request.Iova % PageFrame.SizeBytes
            && request.Iova <= ulong.MaxValue - (range.LengthBytes - 1)
            && ((access & AccessFlags.ZeroBased) == 0 || request.Iova == 0)
            && ((access & AccessFlags.HugePages) == 0 || request.IsOnDemand);
        return isSane ? Errno.Success : Errno.EINVAL;
    }
}
