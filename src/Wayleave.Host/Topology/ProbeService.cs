using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Topology;

/// <summary>
/// Tries the routes between two devices of a host with real bytes, in memory that it allocates for that. Members take
/// the host lock themselves.
/// </summary>
public sealed class ProbeService(WayleaveHost host)
{
    /// <summary>The most that one probe moves each way.</summary>
    public const ulong SizeBytesMax = 1UL << 30;

    private const ulong WordBytes = 8;

    /// <summary>
    /// Moves patterned data from each of the two into the other's memory and back. A route that loses or changes a byte
    /// is marked: later maps over it are refused with the reason.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: no such device. EINVAL: the size. EOPNOTSUPP: neither has memory for peers. ENOSPC: no room for the
    /// probe.
    /// </exception>
    public async Task<ProbeDocument> RunAsync(StartProbeDocument start, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(start);
        string operation = $"probe {start.One} {start.Other}";
        if (start.SizeBytes is 0 or > SizeBytesMax || start.SizeBytes % WordBytes != 0)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"{start.SizeBytes} bytes are no multiple of {WordBytes} up to {ByteSize.ToText((long)SizeBytesMax)}");
        }

        PciFunction one = FindDevice(operation, start.One);
        PciFunction other = FindDevice(operation, start.Other);
        (PciFunction Owner, PciFunction Client)[] ways =
            ReferenceEquals(one, other) ? [(one, one)] : [(one, other), (other, one)];
        List<ProbedRouteDocument> routes = [];
        foreach ((PciFunction owner, PciFunction client) in ways)
        {
            if (OffersMemory(owner))
            {
                routes.Add(
                    await ProbeAsync(owner, client, start.SizeBytes, start.Again, cancellation).ConfigureAwait(false));
            }
        }

        if (routes.Count == 0)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP,
                operation,
                "neither offers memory to peers, so there is no route between them",
                "name a GPU, or a drive with a memory buffer, as one of the two");
        }

        return new ProbeDocument
        {
            Host = host.Config.Name,
            Ok = routes.All(r => !r.MarkedBad),
            Routes = routes,
        };
    }

    private PciFunction FindDevice(string operation, string name)
    {
        IEnumerable<PciFunction> devices = host.MemoryDevices.Select(d => d.Function)
            .Concat(host.Nics.Select(n => n.Device.Function))
            .Concat(host.Ethernets.Select(e => e.Function));
        devices = devices.Where(d => d.Root is not null);
        bool isAddress = PciAddress.TryParse(name, out PciAddress address);
        return devices.FirstOrDefault(d => d.Name == name || (isAddress && d.Address == address))
            ?? throw new WayleaveException(
                Errno.ENODEV,
                operation,
                $"{name} is no device of this host",
                $"it has {string.Join(", ", devices.Select(d => d.Name))}");
    }

    // Most hand their memory out as objects, a drive by a pool.
    private bool OffersMemory(PciFunction owner)
    {
        using (host.Context.Enter())
        {
            return FindOwner(owner) is not null || owner.PeerDevice?.Pool is not null;
        }
    }

    private IObjectDevice? FindOwner(PciFunction function) =>
        host.MemoryDevices.FirstOrDefault(d => ReferenceEquals(d.Function, function) && d is not NvmeHandle);

    private async Task<ProbedRouteDocument> ProbeAsync(
        PciFunction owner, PciFunction client, ulong sizeBytes, bool isAgain, CancellationToken cancellation)
    {
        PeerVerdict verdict;
        using (host.Context.Enter())
        {
            PeerDevice peer = owner.PeerDevice
                ?? throw new WayleaveException(Errno.ENODEV, $"probe {owner.Name}", "it was pulled out");
            if (isAgain)
            {
                peer.ClearFault(client);
            }

            verdict = peer.VerdictFor(client);
        }

        ProbedRouteDocument route = new()
        {
            Owner = owner.Name,
            Client = client.Name,
            MapType = verdict.MapType,
            MarkedBad = verdict.Obstacle == PeerObstacle.FailedProbe,
            Reason = verdict.IsSupported ? null : verdict.Refusal,
        };
        if (!verdict.IsSupported)
        {
            return route;
        }

        DmaPort port = new(client);
        RouteProbe probe = new(
            port, new DmaPort(host.Fabric.Processor), BitConverter.ToUInt64(RandomNumberGenerator.GetBytes(8)));
        if (FindOwner(owner) is { } device)
        {
            await MoveInObjectAsync(device, client, probe, sizeBytes, cancellation).ConfigureAwait(false);
        }
        else
        {
            MoveInPool(owner, client, probe, sizeBytes, cancellation);
        }

        string? failure = DescribeFailure(probe, port.LostBytes);
        if (failure is not null)
        {
            using (host.Context.Enter())
            {
                RouteFault fault = new(client, failure, host.Context.Now);
                owner.PeerDevice?.MarkBad(fault);
            }
        }

        return route with
        {
            Write = ToDocument(probe.Write),
            Read = ToDocument(probe.Read),
            LostBytes = port.LostBytes,
            MarkedBad = failure is not null,
            Reason = failure,
        };
    }

    // Memory that stays where it is, so that the route is tried and not a way around it.
    private static StorageKind KindOf(IObjectDevice owner) =>
        owner.CanStore(StorageKind.Revocable) ? StorageKind.Revocable : owner.DefaultStorage;

    private async Task MoveInObjectAsync(
        IObjectDevice owner, PciFunction client, RouteProbe probe, ulong sizeBytes, CancellationToken cancellation)
    {
        DeviceObject memory = await host.Objects
            .CreateAsync(owner.Name, $"probe-by-{client.Name}", sizeBytes, KindOf(owner), cancellation)
            .ConfigureAwait(false);
        try
        {
            Errno errno = await MoveAsync(memory.Memory, client, probe, cancellation).ConfigureAwait(false);
            errno.ThrowIfFailed($"map {owner.Name} for {client.Name}", "its owner took the memory back");
        }
        finally
        {
            await host.Objects.AbortAsync(memory, "probe ended").ConfigureAwait(false);
        }
    }

    // What is taken from a pool keeps the driver of its owner from letting go, so that nobody takes it back meanwhile.
    private void MoveInPool(
        PciFunction owner, PciFunction client, RouteProbe probe, ulong sizeBytes, CancellationToken cancellation)
    {
        PeerAllocation? memory;
        DmaAddressList? mapped;
        PeerPool pool;
        using (host.Context.Enter())
        {
            pool = owner.PeerDevice?.Pool
                ?? throw new WayleaveException(Errno.ENODEV, $"probe {owner.Name}", "its driver has let go");
            pool.TryAllocate(sizeBytes, $"probe by {client.Name}", out memory).ThrowIfFailed(
                $"take {ByteSize.ToText((long)sizeBytes)} of {owner.Name}", "give a smaller --size");
            Errno errno = host.Fabric.TryMap(client, memory!.Addresses, out mapped);
            if (errno != Errno.Success)
            {
                pool.Free(memory);
                errno.ThrowIfFailed($"map {owner.Name} for {client.Name}");
            }
        }

        try
        {
            for (ulong offset = 0; offset < sizeBytes; offset += OwnerAccess.PieceBytes)
            {
                cancellation.ThrowIfCancellationRequested();
                Move(mapped!, memory.Addresses, offset, sizeBytes, probe);
            }
        }
        finally
        {
            using (host.Context.Enter())
            {
                host.Fabric.Unmap(client, mapped!);
                pool.Free(memory);
            }
        }
    }

    // As the owner of the memory does: with the reservation held nobody moves it or takes it back, so the mapping needs
    // no gate; between two pieces everybody gets a turn, and nothing is mapped.
    private async Task<Errno> MoveAsync(
        ObjectMemory memory, PciFunction client, RouteProbe probe, CancellationToken cancellation)
    {
        Attachment? attachment;
        using (host.Context.Enter())
        {
            Errno errno = memory.Shared.TryAttach(client, new ProbeImporter(client), out attachment);
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        try
        {
            for (ulong offset = 0; offset < memory.SizeBytes; offset += OwnerAccess.PieceBytes)
            {
                cancellation.ThrowIfCancellationRequested();
                Errno errno = await MovePieceAsync(memory, attachment!, offset, probe).ConfigureAwait(false);
                if (errno != Errno.Success)
                {
                    return errno;
                }
            }

            return Errno.Success;
        }
        finally
        {
            using (host.Context.Enter())
            {
                memory.Shared.Detach(attachment!);
            }
        }
    }

    private async Task<Errno> MovePieceAsync(ObjectMemory memory, Attachment attachment, ulong offset, RouteProbe probe)
    {
        AcquireTicket ticket;
        using (host.Context.Enter())
        {
            ticket = new AcquireTicket(host.Context, $"probe of {memory.Shared.Name}");
        }

        Reservation reservation = memory.Shared.Reservation;
        await reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
        try
        {
            await reservation.WaitAsync(host.Context, ReservationUsage.Kernel, ticket).ConfigureAwait(false);
            MapOutcome mapped;
            using (host.Context.Enter())
            {
                mapped = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
            }

            if (mapped.Addresses is not { } addresses)
            {
                return mapped.Errno;
            }

            try
            {
                Move(addresses, memory.Addresses, offset, memory.SizeBytes, probe);
            }
            finally
            {
                using (host.Context.Enter())
                {
                    attachment.UnmapLocked(ticket);
                }
            }

            return Errno.Success;
        }
        finally
        {
            using (host.Context.Enter())
            {
                reservation.Unlock(ticket);
            }
        }
    }

    private static void Move(
        DmaAddressList mapped, DmaAddressList physical, ulong offset, ulong sizeBytes, RouteProbe probe)
    {
        ulong end = Math.Min(offset + OwnerAccess.PieceBytes, sizeBytes);
        while (offset < end && mapped.TryLocate(offset, out DeviceAddress address, out ulong mappedBytes)
            && physical.TryLocate(offset, out DeviceAddress at, out ulong physicalBytes))
        {
            ulong length = Math.Min(end - offset, RouteProbe.BlockBytesMax);
            length = Math.Min(length, Math.Min(mappedBytes, physicalBytes));
            probe.TryBlock(address, at, (int)length);
            offset += length;
        }
    }

    private static string? DescribeFailure(RouteProbe probe, long lostBytes)
    {
        if (probe.Write.Outcome == ProbeOutcome.Intact && probe.Read.Outcome == ProbeOutcome.Intact)
        {
            return null;
        }

        bool isAborted = probe.Write.Outcome == ProbeOutcome.Aborted || probe.Read.Outcome == ProbeOutcome.Aborted;
        string how = isAborted ? "nothing answered"
            : lostBytes > 0 ? "the requests vanished without an error"
            : "no access failed";
        string tried = ByteSize.ToText((long)probe.Write.TriedBytes);
        return $"a probe wrote {tried} of which {probe.Write.BadBytes} bytes did not arrive, and read as much of which "
            + $"{probe.Read.BadBytes} bytes were wrong: {how}";
    }

    private static ProbedWayDocument ToDocument(ProbeFinding finding) =>
        new(finding.Outcome, finding.TriedBytes, finding.BadBytes, finding.FirstBadOffset);

    /// <summary>
    /// Maps only while it holds the reservation, so that an invalidation never meets a mapping of it.
    /// </summary>
    private sealed class ProbeImporter(PciFunction client) : IRevocableImporter
    {
        public string Name => $"probe by {client.Name}";

        public ImporterKind Kind => ImporterKind.Dynamic;

        public bool AllowPeerToPeer => true;

        public InvalidateOutcome InvalidateMappings(Attachment attachment) => InvalidateOutcome.Done;
    }
}
