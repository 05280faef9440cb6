using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Linux;
using MemoryWindow = Wayleave.Core.Topology.MemoryWindow;

namespace Wayleave.Ibverbs;

// The program's own memory as the fabric sees it: one window for each GiB of addresses that a region lies in, made when
// the first region needs it and kept, because a look-up is a walk over the windows. A window touches nothing; a region
// reaches only what it was registered for.

/// <summary>Registers memory of this process by its addresses. Members take the host lock themselves.</summary>
internal sealed class UserSpace(HostContext host, PciFabric fabric, RdmaDevice device)
{
    private const ulong WindowBytes = 1UL << 30;
    private const ulong PageBytes = 4096;

    private readonly Dictionary<ulong, MemoryWindow> _windows = [];

    /// <summary>Registers a range (<c>ibv_reg_mr</c>).</summary>
    /// <param name="domain">Who may use the key.</param>
    /// <param name="address">Of the first byte.</param>
    /// <param name="lengthBytes">Any.</param>
    /// <param name="iova">How scatter/gather lists and peers name the first byte.</param>
    /// <param name="access">Who may do what.</param>
    /// <param name="region">Null unless Success.</param>
    /// <returns>
    /// EINVAL for what no region can be; EOPNOTSUPP for paging on demand where the kernel does not let a process look
    /// at itself; EFAULT for a range that is not all there, or
    /// not writable where it must be.
    /// </returns>
    public Errno TryRegister(
        ProtectionDomain domain,
        ulong address,
        ulong lengthBytes,
        ulong iova,
        AccessFlags access,
        out MemoryRegion? region)
    {
        region = null;
        if ((access & AccessFlags.OnDemand) != 0)
        {
            return TryRegisterOnDemand(domain, address, lengthBytes, iova, access, out region);
        }

        Errno errno = TryPrepare(address, lengthBytes, iova, access, out MemoryRegionRequest request);
        if (errno != Errno.Success)
        {
            return errno;
        }

        using (host.Enter())
        {
            UserRange range = MakeRange(address, lengthBytes);
            AcquireTicket ticket = new(host, "registration");
            _ = range.Shared.Reservation.TryLock(ticket); // nobody else knows it
            errno = device.RegisterLocked(ticket, domain, range.Shared, request, out region, out _);
            range.Shared.Reservation.Unlock(ticket);
            if (errno != Errno.Success)
            {
                range.Shared.Release();
            }
        }

        return errno;
    }

    /// <summary>
    /// Makes another region of one, under the same key (<c>ibv_rereg_mr</c>); waits as <see cref="TryDeregister"/>.
    /// </summary>
    /// <param name="old">Ended on Success, else as it was.</param>
    /// <param name="domain">As of a registration, as are the others.</param>
    /// <param name="address">Of the first byte.</param>
    /// <param name="lengthBytes">Any.</param>
    /// <param name="iova">How scatter/gather lists and peers name the first byte.</param>
    /// <param name="access">Who may do what.</param>
    /// <param name="region">Null unless Success.</param>
    /// <returns>As of a registration; EBUSY while a window is bound to the region.</returns>
    public Errno TryReregister(
        MemoryRegion old,
        ProtectionDomain domain,
        ulong address,
        ulong lengthBytes,
        ulong iova,
        AccessFlags access,
        out MemoryRegion? region)
    {
        region = null;
        Errno errno = TryPrepare(address, lengthBytes, iova, access, out MemoryRegionRequest request);
        if (errno != Errno.Success)
        {
            return errno;
        }

        using (host.Enter())
        {
            UserRange range = MakeRange(address, lengthBytes);
            AcquireTicket ticket = new(host, "reregistration");
            _ = range.Shared.Reservation.TryLock(ticket); // nobody else knows it
            errno = device.ReregisterLocked(ticket, old, domain, range.Shared, request, out region, out _);
            range.Shared.Reservation.Unlock(ticket);
            if (errno != Errno.Success)
            {
                range.Shared.Release();
                return errno;
            }
        }

        return TryDeregister(old); // has no windows, and gets none
    }

    /// <summary>
    /// Ends a region. Waits, on the processor, while the port is inside: one packet or one block.
    /// </summary>
    /// <returns>EBUSY while a window is bound to it; then nothing changed.</returns>
    public Errno TryDeregister(MemoryRegion region)
    {
        SpinWait spin = default;
        while (true)
        {
            using (host.Enter())
            {
                SharedBuffer? buffer = region.Buffer;
                if (buffer is null)
                {
                    return Errno.Success;
                }

                AcquireTicket ticket = new(host, "deregistration");
                if (buffer.Reservation.TryLockNow(ticket))
                {
                    Errno errno = device.TryDeregisterLocked(ticket, region, out Core.Fences.Fence? drain);
                    buffer.Reservation.Unlock(ticket);
                    if (errno != Errno.Success)
                    {
                        return Errno.EBUSY;
                    }

                    if (drain is null)
                    {
                        buffer.Release();
                        return Errno.Success;
                    }
                }
            }

            spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    // IBV_ACCESS_ON_DEMAND: nothing needs to be there. From 0 to SIZE_MAX is all that there ever is.
    private Errno TryRegisterOnDemand(
        ProtectionDomain domain,
        ulong address,
        ulong lengthBytes,
        ulong iova,
        AccessFlags access,
        out MemoryRegion? region)
    {
        region = null;
        if (OwnPages.Instance is not { } pages)
        {
            return Errno.EOPNOTSUPP;
        }

        bool isImplicit = address == 0 && lengthBytes == ulong.MaxValue;
        if (isImplicit && iova != 0)
        {
            return Errno.EINVAL;
        }

        MemoryRegionRequest request = new(
            0,
            isImplicit ? UnpinnedRegions.SpaceBytes : lengthBytes,
            iova,
            access & ~(AccessRules.OptionalFlags | AccessFlags.HugePages | AccessFlags.OnDemand),
            ImporterKind.Dynamic,
            Registration: RegistrationKind.OwnMemory);
        using (host.Enter())
        {
            return UnpinnedRegions.TryRegister(device, domain, pages, address, request, out region);
        }
    }

    /// <summary>Ends a region that is paged on demand. As <see cref="TryDeregister"/>.</summary>
    public Errno TryDeregisterOnDemand(MemoryRegion region)
    {
        SpinWait spin = default;
        while (true)
        {
            using (host.Enter())
            {
                if (UnpinnedRegions.TryDeregister(device, region, out Core.Fences.Fence? drain) != Errno.Success)
                {
                    return Errno.EBUSY;
                }

                if (drain is null)
                {
                    return Errno.Success;
                }
            }

            spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    /// <summary>Brings a part of a region that is paged on demand into memory (<c>ibv_advise_mr</c>).</summary>
    /// <param name="domain">Whose region it has to be.</param>
    /// <param name="range">By local key.</param>
    /// <param name="isWrite">For writing.</param>
    /// <param name="populates">Off only looks at what was asked.</param>
    /// <returns>
    /// ENOENT for a key that names nothing, EPERM for one of another domain or a write to what is only read, EINVAL for
    /// a region that is not paged on demand or a range outside it; EFAULT for a range that is not all there.
    /// </returns>
    public Errno TryAdvise(ProtectionDomain domain, in Sge range, bool isWrite, bool populates)
    {
        nuint address;
        using (host.Enter())
        {
            if (device.FindRegion(range.LKey) is not { } region)
            {
                return Errno.ENOENT;
            }

            if (!ReferenceEquals(region.Domain, domain)
                || (isWrite && (region.Access & AccessFlags.LocalWrite) == 0))
            {
                return Errno.EPERM;
            }

            ulong offset = range.Address - region.Iova;
            if (!UnpinnedRegions.IsOne(region) || offset > region.LengthBytes
                || range.LengthBytes > region.LengthBytes - offset)
            {
                return Errno.EINVAL;
            }

            address = (nuint)(UnpinnedRegions.AddressOf(region) + offset);
        }

        return range.LengthBytes == 0 || !populates
            ? Errno.Success
            : ForeignMemory.TryPopulate(address, (nuint)range.LengthBytes, isWrite);
    }

    // What a registration may ask for, and whether the memory is there. Needs no lock.
    private static Errno TryPrepare(
        ulong address, ulong lengthBytes, ulong iova, AccessFlags access, out MemoryRegionRequest request)
    {
        request = default;
        if ((access & AccessFlags.OnDemand) != 0)
        {
            return Errno.EOPNOTSUPP; // a region that is registered again
        }

        const ulong UserMax = 1UL << 47;
        bool isSane = lengthBytes is not 0 and <= UserMax && AccessRules.IsConsistent(access);
        if (!isSane || address > UserMax - lengthBytes)
        {
            return isSane ? Errno.EFAULT : Errno.EINVAL;
        }

        bool isWritable = (access & (AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic
            | AccessFlags.WindowBind)) != 0;
        request = new MemoryRegionRequest(
            address % PageBytes,
            lengthBytes,
            iova,
            access & ~(AccessRules.OptionalFlags | AccessFlags.HugePages),
            ImporterKind.PinnedRevocable,
            Registration: RegistrationKind.OwnMemory);
        return ForeignMemory.TryPopulate((nuint)address, (nuint)lengthBytes, isWritable);
    }

    // Whole pages around a range. Host lock held.
    private UserRange MakeRange(ulong address, ulong lengthBytes)
    {
        ulong start = address / PageBytes * PageBytes;
        ulong end = (address + lengthBytes + PageBytes - 1) / PageBytes * PageBytes;
        return new UserRange(host, Locate(start, end), end - start);
    }

    /// <summary>
    /// Takes the memory of a region back, as an owner would who wants it for something else: the key is dead from here
    /// on, keeps its number until it is deregistered, and whoever uses it is refused.
    /// </summary>
    /// <returns>False when no living region has that key.</returns>
    public bool TryRevoke(uint key)
    {
        using (host.Enter())
        {
            MemoryRegion? region = device.Regions.FirstOrDefault(r => r.Key == key);
            if (region is not { State: not MemoryRegionState.Dead, Buffer: { } buffer })
            {
                return false;
            }

            RevokeOperation.Start(buffer, new RevokePolicy { Reason = "a fault from outside" });
            return true;
        }
    }

    /// <summary>Registers a range of a host's buffer (<c>ibv_reg_dmabuf_mr</c>), which follows its moves.</summary>
    /// <param name="domain">Who may use the key.</param>
    /// <param name="buffer">Outlives the region; stays the caller's.</param>
    /// <param name="request">As of <see cref="RegistrationKind.SharedBuffer"/>, dynamic.</param>
    /// <param name="region">Null unless Success.</param>
    /// <returns>As <see cref="RdmaDevice.RegisterLocked"/>.</returns>
    public Errno TryRegister(
        ProtectionDomain domain, SharedBuffer buffer, in MemoryRegionRequest request, out MemoryRegion? region)
    {
        SpinWait spin = default;
        while (true)
        {
            using (host.Enter())
            {
                AcquireTicket ticket = new(host, "registration");
                if (buffer.Reservation.TryLockNow(ticket))
                {
                    Errno errno = device.RegisterLocked(ticket, domain, buffer, request, out region, out _);
                    buffer.Reservation.Unlock(ticket);
                    return errno;
                }
            }

            spin.SpinOnce(sleep1Threshold: -1); // its thread lets go at once
        }
    }

    /// <summary>Where the fabric has whole pages of this process. Host lock held.</summary>
    public DmaAddressList Locate(ulong start, ulong end)
    {
        List<DeviceRange> ranges = [];
        while (start < end)
        {
            ulong number = start / WindowBytes;
            if (!_windows.TryGetValue(number, out MemoryWindow? window))
            {
                ForeignMemory memory = new((nint)(number * WindowBytes), (int)WindowBytes);
                window = fabric.AddWindow(memory.Memory, owner: null);
                _windows.Add(number, window);
            }

            ulong length = Math.Min(end - start, (number + 1) * WindowBytes - start);
            ranges.Add(new DeviceRange(window.Range.Start + (start - number * WindowBytes), length));
            start += length;
        }

        return new DmaAddressList([.. ranges]);
    }

    /// <summary>What a region is over: pages of the program, in place until it says otherwise.</summary>
    private sealed class UserRange : IPinningExporter
    {
        private readonly DmaAddressList _addresses;

        public UserRange(HostContext host, DmaAddressList addresses, ulong sizeBytes)
        {
            _addresses = addresses;
            Errno errno = SharedBuffer.TryExport(host, new ExportInfo(this, Name, sizeBytes), out SharedBuffer? shared);
            Shared = errno == Errno.Success
                ? shared!
                : throw new InvalidOperationException($"a range of {sizeBytes} bytes is no buffer: {errno}");
        }

        public SharedBuffer Shared { get; }

        public string Name => "user memory";

        public StorageKind Storage => StorageKind.Static;

        public Errno Attach(Attachment attachment) => Errno.Success;

        public void Detach(Attachment attachment)
        {
            // An attachment by itself holds nothing.
        }

        public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
        {
            addresses = _addresses;
            return Errno.Success;
        }

        public void Unmap(Attachment attachment, DmaAddressList addresses)
        {
            // Addresses of system memory need no translation here.
        }

        public Errno Pin(Attachment attachment) => Errno.Success;

        public void Unpin(Attachment attachment)
        {
            // The program's pages stay while the program lends them.
        }

        public void Release(SharedBuffer buffer)
        {
            // The memory is the program's.
        }
    }
}
