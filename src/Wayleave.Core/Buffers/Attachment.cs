using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>
/// A <c>dma_buf_attachment</c>: one importer's hold on a buffer, with at most one mapping. Host lock held by the
/// caller; members that end in Locked also need the reservation, held by the given ticket.
/// </summary>
public sealed class Attachment
{
    private DmaAddressList? _addresses;
    private bool _pinnedByMap;
    private Action? _unmapped;

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
    /// Whether the importer takes peer addresses. The exporter may clear it while it looks at the attachment.
    /// </summary>
    public bool PeerToPeer { get; set; }

    public MappingState State { get; private set; }

    /// <summary>Pins this importer holds.</summary>
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

    /// <summary>Keeps the storage where it is until <see cref="UnpinLocked"/> (<c>dma_buf_pin</c>).</summary>
    /// <returns><see cref="Errno.ENODEV"/> on a revoked buffer; otherwise what the exporter says.</returns>
    public Errno PinLocked(AcquireTicket ticket)
    {
        Buffer.Reservation.AssertLocked(ticket);
        if (Kind == ImporterKind.Static)
        {
            throw new InvalidOperationException($"{this} is a static importer; Core pins for it at every map");
        }

        if (Buffer.IsRevoked)
        {
            return Errno.ENODEV;
        }

        Errno errno = Buffer.Exporter.Pin(this);
        PinCount += errno == Errno.Success ? 1 : 0;
        return errno;
    }

    public void UnpinLocked(AcquireTicket ticket)
    {
        Buffer.Reservation.AssertLocked(ticket);
        Unpin();
    }

    /// <summary>
    /// Asks where the storage is (<c>dma_buf_map_attachment</c>). A static importer waits for KERNEL fences here; the
    /// others wait for them before they touch the memory. The list is valid until the importer unmaps or is told to
    /// stop.
    /// </summary>
    public MapOutcome MapLocked(AcquireTicket ticket, DmaDirection direction)
    {
        Buffer.Reservation.AssertLocked(ticket);
        if (Buffer.IsRevoked)
        {
            return MapOutcome.Refused(Errno.ENODEV);
        }

        if (State != MappingState.Unmapped)
        {
            return MapOutcome.Refused(Errno.EBUSY);
        }

        // The kernel pins, maps, then waits and undoes both when interrupted. Nothing interrupts here, so the wait
        // comes first.
        if (Kind == ImporterKind.Static && Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is { } fence)
        {
            return MapOutcome.MustWait(fence);
        }

        if (Kind == ImporterKind.Static)
        {
            Errno pinned = Buffer.Exporter.Pin(this);
            if (pinned != Errno.Success)
            {
                return MapOutcome.Refused(pinned);
            }

            (PinCount, _pinnedByMap) = (PinCount + 1, true);
        }

        Errno errno = Buffer.Exporter.Map(this, direction, out _addresses);
        if (errno != Errno.Success || _addresses is null)
        {
            UnpinIfPinnedByMap();
            return MapOutcome.Refused(errno == Errno.Success ? Errno.ENOMEM : errno);
        }

        Move(MappingEvent.Map);
        return MapOutcome.Mapped(_addresses);
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
        while (Buffer.IsRevoked && PinCount > 0)
        {
            Unpin();
        }

        ReportUnmapped();
    }

    public override string ToString() => $"attachment of {Name} to {Buffer}";

    /// <summary>Core's own waiter: runs once, with the host lock held, when the mapping has ended.</summary>
    internal void ObserveUnmap(Action observer) => _unmapped += observer;

    /// <summary>Tells the importer to stop; returns the fence of what is still under way, or null.</summary>
    internal Fence? Invalidate()
    {
        if (Evidence is not { IsOpen: true })
        {
            Evidence = new ImporterEvidence(Buffer.Host, wasMapped: State != MappingState.Unmapped);
        }

        if (Importer is not IRevocableImporter revocable)
        {
            return null;
        }

        // An importer that still drains an earlier invalidation is told again: a revoke may follow a move.
        if (State == MappingState.Mapped)
        {
            Move(MappingEvent.Invalidate);
        }

        Fence? fence = revocable.InvalidateMappings(this).Fence;
        Evidence.RecordAcknowledged(fence);
        return fence is { IsSignaled: false } ? fence : null;
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
        if (Evidence is { IsOpen: true } told)
        {
            told.RecordUnmapped();
        }

        (Action? unmapped, _unmapped) = (_unmapped, null);
        unmapped?.Invoke();
    }

    private void UnpinIfPinnedByMap()
    {
        if (_pinnedByMap)
        {
            _pinnedByMap = false;
            Unpin();
        }
    }

    private void Unpin()
    {
        if (PinCount == 0)
        {
            throw new InvalidOperationException($"{this} holds no pin");
        }

        PinCount--;
        Buffer.Exporter.Unpin(this);
    }

    private void Move(MappingEvent ev) =>
        State = State.Next(ev) ?? throw new InvalidOperationException($"{this}: {ev} does not apply when {State}");
}
