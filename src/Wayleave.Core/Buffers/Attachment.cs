using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>
/// A <c>dma_buf_attachment</c>: one importer's hold on a buffer, with at most one mapping. It keeps a reference to the
/// buffer. Host lock held by the caller; members that end in Locked also need the reservation, held by the given
/// ticket.
/// </summary>
public sealed class Attachment : IMemoryHold
{
    private DmaAddressList? _addresses;
    private bool _pinnedByMap;
    private bool _stoppedForGood;

    internal Attachment(SharedBuffer buffer, PciFunction device, IImporter? importer)
    {
        Buffer = buffer;
        Device = device;
        Importer = importer;
        PeerToPeer = importer?.AllowPeerToPeer ?? false;
    }

    public SharedBuffer Buffer { get; }

    public PciFunction Device { get; }

    /// <summary>Null for a static importer.</summary>
    public IImporter? Importer { get; }

    public ImporterKind Kind => Importer?.Kind ?? ImporterKind.Static;

    /// <summary>
    /// Whether the importer can be made to stop (<c>dma_buf_attach_revocable</c>): all that an exporter may ask before
    /// it lets somebody in.
    /// </summary>
    public bool IsRevocable => Importer is IRevocableImporter;

    /// <summary>
    /// Whether the importer takes peer addresses. The exporter may clear it while it looks at the attachment.
    /// </summary>
    public bool PeerToPeer { get; set; }

    public MappingState State { get; private set; }

    /// <summary>Who writes through the present mapping, as the importer asked for it.</summary>
    public DmaDirection Direction { get; private set; }

    /// <summary>Pins this importer holds. The exporter counts those of all.</summary>
    public int PinCount { get; private set; }

    /// <summary>
    /// The list of the present mapping, or null. Valid to use only inside the gate that the importer made for it.
    /// </summary>
    public DmaAddressList? Addresses => _addresses;

    /// <summary>
    /// What the importer did since its mapping was last invalidated; null before the first invalidation. One mapping
    /// has one record, however often its importer is told.
    /// </summary>
    public ImporterEvidence? Evidence { get; private set; }

    /// <summary>For people and proofs.</summary>
    public string Name => Importer?.Name ?? $"static importer on {Device.Name}";

    /// <summary>On whose behalf: what a quarantine counts by.</summary>
    public string Holder => Importer?.Holder ?? Device.Name;

    string IMemoryHold.DeviceName => Device.Name;

    bool IMemoryHold.IsMapped => State != MappingState.Unmapped;

    /// <summary>Keeps the storage where it is until <see cref="UnpinLocked"/> (<c>dma_buf_pin</c>).</summary>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> on a revoked buffer, or for a pinned importer that was told to stop; otherwise what
    /// the exporter says. An exporter whose storage never moves has nothing to say.
    /// </returns>
    public Errno PinLocked(AcquireTicket ticket)
    {
        Buffer.Reservation.AssertLocked(ticket);
        if (Kind == ImporterKind.Static)
        {
            Buffer.Host.Checker.Report(ViolationKind.Pin, Name, $"pins {Buffer}, and is static: Core pins for it");
            throw new InvalidOperationException($"{this} is a static importer; Core pins for it at every map");
        }

        return Buffer.IsRevoked || _stoppedForGood ? Errno.ENODEV : Pin();
    }

    /// <summary>Gives one pin back (<c>dma_buf_unpin</c>).</summary>
    /// <exception cref="InvalidOperationException">The attachment holds none.</exception>
    public void UnpinLocked(AcquireTicket ticket)
    {
        Buffer.Reservation.AssertLocked(ticket);
        Unpin();
    }

    /// <summary>
    /// Asks where the storage is (<c>dma_buf_map_attachment</c>). A static importer waits for KERNEL fences here; the
    /// others wait for them before they touch the memory. The list is valid until the importer unmaps or is told to
    /// stop. Unless the outcome is a list, nothing is pinned and nothing is mapped.
    /// </summary>
    /// <returns>
    /// Refused with <see cref="Errno.ENODEV"/> on a revoked buffer, or for a pinned importer that was told to stop and
    /// so has stopped for good; with <see cref="Errno.EBUSY"/> while a mapping exists; with what the exporter says.
    /// </returns>
    public MapOutcome MapLocked(AcquireTicket ticket, DmaDirection direction)
    {
        Buffer.Reservation.AssertLocked(ticket);
        if (Buffer.IsRevoked || _stoppedForGood)
        {
            return MapOutcome.Refused(Errno.ENODEV);
        }

        if (State != MappingState.Unmapped)
        {
            return MapOutcome.Refused(Errno.EBUSY);
        }

        if (Kind != ImporterKind.Static)
        {
            return Map(direction);
        }

        // The kernel pins, maps, waits, and undoes both when it is interrupted. Here whoever waits may stop waiting at
        // any time, so both are undone before it is told to wait.
        if (Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is { } pending)
        {
            return MapOutcome.MustWait(pending);
        }

        Errno pinned = Pin();
        if (pinned != Errno.Success)
        {
            if (pinned == Errno.EBUSY)
            {
                Buffer.Host.Checker.Report(
                    ViolationKind.Pin, Name, $"cannot reach {Buffer} where it is: the attach should have refused");
            }

            return MapOutcome.Refused(pinned);
        }

        _pinnedByMap = true;
        MapOutcome outcome = Map(direction);
        if (outcome.Kind == MapOutcomeKind.Mapped
            && Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is { } copy)
        {
            EndMapping(); // the pin moved the storage a last time
            return MapOutcome.MustWait(copy);
        }

        return outcome;
    }

    /// <summary>Ends a mapping whose gate is closed and drained (<c>dma_buf_unmap_attachment</c>).</summary>
    public void UnmapLocked(AcquireTicket ticket)
    {
        Buffer.Reservation.AssertLocked(ticket);
        EndMapping();
        ReportUnmapped();
    }

    /// <summary>
    /// Ends a mapping that was invalidated and has drained. Needs no reservation: between Invalidate and Unmap the
    /// mapping belongs to its importer alone (docs/adr/0004). On a revoked buffer the importer's pins end with it.
    /// </summary>
    public void UnmapInvalidated()
    {
        Buffer.Host.AssertHeld();
        if (State != MappingState.Invalidated)
        {
            throw new InvalidOperationException($"{this} is {State}, not invalidated");
        }

        EndMapping();
        if (Buffer.IsRevoked)
        {
            UnpinAll();
        }

        ReportUnmapped();
    }

    /// <summary>
    /// The user behind the importer is gone for good: its process is dead, its engine was reset, its device removed.
    /// Core ends what it held in its place: the fence by which it would have reported its drain, the mapping and the
    /// pins. The attachment maps nothing any more; it stays until <see cref="SharedBuffer.Detach"/>.
    /// </summary>
    /// <param name="cause">
    /// How it is known. Only what excludes another access counts: a time-out or a closed connection does not.
    /// </param>
    /// <param name="witness">Who says so, for people and proofs: <c>pidfd of process 4711</c>.</param>
    public void EndOfDeadUser(StopCause cause, string witness)
    {
        Buffer.Host.AssertHeld();
        _stoppedForGood = true;
        bool isMapped = State != MappingState.Unmapped;
        if (Evidence is null || (isMapped && !Evidence.IsOpen))
        {
            Evidence = new ImporterEvidence(Buffer.Host, isMapped);
        }

        ImporterEvidence evidence = Evidence;
        evidence.RecordStopped(cause, witness);
        if (isMapped)
        {
            EndMapping();
        }

        UnpinAll();
        ReportUnmapped();
        evidence.EndDrain();
    }

    public override string ToString() => $"attachment of {Name} to {Buffer}";

    /// <summary>Tells the importer to stop; returns the fence of what is still under way, or null.</summary>
    internal Fence? Invalidate()
    {
        if (Evidence is not { IsOpen: true })
        {
            Evidence = new ImporterEvidence(Buffer.Host, wasMapped: State != MappingState.Unmapped);
        }

        // A pinned importer that holds neither a pin nor a mapping loses nothing by a move. Told, it would stop for
        // good; and the move may be the one that its own first pin asks for.
        bool losesNothing = Kind == ImporterKind.PinnedRevocable && PinCount == 0 && State == MappingState.Unmapped;
        if (Importer is not IRevocableImporter revocable || (losesNothing && !Buffer.IsRevoked))
        {
            return null;
        }

        // An importer that still drains an earlier invalidation is told again: a revoke may follow a move.
        if (State == MappingState.Mapped)
        {
            Move(MappingEvent.Invalidate);
        }

        // To a pinned importer it is final, whatever the reason (dma_buf_invalidate_mappings).
        _stoppedForGood |= Kind == ImporterKind.PinnedRevocable;
        ImporterEvidence evidence = Evidence;
        Fence? fence = revocable.InvalidateMappings(this).Fence;
        evidence.RecordAcknowledged(fence);
        return fence is { IsSignaled: false } ? fence : null;
    }

    private MapOutcome Map(DmaDirection direction)
    {
        Errno errno = Buffer.Exporter.Map(this, direction, out DmaAddressList? addresses);
        if (errno == Errno.Success && addresses is not null && addresses.LengthBytes != Buffer.SizeBytes)
        {
            // A list that is too short would send an importer past its end.
            Buffer.Host.Checker.Report(
                ViolationKind.ExporterAnswer,
                Buffer.Exporter.Name,
                $"maps {addresses.LengthBytes} bytes of {Buffer}, which has {Buffer.SizeBytes}");
            Buffer.Exporter.Unmap(this, addresses);
            errno = Errno.EINVAL;
        }

        if (errno != Errno.Success || addresses is null)
        {
            if (Buffer.Host.Has(CoreDefences.UnpinsFailedMap))
            {
                UnpinIfPinnedByMap();
            }

            return MapOutcome.Refused(errno == Errno.Success ? Errno.ENOMEM : errno);
        }

        (_addresses, Direction) = (addresses, direction);
        Move(MappingEvent.Map);
        return MapOutcome.Mapped(addresses);
    }

    private void EndMapping()
    {
        Buffer.Exporter.Unmap(this, _addresses ?? throw new InvalidOperationException($"{this} is not mapped"));
        _addresses = null;
        UnpinIfPinnedByMap();
        Move(MappingEvent.Unmap);
    }

    // Last, because a waiting revoke may hand the memory on from here.
    private void ReportUnmapped()
    {
        if (Evidence is not { IsOpen: true } told)
        {
            return;
        }

        if (told is { GateClosedAt: not null, DrainedAt: null, StoppedAt: null })
        {
            // Somebody may still be inside. The grade stays below Retired until the importer shows otherwise.
            Buffer.Host.Checker.Report(
                ViolationKind.UndrainedUnmap, Name, $"unmaps {Buffer} without having shown that its gate is empty");
        }

        told.RecordUnmapped();
    }

    private Errno Pin()
    {
        Errno errno = Buffer.Exporter is IPinningExporter exporter ? exporter.Pin(this) : Errno.Success;
        PinCount += errno == Errno.Success ? 1 : 0;
        return errno;
    }

    private void Unpin()
    {
        if (PinCount == 0)
        {
            throw new InvalidOperationException($"{this} holds no pin");
        }

        PinCount--;
        (Buffer.Exporter as IPinningExporter)?.Unpin(this);
    }

    private void UnpinIfPinnedByMap()
    {
        if (_pinnedByMap)
        {
            _pinnedByMap = false;
            Unpin();
        }
    }

    private void UnpinAll()
    {
        while (PinCount > 0)
        {
            Unpin();
        }
    }

    private void Move(MappingEvent ev) =>
        State = State.Next(ev) ?? throw new InvalidOperationException($"{this}: {ev} does not apply when {State}");
}
