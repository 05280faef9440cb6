using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Vfio;

public enum IoMappingState
{
    /// <summary>Somebody has the buffer's reservation; the map follows.</summary>
    Mapping,

    /// <summary>Devices reach the memory.</summary>
    Mapped,

    /// <summary>The memory was taken back, or the late map was refused: devices fault there, for good.</summary>
    Dead,

    /// <summary>The user gives it up; somebody is inside, or has the reservation.</summary>
    Releasing,

    Released,
}

// Who runs what. TryTranslate: an engine, without the lock. All else with the host lock held. A mapping dies once: to
// iommufd a revoke is permanent, and the exporter's second life is for a new mapping.

/// <summary>
/// Memory of another device at an I/O address (<c>struct iopt_area</c> over a dma-buf). It pins, and stops for good
/// when it is told. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class IoMapping : IRevocableImporter
{
    private readonly IoAddressSpace _space;
    private readonly HostContext _host;
    private readonly Timeline _timeline;
    private readonly ulong _offset;
    private Attachment? _attachment;
    private volatile Translation? _current;
    private InFlightGate? _closing;
    private Fence? _drain;
    private Action? _completed;

    internal IoMapping(IoAddressSpace space, DeviceRange range, ulong offset)
    {
        (_space, _host, Range, _offset) = (space, space.Host, range, offset);
        Name = $"{space.Name} iova {range.Start}";
        _timeline = new Timeline(_host, Name);
    }

    /// <summary>I/O addresses.</summary>
    public DeviceRange Range { get; }

    public IoMappingState State { get; private set; }

    /// <summary>Why it died before it was mapped; Success otherwise.</summary>
    public Errno Error { get; private set; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    public ImporterKind Kind => ImporterKind.PinnedRevocable;

    public bool AllowPeerToPeer => true;

    /// <summary>
    /// Runs <paramref name="callback"/> when the map has come about or was refused, after the lock was released; false
    /// when that was before.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _host.AssertHeld();
        if (State != IoMappingState.Mapping)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    /// <summary>
    /// The user unmaps (<c>IOMMU_IOAS_UNMAP</c>): devices fault there from now on. Ends at once, or when the last
    /// access has left and the reservation is free. The second call does nothing.
    /// </summary>
    public void Release()
    {
        _host.AssertHeld();
        if (State is IoMappingState.Releasing or IoMappingState.Released)
        {
            return;
        }

        bool isDead = State == IoMappingState.Dead && _attachment is not { State: not MappingState.Unmapped };
        State = IoMappingState.Releasing;
        if (isDead)
        {
            Finish();
        }
        else if (CloseGate(out _))
        {
            Lock(UnmapLocked);
        }
    }

    public override string ToString() => Name;

    InvalidateOutcome IRevocableImporter.InvalidateMappings(Attachment attachment)
    {
        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        using SignalingSection section = new(Name, "drain");
        State = State == IoMappingState.Mapped ? IoMappingState.Dead : State;
        bool isDrained = CloseGate(out long inside);
        attachment.Evidence!.RecordGateClosed(inside);
        if (isDrained)
        {
            attachment.Evidence.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        if (_drain is null)
        {
            _drain = _timeline.CreateFence();
            _space.Hangs.Add(_drain, _space.Users);
        }

        return InvalidateOutcome.Draining(_drain);
    }

    internal Errno Start(Attachment attachment)
    {
        _attachment = attachment;
        Lock(MapLocked);
        return State == IoMappingState.Dead ? Error : Errno.Success;
    }

    internal bool TryTranslate(
        ulong iova, out Translation? translation, out DeviceAddress address, out ulong contiguousBytes)
    {
        ulong within = iova - Range.Start.Value;
        translation = _current;
        if (translation is null
            || !translation.Addresses.TryLocate(_offset + within, out address, out contiguousBytes))
        {
            (address, contiguousBytes) = (default, 0);
            return false;
        }

        contiguousBytes = Math.Min(contiguousBytes, Range.LengthBytes - within);
        return true;
    }

    private void MapLocked(AcquireTicket ticket)
    {
        if (_completed is { } callback)
        {
            _host.Defer(callback);
        }

        if (State != IoMappingState.Mapping)
        {
            return; // released while it waited
        }

        Errno errno = _attachment!.PinLocked(ticket);
        MapOutcome outcome = errno == Errno.Success
            ? _attachment.MapLocked(ticket, DmaDirection.Bidirectional)
            : MapOutcome.Refused(errno);
        if (outcome.Kind == MapOutcomeKind.Mapped)
        {
            _current = new Translation(outcome.Addresses!, new InFlightGate(HandleDrained));
            State = IoMappingState.Mapped;
            return;
        }

        if (errno == Errno.Success)
        {
            _attachment.UnpinLocked(ticket);
        }

        (State, Error) = (IoMappingState.Dead, outcome.Errno);
        _attachment.Buffer.Detach(_attachment);
        _attachment = null;
    }

    private void UnmapLocked(AcquireTicket ticket)
    {
        // A revoke may have come first, and has ended mapping and pin.
        if (_attachment!.State != MappingState.Unmapped)
        {
            _attachment.UnmapLocked(ticket);
        }

        while (_attachment.PinCount > 0)
        {
            _attachment.UnpinLocked(ticket);
        }

        Finish();
    }

    private void Finish()
    {
        if (_attachment is { } attachment)
        {
            attachment.Buffer.Detach(attachment);
            _attachment = null;
        }

        State = IoMappingState.Released;
        _space.Forget(this);
    }

    // Without the lock: the last access after the gate was closed.
    private void HandleDrained()
    {
        using (_host.Enter())
        {
            SignalDrain();
            if (State == IoMappingState.Releasing)
            {
                Lock(UnmapLocked);
            }
        }
    }

    private void SignalDrain()
    {
        using SignalingSection section = new(Name, "drain");
        if (_attachment!.State == MappingState.Invalidated)
        {
            _attachment.Evidence!.RecordDrained();
            _attachment.UnmapInvalidated();
        }

        (Fence? drain, _drain) = (_drain, null);
        drain?.Signal();
    }

    private bool CloseGate(out long inside)
    {
        _closing ??= _current?.Gate;
        _current = null;
        inside = 0;
        return _closing is null || _closing.Close(out inside);
    }

    private void Lock(Action<AcquireTicket> action)
    {
        Reservation reservation = _attachment!.Buffer.Reservation;
        AcquireTicket ticket = new(_host, Name);
        LockOutcome outcome = reservation.TryLock(ticket);
        if (outcome.Wait is not { } wait)
        {
            action(ticket);
            reservation.Unlock(ticket);
            return;
        }

        wait.TryAddCallback(() =>
        {
            using (_host.Enter())
            {
                action(ticket);
                reservation.Unlock(ticket);
            }
        });
    }
}
