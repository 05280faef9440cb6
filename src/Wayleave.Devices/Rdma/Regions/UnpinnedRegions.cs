using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>Regions of the process that this code is in, paged on demand. Host lock held by the caller.</summary>
public static class UnpinnedRegions
{
    /// <summary>What a process can have: an implicit region covers all of it.</summary>
    public const ulong SpaceBytes = 1UL << 47;

    /// <summary>Registers a range, whether or not there is anything.</summary>
    /// <param name="device">The NIC.</param>
    /// <param name="domain">Who may use the key.</param>
    /// <param name="memory">Asked at each access.</param>
    /// <param name="address">Of the first byte.</param>
    /// <param name="request">Its offset means nothing here.</param>
    /// <param name="region">Null unless Success. The caller's until <see cref="TryDeregister"/> is done.</param>
    /// <returns><see cref="Errno.EINVAL"/> for what no region can be.</returns>
    public static Errno TryRegister(
        RdmaDevice device,
        ProtectionDomain domain,
        IUnpinnedMemory memory,
        ulong address,
        in MemoryRegionRequest request,
        out MemoryRegion? region)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(memory);
        device.Host.AssertHeld();
        region = null;
        bool isSane = request.LengthBytes is not 0 and <= SpaceBytes && address <= SpaceBytes - request.LengthBytes
            && AccessRules.IsConsistent(request.Access);
        if (!isSane)
        {
            return Errno.EINVAL;
        }

        Errno errno = device.Keys.TryChoose(request.Key, out uint key);
        if (errno == Errno.Success)
        {
            region = new MemoryRegion(device, domain, key, request with { Offset = 0 });
            region.Backing = new UnpinnedBacking(region, device.Host, memory, address);
            device.Keys.Add(region);
        }

        return errno;
    }

    /// <summary>Whether it is such a region.</summary>
    public static bool IsOne(MemoryRegion region) => region?.Backing is UnpinnedBacking;

    /// <summary>Where the first byte of such a region is.</summary>
    public static ulong AddressOf(MemoryRegion region) => ((UnpinnedBacking)region?.Backing!).Address;

    /// <summary>Ends such a region; its number is free on Success without a fence.</summary>
    /// <param name="device">The NIC.</param>
    /// <param name="region">Of <see cref="TryRegister"/>.</param>
    /// <param name="drain">Not null while the port is inside: call again when it has ended.</param>
    /// <returns><see cref="Errno.EINVAL"/> while a window is bound to it; then nothing changed.</returns>
    public static Errno TryDeregister(RdmaDevice device, MemoryRegion region, out Fence? drain)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.TryDeregisterBacked(region, out drain);
    }
}
