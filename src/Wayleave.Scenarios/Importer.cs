using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// The least that a well-behaved importer does: a translation with its gate, a fence while it drains, an unmap at the
/// end. Dynamic, or pinned and revocable.
/// </summary>
internal sealed class Importer : IRevocableImporter
{
    private readonly HostContext _host;
    private readonly ImporterFaults _faults;
    private readonly Timeline _timeline;
    private readonly Attachment _attachment;
    private Translation? _current;
    private Fence? _drain; // pending while the last translation drains
    private bool _detached;

    public Importer(World world, string name, ImporterKind kind, ImporterFaults faults)
        : this(world.Host, world.Fabric, world.Lent.Shared, name, kind, faults)
    {
    }

    /// <summary>Attaches to a buffer. Host lock held.</summary>
    public Importer(
        HostContext host, PciFabric fabric, SharedBuffer buffer, string name, ImporterKind kind, ImporterFaults faults)
    {
        (_host, _faults, Name, Kind) = (host, faults, name, kind);
        PciFunction function = new(new PciAddress(0, (byte)(0x10 + fabric.Topology.Functions.Count), 0, 0), name);
        fabric.Plug(function);
        Port = new DmaPort(function);
        _timeline = new Timeline(_host, name);
        World.Require(Errno.Success, buffer.TryAttach(function, this, out Attachment? attachment));
        _attachment = attachment!;
    }

    public string Name { get; }

    public ImporterKind Kind { get; }

    public bool AllowPeerToPeer => true;

    public DmaPort Port { get; }

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

    public void AddTo(ref StateHash hash)
    {
        hash.Add(_current is null ? 0 : _current.Addresses.Entries[0].Start.Value);
        hash.Add(_drain is { HasEnded: false } ? 1UL : 0);
        hash.Add(_detached ? 0 : ((ulong)_attachment.State + 1) * 16 + (ulong)_attachment.PinCount);
    }

    private void HandleDrained()
    {
        using (_host.Enter())
        {
            if (_drain is { HasEnded: false } drain && _attachment.State == MappingState.Invalidated)
            {
                _attachment.Evidence!.RecordDrained();
                _attachment.UnmapInvalidated();
                if (_faults.ReportsDrain)
                {
                    drain.Signal();
                }
            }
        }
    }
}
