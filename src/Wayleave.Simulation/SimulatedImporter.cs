using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Simulation;

/// <summary>
/// The least that a well-behaved importer does: a translation with its gate, a fence while it drains, an unmap at the
/// end. Dynamic, or pinned and revocable.
/// </summary>
public sealed class SimulatedImporter : IRevocableImporter
{
    private readonly HostContext _host;
    private readonly ImporterFaults _faults;
    private readonly Timeline _timeline;
    private readonly Attachment _attachment;
    private Translation? _current;
    private int _done; // accesses
    private LockWait? _wait;
    private Translation? _inside;
    private Fence? _drain; // pending while the last translation drains
    private bool _detached;

    /// <summary>Attaches to a buffer, as a device of its own. Host lock held by the caller.</summary>
    /// <param name="host">The buffer's host.</param>
    /// <param name="fabric">Through which the device reaches memory.</param>
    /// <param name="buffer">Of the exporter that is explored.</param>
    /// <param name="name">For the story of a failing run.</param>
    /// <param name="kind">Dynamic, or pinned and revocable.</param>
    /// <param name="faults">Null for an importer that is right.</param>
    /// <exception cref="InvalidOperationException">The exporter refused; the message has the errno.</exception>
    public SimulatedImporter(
        HostContext host,
        PciFabric fabric,
        SharedBuffer buffer,
        string name,
        ImporterKind kind = ImporterKind.Dynamic,
        ImporterFaults? faults = null)
    {
        (_host, _faults, Name, Kind) = (host, faults ?? new ImporterFaults(), name, kind);
        PciFunction function = new(new PciAddress(0, (byte)(0x10 + fabric.Topology.Functions.Count), 0, 0), name);
        fabric.Plug(function);
        Port = new DmaPort(function);
        _timeline = new Timeline(_host, name);
        Errno errno = buffer.TryAttach(function, this, out Attachment? attachment);
        _attachment = attachment ?? throw new InvalidOperationException($"attach of {name}: {errno}");
    }

    public string Name { get; }

    public ImporterKind Kind { get; }

    public bool AllowPeerToPeer => true;

    /// <summary>The device's way to memory.</summary>
    public DmaPort Port { get; }

    /// <summary>Whether it is between entering and leaving in <see cref="Use"/>.</summary>
    public bool IsInside => _inside is not null;

    /// <summary>Whether a map was refused because the owner took the buffer back.</summary>
    public bool IsCutOff { get; private set; }

    /// <summary>What the next access goes through; null while there is nothing to use.</summary>
    public Translation? Current => _current;

    /// <summary>Whether the present mapping waits for the owner's copy.</summary>
    public bool MustWait =>
        _faults.WaitsForKernel
        && _attachment.State == MappingState.Mapped
        && _attachment.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is not null;

    /// <summary>Maps, after pinning if that is its kind. Reservation held by the ticket.</summary>
    public Errno MapLocked(AcquireTicket ticket)
    {
        if (Kind == ImporterKind.PinnedRevocable && _attachment.PinCount == 0)
        {
            Errno errno = _attachment.PinLocked(ticket);
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        return _attachment.State == MappingState.Mapped
            ? Errno.Success
            : _attachment.MapLocked(ticket, DmaDirection.Bidirectional).Errno;
    }

    /// <summary>Makes a translation of the mapping; false when the mapping was invalidated meanwhile.</summary>
    public bool TryPublish()
    {
        if (_attachment.State == MappingState.Mapped)
        {
            _current ??= new Translation(_attachment.Addresses!, new InFlightGate(HandleDrained));
        }

        return _attachment.State == MappingState.Mapped;
    }

    /// <summary>Unmaps, unpins and detaches. Reservation held by the ticket; nobody is inside.</summary>
    public void DetachLocked(AcquireTicket ticket)
    {
        _current?.Gate.Close(out _);
        _current = null;
        if (_attachment.State != MappingState.Unmapped)
        {
            _attachment.UnmapLocked(ticket);
        }

        while (_attachment.PinCount > 0)
        {
            _attachment.UnpinLocked(ticket);
        }

        _attachment.Buffer.Detach(_attachment);
        _detached = true;
    }

    /// <summary>
    /// Uses the buffer: map, wait for the owner's copy, enter the gate, access, leave; map again when it was told to
    /// stop; end after so many accesses, or when the buffer was taken back.
    /// </summary>
    /// <param name="rounds">How many accesses.</param>
    /// <param name="access">One access, inside the gate, at the address of the buffer's first byte.</param>
    /// <param name="detaches">Whether it lets go of the buffer at the end.</param>
    public IEnumerable<Step> Use(int rounds, Action<DeviceAddress> access, bool detaches = false)
    {
        Reservation reservation = _attachment.Buffer.Reservation;
        while (_done < rounds && !IsCutOff)
        {
            if (_current is null)
            {
                AcquireTicket ticket = Lock();
                yield return new("map", HasLock);
                using (_host.Enter())
                {
                    Errno errno = MapLocked(ticket);
                    reservation.Unlock(ticket);
                    IsCutOff = errno == Errno.ENODEV;
                    if (errno is not (Errno.Success or Errno.ENODEV))
                    {
                        throw new ViolationException($"{Name} is refused a map: {errno}");
                    }
                }

                yield return new("wait for the copy", () => !IsCopyPending());
                using (_host.Enter())
                {
                    TryPublish();
                }

                continue;
            }

            yield return "enter";
            if (_current is not { } translation || !translation.Gate.TryEnter())
            {
                continue; // told to stop
            }

            _inside = translation;
            yield return "access";
            access(translation.Addresses.Entries[0].Start);
            _done++;
            yield return "leave";
            _inside = null;
            translation.Gate.Exit();
        }

        if (detaches)
        {
            AcquireTicket ticket = Lock();
            yield return new("detach", HasLock);
            using (_host.Enter())
            {
                DetachLocked(ticket);
                reservation.Unlock(ticket);
            }
        }
    }

    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        if (!_faults.ListensToInvalidation)
        {
            return InvalidateOutcome.Done;
        }

        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        using SignalingSection section = new(Name, "drain");

        // Told before, and somebody is still inside, even if the fence was forced since.
        if (_drain is { HasEnded: false } pending)
        {
            return InvalidateOutcome.Draining(pending);
        }

        Translation? translation = _current;
        _current = _faults.ClosesGate ? null : _current;
        if (translation is null)
        {
            attachment.UnmapInvalidated(); // mapped, and not used yet
            return InvalidateOutcome.Done;
        }

        long inside = 0;
        bool drained = !_faults.ClosesGate || translation.Gate.Close(out inside);
        attachment.Evidence!.RecordGateClosed(inside);
        if (drained || !_faults.WaitsForDrain)
        {
            attachment.Evidence!.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        _drain = _timeline.CreateFence(); // signalled by HandleDrained
        return InvalidateOutcome.Draining(_drain);
    }

    /// <summary>Adds what of its state a later step can see, for a fingerprint.</summary>
    public void AddTo(ref StateHash hash)
    {
        hash.Add((ulong)_done);
        hash.Add((IsCutOff ? 1UL : 0) + (_wait is null ? 0UL : _wait.IsCompleted ? 2UL : 4UL));
        hash.Add(_wait is { IsCompleted: false } waiting ? waiting.Ticket.Stamp : 0); // its place in the queue
        hash.Add(_inside is null ? 0 : _inside.Addresses.Entries[0].Start.Value + (_inside.Gate.IsClosed ? 1UL : 0));
        hash.Add(_current is null ? 0 : _current.Addresses.Entries[0].Start.Value);
        hash.Add(_drain is { HasEnded: false } ? 1UL : 0);
        hash.Add(_detached ? 0 : ((ulong)_attachment.State + 1) * 16 + (ulong)_attachment.PinCount);
    }

    private AcquireTicket Lock()
    {
        using (_host.Enter())
        {
            AcquireTicket ticket = new(_host, Name);
            _wait = _attachment.Buffer.Reservation.TryLock(ticket).Wait;
            return ticket;
        }
    }

    private bool HasLock() => _wait is null or { IsCompleted: true };

    private bool IsCopyPending()
    {
        using (_host.Enter())
        {
            return MustWait;
        }
    }

    private void HandleDrained()
    {
        using (_host.Enter())
        {
            using SignalingSection section = new(Name, "drain");
            if (_drain is { HasEnded: false } drain && _attachment.State == MappingState.Invalidated)
            {
                _attachment.Evidence!.RecordDrained();
                if (!_faults.UnmapsWithoutLock)
                {
                    TouchReservation();
                }

                _attachment.UnmapInvalidated();
                if (_faults.ReportsDrain)
                {
                    drain.Signal();
                }
            }
        }
    }

    private void TouchReservation()
    {
        Reservation reservation = _attachment.Buffer.Reservation;
        AcquireTicket ticket = new(_host, $"drain of {Name}");
        LockOutcome outcome = reservation.TryLock(ticket);
        if (outcome.Wait is { } wait)
        {
            reservation.TryCancel(wait); // it is the asking that is wrong
        }
        else
        {
            reservation.Unlock(ticket);
        }
    }
}
