using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Imports;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs.Entries;

/// <summary>Protection domains, regions, windows and address handles. Results are errno numbers.</summary>
internal static unsafe class MemoryEntries
{
    [UnmanagedCallersOnly(EntryPoint = "wlv_alloc_pd")]
    private static int AllocateDomain(nint context, nint* handle) => Control.Run(() =>
    {
        VerbsContext owner = NativeHandle.Get<VerbsContext>(context);
        *handle = NativeHandle.Make(new VerbsDomain(owner, owner.Device.Machine.CreateProtectionDomain()));
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_dealloc_pd")]
    private static int DeallocateDomain(nint domain)
    {
        if (NativeHandle.Get<VerbsDomain>(domain).IsUsed)
        {
            return (int)Errno.EBUSY;
        }

        NativeHandle.Free(domain);
        return 0;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_reg_mr")]
    private static int Register(
        nint domain, ulong address, ulong length, ulong iova, uint access, nint* handle, uint* key) => Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        Errno errno = owner.Device.Memory.TryRegister(
            owner.Domain, address, length, iova, (AccessFlags)access, out MemoryRegion? region);
        if (errno == Errno.Success)
        {
            owner.Hold();
            *handle = NativeHandle.Make(new VerbsRegion(owner, region!));
            *key = region!.Key;
        }

        return errno;
    });

    /// <summary>Of a descriptor that a host's broker gave; it stays the caller's.</summary>
    [UnmanagedCallersOnly(EntryPoint = "wlv_reg_import")]
    private static int RegisterImport(
        nint domain, int descriptor, ulong offset, ulong length, ulong iova, uint access, nint* handle, uint* key) =>
        Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        Errno errno = HostBuffer.TryOpen(owner.Device, descriptor, out HostBuffer? buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        MemoryRegionRequest request = new(
            offset, length, iova, (AccessFlags)access & ~AccessRules.OptionalFlags, ImporterKind.Dynamic);
        errno = owner.Device.Memory.TryRegister(owner.Domain, buffer!.Shared, request, out MemoryRegion? region);
        if (errno != Errno.Success)
        {
            buffer.DisposeUnused();
            return errno;
        }

        owner.Hold();
        *handle = NativeHandle.Make(new VerbsRegion(owner, region!, buffer));
        *key = region!.Key;
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_rereg_mr")]
    private static int Reregister(
        nint handle, nint domain, ulong address, ulong length, int keepsPlace, uint access) => Control.Run(() =>
    {
        VerbsRegion region = NativeHandle.Get<VerbsRegion>(handle);
        VerbsDomain next = NativeHandle.Get<VerbsDomain>(domain);
        if (next.Device != region.Domain.Device)
        {
            return Errno.EINVAL;
        }

        if (region.Region.Registration != RegistrationKind.OwnMemory || UnpinnedRegions.IsOne(region.Region))
        {
            return Errno.EOPNOTSUPP;
        }

        Errno errno = next.Device.Memory.TryReregister(
            region.Region,
            next.Domain,
            address,
            length,
            keepsPlace != 0 ? region.Region.Iova : address,
            (AccessFlags)access,
            out MemoryRegion? made);
        if (errno == Errno.Success)
        {
            next.Hold();
            region.Domain.Release();
            region.Become(next, made!);
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_dereg_mr")]
    private static int Deregister(nint handle) => Control.Run(() =>
    {
        VerbsRegion region = NativeHandle.Get<VerbsRegion>(handle);
        UserSpace memory = region.Domain.Device.Memory;
        Errno errno = UnpinnedRegions.IsOne(region.Region)
            ? memory.TryDeregisterOnDemand(region.Region)
            : memory.TryDeregister(region.Region);
        if (errno == Errno.Success)
        {
            region.Source?.Dispose();
            region.Domain.Release();
            NativeHandle.Free(handle);
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_advise_mr")]
    private static int Advise(nint domain, uint advice, int waits, ibv_sge* ranges, uint count) => Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        bool isWrite = (AdviceKind)advice == AdviceKind.PrefetchWrite;
        bool populates = (AdviceKind)advice != AdviceKind.PrefetchNoFault;
        Errno first = Errno.Success;
        foreach (ref readonly Sge range in WorkLists.Pieces(ranges, (int)count))
        {
            Errno errno = owner.Device.Memory.TryAdvise(owner.Domain, range, isWrite, populates);
            if (errno != Errno.Success && (errno != Errno.EFAULT || waits != 0))
            {
                first = first == Errno.Success ? errno : first;
            }
        }

        return first;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_alloc_mw")]
    private static int AllocateWindow(nint domain, uint type, nint* handle, uint* key) => Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        Errno errno = Errno.EINVAL;
        MemoryWindow? window = null;
        owner.Device.WithToken(() => errno = owner.Device.Machine.TryAllocateWindow(
            owner.Domain, (MemoryWindowType)type, out window));
        if (errno == Errno.Success)
        {
            owner.Hold();
            *handle = NativeHandle.Make(new VerbsWindow(owner, window!));
            *key = window!.Key;
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_dealloc_mw")]
    private static int DeallocateWindow(nint handle) => Control.Run(() =>
    {
        VerbsWindow window = NativeHandle.Get<VerbsWindow>(handle);
        window.Domain.Device.WithToken(() => window.Domain.Device.Machine.DeallocateWindow(window.Window));
        window.Domain.Release();
        NativeHandle.Free(handle);
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_next_mw_key")]
    private static uint NextWindowKey(nint handle)
    {
        uint key = NativeHandle.Get<VerbsWindow>(handle).Window.Key;
        return (key & ~0xFFu) | (byte)(key + 1);
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_create_ah")]
    private static int CreateAddress(nint domain, ibv_ah_attr* attributes, nint* handle) => Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        Errno errno = Paths.TryRead(*attributes, out AddressVector address);
        if (errno != Errno.Success)
        {
            return errno;
        }

        AddressHandle? made = null;
        owner.Device.WithToken(() =>
            errno = owner.Device.Machine.TryCreateAddressHandle(owner.Domain, address, out made));
        if (errno == Errno.Success)
        {
            owner.Hold();
            *handle = NativeHandle.Make(new VerbsAddress(owner, made!));
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_destroy_ah")]
    private static int DestroyAddress(nint handle) => Control.Run(() =>
    {
        VerbsAddress address = NativeHandle.Get<VerbsAddress>(handle);
        address.Domain.Device.WithToken(() => address.Domain.Device.Machine.DestroyAddressHandle(address.Handle));
        address.Domain.Release();
        NativeHandle.Free(handle);
        return Errno.Success;
    });
}
