using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// Regions over shared buffers, from the arguments to the entry in the table of keys and back
// (ib_uverbs_reg_dmabuf_mr, ib_rereg_mr, ib_dereg_mr; linux.md 5.3). Regions over the memory of a process are made in
// Regions/ and only end here. Host lock held throughout, and the reservation of each buffer by the ticket.

internal sealed class BufferRegions(RdmaDevice device)
{
    private const ulong PageBytes = 4096;

    /// <summary>See <see cref="RdmaDevice.RegisterLocked"/>.</summary>
    public Errno Register(
        AcquireTicket ticket,
        ProtectionDomain domain,
        SharedBuffer buffer,
        in MemoryRegionRequest request,
        out MemoryRegion? region,
        out Fence? wait)
    {
        buffer.Reservation.AssertLocked(ticket);
        (region, wait) = (null, null);
        uint key = 0;
        Errno errno = Check(request, buffer);
        errno = errno == Errno.Success ? device.Keys.TryChoose(request.Key, out key) : errno;
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = TryMake(ticket, domain, buffer, request, key, out region, out wait);
        if (errno == Errno.Success)
        {
            device.Keys.Add(region!);
        }

        return errno;
    }

    /// <summary>See <see cref="RdmaDevice.ReregisterLocked"/>.</summary>
    public Errno Reregister(
        AcquireTicket ticket,
        MemoryRegion old,
        ProtectionDomain domain,
        SharedBuffer buffer,
        in MemoryRegionRequest request,
        out MemoryRegion? region,
        out Fence? wait)
    {
        buffer.Reservation.AssertLocked(ticket);
        (region, wait) = (null, null);
        if (!device.Keys.Holds(old))
        {
            return Errno.EINVAL;
        }

        MemoryRegionRequest next = request with { Key = null };
        Errno errno = Check(next, buffer);
        errno = errno == Errno.Success
            ? TryMake(ticket, domain, buffer, next, old.Key, out region, out wait)
            : errno;
        if (errno != Errno.Success)
        {
            return errno;
        }

        if (!old.TryRefuseWindows())
        {
            region!.ReleaseLocked(ticket);
            (region, wait) = (null, null);
            return Errno.EBUSY;
        }

        device.Keys.Swap(old, region!);
        return Errno.Success;
    }

    /// <summary>
    /// See <see cref="RdmaDevice.TryDeregisterLocked"/>. A region that has no buffer needs no ticket.
    /// </summary>
    public Errno TryDeregister(AcquireTicket? ticket, MemoryRegion region, out Fence? drain)
    {
        device.Host.AssertHeld();
        drain = null;
        if (!region.TryRefuseWindows())
        {
            return Errno.EINVAL;
        }

        drain = region.Backing is { } backing ? backing.Release() : region.ReleaseLocked(ticket!);
        if (drain is null)
        {
            device.Keys.Remove(region);
        }

        return Errno.Success;
    }

    // All of a registration but the entry in the table.
    private Errno TryMake(
        AcquireTicket ticket,
        ProtectionDomain domain,
        SharedBuffer buffer,
        in MemoryRegionRequest request,
        uint key,
        out MemoryRegion? region,
        out Fence? wait)
    {
        (region, wait) = (null, null);
        MemoryRegion made = new(device, domain, key, request);
        Errno errno = made.AttachLocked(ticket, buffer, device.Function);
        if (errno != Errno.Success)
        {
            return errno;
        }

        MapOutcome mapped = made.RemapLocked(ticket);
        if (mapped.Kind == MapOutcomeKind.Refused)
        {
            made.ReleaseLocked(ticket);
            return mapped.Errno;
        }

        (region, wait) = (made, mapped.Fence);
        return Errno.Success;
    }

    private Errno Check(in MemoryRegionRequest request, SharedBuffer buffer)
    {
        bool isSane = request.Offset % PageBytes == request.Iova % PageBytes
            && (request.Access & AccessRules.Refused(request.Registration)) == 0
            && ((request.Access & AccessFlags.ZeroBased) == 0 || request.Iova == 0)
            && AccessRules.IsConsistent(request.Access)
            && request.Offset <= ulong.MaxValue - request.LengthBytes
            && request.LengthBytes != 0
            && request.Iova <= ulong.MaxValue - (request.LengthBytes - 1)
            && request.Offset + request.LengthBytes <= buffer.SizeBytes
            && request.Kind != ImporterKind.Static
            && (request.Key is not { } wanted || wanted >> KeyTag.Bits != 0);
        if (!isSane)
        {
            return Errno.EINVAL;
        }

        if (request.IsLegacyPeer && device.Options.Revocation == RegionRevocation.None)
        {
            return Errno.EOPNOTSUPP; // its key could not die
        }

        AccessFlags absent = AccessFlags.OnDemand
            | (device.Options.Persist is null ? AccessFlags.FlushPersistent : AccessFlags.None);
        return (request.Access & absent) != 0 ? Errno.EOPNOTSUPP : Errno.Success;
    }
}
