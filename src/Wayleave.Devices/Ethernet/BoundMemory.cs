using System.Diagnostics.CodeAnalysis;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

// Who runs what. The host lock guards everything but the two fields that the port reads without it: the translation and
// the revoked mark. Access happens under the port token, inside the gate. A static binding is never told anything: its
// memory stays where it is until it lets go. A revocable one dies once, under the host lock:
//
//   revoked := true;  translation := null;  close the gate;  tell the port
//   nobody inside: unmap at once            the port is inside: as it leaves, it takes the host lock and unmaps
//
// Letting go is the port's: nobody can be inside then, because whoever lets go holds the token.

/// <summary>
/// A NIC's hold on a shared buffer: attached, pinned if its kind pins, and mapped
/// (<c>net_devmem_bind_dmabuf</c>). Either a static importer as in Linux, which nobody can make stop, or one that stops
/// for good when the owner revokes.
/// </summary>
internal sealed class BoundMemory
{
    private readonly HostContext _host;
    private readonly NicDefences _defences;
    private readonly Timeline _timeline;
    private readonly Action _revoked;
    private readonly uint _id;
    private readonly string? _holder;
    private Attachment? _attachment;
    private volatile Translation? _current;
    private volatile bool _isRevoked;
    private Translation? _first; // for a broken port that never looks again
    private Fence? _drain;
    private Action? _released;

    /// <param name="host">Whose lock guards it.</param>
    /// <param name="name">For people and proofs.</param>
    /// <param name="id">The binding's id, which a proof names as the dead key.</param>
    /// <param name="kind">Static or PinnedRevocable.</param>
    /// <param name="holder">On whose behalf, for quarantine accounts; null for the device's.</param>
    /// <param name="defences">What is switched off in a test.</param>
    /// <param name="revoked">Runs once, with the host lock held, when the owner has revoked.</param>
    public BoundMemory(
        HostContext host,
        string name,
        uint id,
        ImporterKind kind,
        string? holder,
        NicDefences defences,
        Action revoked)
    {
        (_host, Name, _id, Kind, _holder, _defences, _revoked) = (host, name, id, kind, holder, defences, revoked);
        _timeline = new Timeline(host, name);
    }

    public string Name { get; }

    public ImporterKind Kind { get; }

    /// <summary>Readable without a lock.</summary>
    public bool IsRevoked => _isRevoked;

    /// <summary>Null before it is bound and once everything was let go. Host lock held by the caller.</summary>
    public Attachment? Attachment => _attachment;

    /// <summary>
    /// Attaches, pins if the kind pins, and maps. Host lock and reservation held. After anything but Success nothing is
    /// left behind.
    /// </summary>
    public BindOutcome BindLocked(
        AcquireTicket ticket, SharedBuffer buffer, PciFunction function, DmaDirection direction)
    {
        IImporter? importer = Kind == ImporterKind.Static ? null : new RevocableImporter(this);
        Errno errno = buffer.TryAttach(function, importer, out Attachment? attachment);
        if (errno != Errno.Success || attachment is null)
        {
            return BindOutcome.Refused(errno, $"{buffer.Exporter.Name} does not let {function.Name} attach: {errno}");
        }

        errno = Kind == ImporterKind.Static ? Errno.Success : attachment.PinLocked(ticket);
        if (errno != Errno.Success)
        {
            buffer.Detach(attachment);
            return BindOutcome.Refused(errno, $"{buffer.Exporter.Name} cannot be pinned for {function.Name}: {errno}");
        }

        MapOutcome mapped = attachment.MapLocked(ticket, direction);
        Fence? pending = mapped.Kind == MapOutcomeKind.MustWait ? mapped.Fence : null;

        // An importer that is not static waits for the KERNEL fences itself.
        pending ??= mapped.Kind == MapOutcomeKind.Mapped && Kind != ImporterKind.Static
            ? buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel)
            : null;
        if (mapped.Kind != MapOutcomeKind.Mapped || pending is not null)
        {
            Undo(ticket, attachment);
            return pending is not null
                ? BindOutcome.MustWait(pending)
                : BindOutcome.Refused(
                    mapped.Errno, $"{buffer.Exporter.Name} cannot be mapped for {function.Name}: {mapped.Errno}");
        }

        _attachment = attachment;
        _current = new Translation(mapped.Addresses!, new InFlightGate(HandleDrained));
        _first = _current;
        return BindOutcome.Bound;
    }

    /// <summary>Undoes a bind that was not shown to the port yet. Host lock and reservation held.</summary>
    public void UnbindLocked(AcquireTicket ticket)
    {
        _current = null;
        Undo(ticket, _attachment!);
        _attachment = null;
    }

    /// <summary>
    /// Enters the gate of the present translation, for one packet; ends with <see cref="Leave"/>. Port token held.
    /// </summary>
    public bool TryEnter([NotNullWhen(true)] out Translation? translation)
    {
        translation = _defences.ReadsTranslationPerFrame ? _current : _first;
        Interleave.Point("nic: translation read");
        return translation is not null && (!_defences.EntersGate || translation.Gate.TryEnter());
    }

    /// <summary>Leaves; the last one out of a closed gate reports it. Port token held, host lock not held.</summary>
    public void Leave(Translation translation)
    {
        Interleave.Point("nic: copied");
        if (_defences.EntersGate)
        {
            translation.Gate.Exit();
        }
    }

    /// <summary>Copies to the buffer, inside the gate.</summary>
    /// <returns><see cref="Errno.EFAULT"/> when nothing answers there; a part may be written.</returns>
    public static Errno Write(DmaPort dma, Translation translation, ulong offset, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            if (!translation.Addresses.TryLocate(offset, out DeviceAddress target, out ulong contiguous)
                || dma.TryWrite(target, Clamp(contiguous, bytes.Length), out Span<byte> span) != Errno.Success)
            {
                return Errno.EFAULT;
            }

            bytes[..span.Length].CopyTo(span);
            bytes = bytes[span.Length..];
            offset += (ulong)span.Length;
        }

        return Errno.Success;
    }

    /// <summary>Copies from the buffer, inside the gate.</summary>
    /// <returns><see cref="Errno.EFAULT"/> when nothing answers there; a part may be read.</returns>
    public static Errno Read(DmaPort dma, Translation translation, ulong offset, Span<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            if (!translation.Addresses.TryLocate(offset, out DeviceAddress source, out ulong contiguous)
                || dma.TryRead(source, Clamp(contiguous, bytes.Length), out ReadOnlySpan<byte> span) != Errno.Success)
            {
                return Errno.EFAULT;
            }

            span.CopyTo(bytes);
            bytes = bytes[span.Length..];
            offset += (ulong)span.Length;
        }

        return Errno.Success;
    }

    /// <summary>
    /// Lets go of everything: unmap, unpin, detach. Nobody is inside: port token held by the caller, and the host lock.
    /// Ends at once, or when the reservation is free.
    /// </summary>
    /// <param name="released">Runs once it has ended, with the host lock held.</param>
    public void BeginRelease(Action released)
    {
        _host.AssertHeld();
        Translation? current = _current;
        _current = null;
        current?.Gate.Close(out _);
        _released = released;
        Reservation reservation = _attachment!.Buffer.Reservation;
        AcquireTicket ticket = new(_host, Name);
        if (reservation.TryLock(ticket).Wait is not { } wait)
        {
            ReleaseLocked(ticket);
            return;
        }

        wait.TryAddCallback(() =>
        {
            using (_host.Enter())
            {
                ReleaseLocked(ticket);
            }
        });
    }

    private static int Clamp(ulong contiguous, int wanted) => (int)Math.Min((ulong)wanted, contiguous);

    private static void Undo(AcquireTicket ticket, Attachment attachment)
    {
        if (attachment.State != MappingState.Unmapped)
        {
            attachment.UnmapLocked(ticket);
        }

        while (attachment.PinCount > 0)
        {
            attachment.UnpinLocked(ticket);
        }

        attachment.Buffer.Detach(attachment);
    }

    private void ReleaseLocked(AcquireTicket ticket)
    {
        Attachment attachment = _attachment!;
        SharedBuffer buffer = attachment.Buffer;
        _attachment = null;
        Undo(ticket, attachment);
        buffer.Reservation.Unlock(ticket);
        _host.Trace("nic.binding_released", Name, _id);
        _released!();
    }

    private InvalidateOutcome HandleInvalidate(Attachment attachment)
    {
        // Pinned: whatever the reason, it is final. The id is the key, and dies with it.
        bool isFirst = !_isRevoked;
        _isRevoked = true;
        Translation? current = _current;
        _current = null;
        attachment.Evidence?.RecordKeyDead(_id);
        long inside = 0;
        bool isDrained = current is null ? _drain is null : current.Gate.Close(out inside);
        attachment.Evidence?.RecordGateClosed(inside);
        _host.Trace("nic.gate_closed", Name, _id, inside);
        if (isFirst)
        {
            _revoked();
        }

        if (!isDrained)
        {
            _drain ??= _timeline.CreateFence();
            return InvalidateOutcome.Draining(_drain);
        }

        attachment.Evidence?.RecordDrained();
        if (attachment.State == MappingState.Invalidated)
        {
            attachment.UnmapInvalidated();
        }

        return InvalidateOutcome.Done;
    }

    /// <summary>Runs on the port's thread, as it leaves a gate that was closed meanwhile, without any lock.</summary>
    private void HandleDrained()
    {
        using (_host.Enter())
        {
            if (_attachment is { } attachment)
            {
                attachment.Evidence?.RecordDrained();
                if (attachment.State == MappingState.Invalidated)
                {
                    attachment.UnmapInvalidated();
                }
            }

            (Fence? drain, _drain) = (_drain, null);
            drain?.Signal();
        }
    }

    private sealed class RevocableImporter(BoundMemory memory) : IRevocableImporter
    {
        public string Name => memory.Name;

        public ImporterKind Kind => memory.Kind;

        public bool AllowPeerToPeer => true;

        public string? Holder => memory._holder;

        public InvalidateOutcome InvalidateMappings(Attachment attachment) => memory.HandleInvalidate(attachment);
    }
}
