using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Regions;

namespace Wayleave.Devices.Rdma.Verbs;

// Who runs what. The host lock guards everything but three fields that the port reads without it: Current, State and
// the fault mark. The port never changes the first two. The order of a taking-back, all under the host lock:
//
//   state := Invalidated or Dead;  Current := null;  close the gate of the translation that was current
//   nobody inside:  unmap at once                    somebody inside: the last one out takes the host lock and unmaps
//
// A port that read Current before it was cleared meets a closed gate, looks at the state, and finds it changed: it
// never falls back to an address it read earlier.

/// <summary>
/// A registered range of a shared buffer (<c>struct ibv_mr</c>; <c>umem_dmabuf.c</c>). One key, local and remote. A
/// dynamic region follows its buffer when that moves; a pinned one holds it in place; both die for good when the owner
/// revokes.
/// </summary>
public sealed class MemoryRegion : Numbered
{
    private readonly HostContext _host;
    private readonly RdmaDevice _device;
    private readonly Timeline _timeline;
    private readonly Action _handleDrained;
    private readonly Action<MemoryRegion>? _lost;
    private Attachment? _attachment;
    private volatile Translation? _current;
    private volatile MemoryRegionState _state = MemoryRegionState.Invalidated;
    private DmaAddressList? _pending; // mapped, but not to be touched before the KERNEL fences have signalled
    private Fence? _drain; // has not ended exactly while a closed gate still has users; somebody may have forced it
    private InFlightGate? _closing;
    private bool _isReplaced;
    private int _faulted;
    private BoundWindows _windows;
    private int _mapRefused; // set by a refused map, taken by the port, which turns it into an access error

    internal MemoryRegion(RdmaDevice device, ProtectionDomain domain, uint key, in MemoryRegionRequest request)
        : base(key >> KeyTag.Bits)
    {
        Key = key;
        Registration = request.Registration;
        _device = device;
        _host = device.Host;
        Domain = domain;
        Offset = request.Offset;
        LengthBytes = request.LengthBytes;
        Iova = request.Iova;
        Access = request.Access;
        Kind = device.Options.Revocation == RegionRevocation.None ? ImporterKind.Pinned : request.Kind;
        IsLegacyPeer = request.IsLegacyPeer;
        Holder = request.Holder;
        _lost = request.Lost;
        Name = $"{device.Name} mr 0x{key:x8}";
        _timeline = new Timeline(_host, Name);
        _handleDrained = HandleDrained;
    }

    public ProtectionDomain Domain { get; }

    /// <summary>The number of the key, for local (lkey) and remote (rkey) use.</summary>
    public uint Key { get; }

    /// <summary>Whose memory it was registered as.</summary>
    public RegistrationKind Registration { get; }

    /// <summary>Address of the first byte, as scatter/gather lists and the peer name it.</summary>
    public ulong Iova { get; }

    public ulong LengthBytes { get; }

    /// <summary>Where the region starts in its buffer.</summary>
    public ulong Offset { get; }

    public AccessFlags Access { get; }

    /// <summary>As asked for; <see cref="ImporterKind.Pinned"/> on a device that cannot revoke.</summary>
    public ImporterKind Kind { get; }

    /// <summary>See <see cref="MemoryRegionRequest.IsLegacyPeer"/>.</summary>
    public bool IsLegacyPeer { get; }

    /// <summary>See <see cref="MemoryRegionRequest.Holder"/>.</summary>
    public string? Holder { get; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    /// <summary>Readable without a lock.</summary>
    public MemoryRegionState State => _state;

    /// <summary>
    /// What the port uses for the next packet; null while there is nothing to use. Readable without a lock.
    /// </summary>
    public Translation? Current => _current;

    /// <summary>Null once deregistered. Host lock held by the caller.</summary>
    public SharedBuffer? Buffer => _attachment?.Buffer;

    /// <summary>Bytes that peers wrote here. Written by the port.</summary>
    public long BytesPlaced { get; internal set; }

    /// <summary>
    /// Payload bytes that peers sent to this key while it was dead: none of them was placed. Written by the port.
    /// </summary>
    public long BytesRejected { get; internal set; }

    /// <summary>
    /// PSN of the last packet placed here; meaningful once <see cref="BytesPlaced"/> is not zero. Written by the port.
    /// </summary>
    public uint LastPlacedPsn { get; internal set; }

    /// <summary>PSN of the first packet refused because the key is dead; null before. Written by the port.</summary>
    public uint? FirstRejectedPsn { get; internal set; }

    /// <summary>What is behind it when that is no shared buffer. Set once, before the key can be found.</summary>
    internal RegionBacking? Backing { get; set; }

    /// <summary>The first translation this region had, for a broken responder that never looks again.</summary>
    internal Translation? FirstTranslation { get; private set; }

    /// <summary>
    /// Maps a region that the owner moved, or finishes a registration that had to wait
    /// (<c>ib_umem_dmabuf_map_pages</c>). Host lock held; reservation of <see cref="Buffer"/> held by the ticket. The
    /// edge calls it for every region that <see cref="RdmaPort.PollFault"/> hands out, and again after each fence it
    /// was told to wait for.
    /// </summary>
    /// <returns>
    /// Mapped when the region is valid; MustWait for users of the old mapping or for KERNEL fences; Refused with
    /// <see cref="Errno.EINVAL"/> when the region is dead, or with what the exporter says. After the exporter's refusal
    /// the next access is an access error of its queue pair, and the one after that asks for a map again.
    /// </returns>
    public MapOutcome RemapLocked(AcquireTicket ticket)
    {
        if (_state == MemoryRegionState.Dead || _attachment is not { } attachment)
        {
            ClearFault();
            return MapOutcome.Refused(Errno.EINVAL);
        }

        attachment.Buffer.Reservation.AssertLocked(ticket);
        if (_drain is { HasEnded: false } drain)
        {
            return drain.IsSignaled ? RefuseWhileInside() : MapOutcome.MustWait(drain);
        }

        if (_current is { } current)
        {
            ClearFault();
            return MapOutcome.Mapped(current.Addresses);
        }

        if (attachment.State == MappingState.Unmapped)
        {
            MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
            if (outcome.Kind != MapOutcomeKind.Mapped)
            {
                NoteRefused();
                return outcome;
            }

            _pending = outcome.Addresses;
        }

        // The addresses are right from now on, but a copy of the mover may still be on its way there.
        if (attachment.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is { } copy)
        {
            return MapOutcome.MustWait(copy);
        }

        DmaAddressList addresses = _pending
            ?? throw new InvalidOperationException($"{Name} is mapped without addresses");
        _pending = null;
        Publish(new Translation(addresses, new InFlightGate(_handleDrained)));
        return MapOutcome.Mapped(addresses);
    }

    public override string ToString() => Name;

    /// <summary>
    /// Whether a request of that domain may touch the range with those rights. The state is not looked at.
    /// </summary>
    internal bool Permits(ProtectionDomain domain, AccessFlags need, ulong address, ulong lengthBytes) =>
        ReferenceEquals(domain, Domain)
        && (Access & need) == need
        && address >= Iova
        && lengthBytes <= LengthBytes
        && address - Iova <= LengthBytes - lengthBytes;

    /// <summary>A window is bound to it. False when it is being deregistered. Port token held.</summary>
    internal bool TryAddWindow() => _windows.TryAdd();

    /// <summary>A window was unbound. Port token held.</summary>
    internal void RemoveWindow() => _windows.Remove();

    /// <summary>Lets no more windows in; false while one is bound.</summary>
    internal bool TryRefuseWindows() => _windows.TryRefuse();

    /// <summary>
    /// Whether the last map was refused and no access has been told so yet: the port takes the answer as it asks.
    /// </summary>
    internal bool TryTakeMapRefusal() =>
        Volatile.Read(ref _mapRefused) != 0 && Interlocked.Exchange(ref _mapRefused, 0) != 0;

    /// <summary>The port met this region while it was invalidated. True for the first of several.</summary>
    internal bool TryMarkFaulted() => Interlocked.Exchange(ref _faulted, 1) == 0;

    /// <summary>
    /// Binds the region to its buffer: attach and, for the pinned kinds, pin. Host lock and reservation held.
    /// </summary>
    internal Errno AttachLocked(AcquireTicket ticket, SharedBuffer buffer, PciFunction function)
    {
        IImporter importer = Kind == ImporterKind.Pinned
            ? new PinnedRegionImporter(this)
            : new RevocableRegionImporter(this);
        Errno errno = buffer.TryAttach(function, importer, out Attachment? attachment);
        if (errno != Errno.Success || attachment is null)
        {
            return errno;
        }

        if (Kind != ImporterKind.Dynamic)
        {
            errno = attachment.PinLocked(ticket);
            if (errno != Errno.Success)
            {
                buffer.Detach(attachment);
                return errno;
            }
        }

        _attachment = attachment;
        return Errno.Success;
    }

    /// <summary>
    /// Ends a region over a buffer but for its key, which the device still holds. Host lock and reservation held.
    /// Idempotent.
    /// </summary>
    /// <returns>A fence when the port is inside the gate: call again once it has signalled.</returns>
    internal Fence? ReleaseLocked(AcquireTicket ticket)
    {
        if (_attachment is not { } attachment)
        {
            return null;
        }

        Stop(MemoryRegionState.Dead, out _);
        if (_drain is { HasEnded: false } drain)
        {
            return drain;
        }

        if (attachment.State != MappingState.Unmapped)
        {
            attachment.UnmapLocked(ticket);
        }

        _pending = null;
        while (attachment.PinCount > 0)
        {
            attachment.UnpinLocked(ticket);
        }

        attachment.Buffer.Detach(attachment);
        _attachment = null;
        return null;
    }

    /// <summary>
    /// Its key names another region: what becomes of its memory from here on is no loss of the key. Host lock held.
    /// </summary>
    internal void HandleReplaced() => _isReplaced = true;

    /// <summary>What its backing has for the port from now on. Nothing once it is dead. Host lock held.</summary>
    internal void PublishBacked(Translation translation)
    {
        if (_state != MemoryRegionState.Dead)
        {
            Publish(translation);
        }
    }

    /// <summary>No packet enters any more; the backing closes the gate afterwards. Host lock held.</summary>
    internal void KillBacked()
    {
        if (_state != MemoryRegionState.Dead)
        {
            _state = MemoryRegionState.Dead;
            _current = null;
            _host.Trace("rdma.key_dead", Name, Key, LastPlacedPsn);
            _device.NotifyChanged();
        }
    }

    /// <summary>A fault of its backing ended without a page: who waits for it asks again, and is told.</summary>
    internal void EndFaultBacked()
    {
        ClearFault();
        _device.NotifyChanged();
    }

    internal InvalidateOutcome HandleInvalidate(Attachment attachment)
    {
        using SignalingSection section = new(Name, "drain");
        if (_device.Options.Revocation == RegionRevocation.Quiesce && _current is not null)
        {
            if (!_device.Options.Defences.StandsStill)
            {
                return PretendToStop(attachment);
            }

            if (_drain is not { HasEnded: false })
            {
                _drain = _timeline.CreateFence(); // signalled by the port when it stands still
                _device.Hangs.Add(_drain, _device.Users);
                _device.Port.Announcements.RequestQuiesce(this);
            }

            return InvalidateOutcome.Draining(_drain);
        }

        return Invalidate(attachment);
    }

    /// <summary>
    /// The port stands still: it is in no packet, and serves none before this returns. Port token and host lock held.
    /// </summary>
    internal void HandleQuiesced()
    {
        using SignalingSection section = new(Name, "drain");
        (Fence? drain, _drain) = (_drain, null);
        if (_attachment is { State: MappingState.Invalidated } attachment && Invalidate(attachment).Fence is not null)
        {
            throw new InvalidOperationException($"{Name}: the port stands still inside its gate");
        }

        drain?.Signal();
    }

    // The broken twin: the key stays alive.
    private InvalidateOutcome PretendToStop(Attachment attachment)
    {
        attachment.Evidence?.RecordKeyDead(Key);
        attachment.Evidence?.RecordGateClosed(0);
        attachment.Evidence?.RecordDrained();
        if (attachment.State == MappingState.Invalidated)
        {
            attachment.UnmapInvalidated();
        }

        return InvalidateOutcome.Done;
    }

    private InvalidateOutcome Invalidate(Attachment attachment)
    {
        // The key of a pinned region dies whatever the reason: nobody maps it again.
        bool dies = attachment.Buffer.IsRevoked || Kind != ImporterKind.Dynamic || IsLegacyPeer;
        bool wasAlive = _state != MemoryRegionState.Dead;
        Stop(dies ? MemoryRegionState.Dead : MemoryRegionState.Invalidated, out long inside);
        ImporterEvidence? evidence = attachment.Evidence;
        if (dies)
        {
            evidence?.RecordKeyDead(Key);
            if (wasAlive)
            {
                _host.Trace("rdma.key_dead", Name, Key, LastPlacedPsn);
                if (IsLegacyPeer && !_isReplaced)
                {
                    HandleLost();
                }
            }
        }

        evidence?.RecordGateClosed(inside);
        _host.Trace("rdma.gate_closed", Name, Key, inside);
        _pending = null;
        if (_drain is { HasEnded: false } drain)
        {
            return InvalidateOutcome.Draining(drain);
        }

        evidence?.RecordDrained();
        if (attachment.State == MappingState.Invalidated)
        {
            attachment.UnmapInvalidated();
        }

        return InvalidateOutcome.Done;
    }

    // Nobody was asked before, so somebody is told afterwards.
    private void HandleLost()
    {
        _device.Port.Announcements.NoteLost(this);
        if (_lost is { } lost)
        {
            _host.Defer(() => lost(this));
        }
    }

    // The drain was forced: waiters went on, but the port is still inside, and this mapping has not ended.
    private MapOutcome RefuseWhileInside()
    {
        NoteRefused();
        return MapOutcome.Refused(Errno.EBUSY);
    }

    private void Publish(Translation translation)
    {
        FirstTranslation ??= translation;
        _current = translation;
        _state = MemoryRegionState.Valid;
        Volatile.Write(ref _mapRefused, 0);
        ClearFault();
        _host.Trace("rdma.region_mapped", Name, Key);
        _device.NotifyChanged();
    }

    private void Stop(MemoryRegionState next, out long inside)
    {
        if (_state != MemoryRegionState.Dead)
        {
            _state = next;
            if (next == MemoryRegionState.Dead)
            {
                _device.NotifyChanged(); // who waits for a map waits in vain
            }
        }

        Translation? current = _current;
        _current = null;
        if (current is null)
        {
            inside = _closing?.Inside ?? 0;
        }
        else if (!current.Gate.Close(out inside))
        {
            // The last user reports through HandleDrained, which waits for the lock that is held here.
            _closing = current.Gate;
            if (_drain is not { HasEnded: false })
            {
                _drain = _timeline.CreateFence();
                _device.Hangs.Add(_drain, _device.Users);
            }
        }
    }

    /// <summary>Runs on the port's thread, as the last user leaves a closed gate, without any lock.</summary>
    private void HandleDrained()
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(Name, "drain");
            _host.Trace("rdma.gate_drained", Name, Key, LastPlacedPsn);
            if (_attachment is { } attachment)
            {
                attachment.Evidence?.RecordDrained();
                if (attachment.State == MappingState.Invalidated)
                {
                    attachment.UnmapInvalidated();
                }
            }

            (Fence? drain, _drain, _closing) = (_drain, null, null);
            drain?.Signal();
            if (drain is { IsForced: true })
            {
                // Maps were refused while somebody was still inside. Now one may succeed: what waits asks again, and a
                // refusal that nobody was told yet is out of date.
                Volatile.Write(ref _mapRefused, 0);
                _device.NotifyChanged();
            }
        }
    }

    // Who waits for the map would wait for ever: a fault that cannot be served is an access error (linux.md 5.7).
    private void NoteRefused()
    {
        Volatile.Write(ref _mapRefused, 1);
        ClearFault();
        _device.NotifyChanged();
    }

    private void ClearFault() => Volatile.Write(ref _faulted, 0);
}
