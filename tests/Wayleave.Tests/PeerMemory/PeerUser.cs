using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// A device that imports a buffer, with a real gate and a real way to memory: what it writes lands, or is refused.
/// Takes the host lock itself unless a member says otherwise.
/// </summary>
internal sealed class PeerUser(HostContext host, PciFunction device, ImporterKind kind = ImporterKind.Dynamic)
    : IRevocableImporter
{
    private readonly DmaPort _port = new(device);
    private readonly Timeline _timeline = host.IsHeld ? new Timeline(host, device.Name) : MakeTimeline(host, device);
    private Translation? _current;
    private InFlightGate? _entered;
    private Fence? _drain;

    public string Name => $"{Device.Name} user";

    public PciFunction Device { get; } = device;

    public ImporterKind Kind { get; } = kind;

    public bool AllowPeerToPeer => true;

    /// <summary>What tells it to stop is lost: an importer that hangs.</summary>
    public bool IsDeaf { get; init; }

    public Attachment? Attachment { get; private set; }

    public int Invalidations { get; private set; }

    public DmaAddressList Mapping => _current!.Addresses;

    public PeerImport Import(PeerHandle handle)
    {
        using (host.Enter())
        {
            Assert.Equal(Errno.Success, handle.TryImport(Device, this, out PeerImport? import));
            Attachment = import!.Attachment;
            return import;
        }
    }

    public Errno TryAttach(SharedBuffer buffer)
    {
        using (host.Enter())
        {
            Errno errno = buffer.TryAttach(Device, this, out Attachment? attachment);
            Attachment = attachment ?? Attachment;
            return errno;
        }
    }

    public Errno TryMap()
    {
        using (host.Enter())
        {
            Reservation reservation = Attachment!.Buffer.Reservation;
            AcquireTicket ticket = new(host, Name);
            Assert.Equal(LockOutcomeKind.Acquired, reservation.TryLock(ticket).Kind);
            Errno pinned =
                Kind == ImporterKind.PinnedRevocable ? Attachment.PinLocked(ticket) : Errno.Success;
            MapOutcome outcome = pinned == Errno.Success
                ? Attachment.MapLocked(ticket, DmaDirection.Bidirectional)
                : MapOutcome.Refused(pinned);
            reservation.Unlock(ticket);
            if (outcome.Kind == MapOutcomeKind.Mapped)
            {
                _current = new Translation(outcome.Addresses!, new InFlightGate(HandleDrained));
            }

            return outcome.Kind == MapOutcomeKind.Mapped ? Errno.Success : outcome.Errno;
        }
    }

    public void Map() => Assert.Equal(Errno.Success, TryMap());

    /// <summary>Unmaps by itself, before anybody asks.</summary>
    public void Unmap()
    {
        using (host.Enter())
        {
            Reservation reservation = Attachment!.Buffer.Reservation;
            AcquireTicket ticket = new(host, Name);
            Assert.Equal(LockOutcomeKind.Acquired, reservation.TryLock(ticket).Kind);
            Assert.True(_current!.Gate.Close(out _));
            Attachment.UnmapLocked(ticket);
            reservation.Unlock(ticket);
        }
    }

    /// <summary>One packet: enters the gate, writes one byte, leaves. False when the gate is closed.</summary>
    public bool TryWrite(ulong offset, byte value)
    {
        if (!TryEnter())
        {
            return false;
        }

        Land(offset, value);
        Leave();
        return true;
    }

    /// <summary>A packet that takes its time: inside until <see cref="Leave"/>.</summary>
    public bool TryEnter()
    {
        bool entered = _current!.Gate.TryEnter();
        _entered = entered ? _current.Gate : _entered;
        return entered;
    }

    /// <summary>A byte of the packet that is inside, or of a device that does not care about its gate.</summary>
    public void Land(ulong offset, byte value)
    {
        Assert.True(_current!.Addresses.TryLocate(offset, out DeviceAddress address, out _));
        Assert.Equal(Errno.Success, _port.TryWrite(address, 1, out Span<byte> bytes));
        bytes[0] = value;
    }

    public void Leave() => _entered!.Exit();

    InvalidateOutcome IRevocableImporter.InvalidateMappings(Attachment attachment)
    {
        Invalidations++;
        if (attachment.State != MappingState.Invalidated || IsDeaf)
        {
            return InvalidateOutcome.Done;
        }

        bool isDrained = _current!.Gate.Close(out long inside);
        attachment.Evidence!.RecordGateClosed(inside);
        if (isDrained)
        {
            attachment.Evidence.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        _drain ??= _timeline.CreateFence();
        return InvalidateOutcome.Draining(_drain);
    }

    private static Timeline MakeTimeline(HostContext host, PciFunction device)
    {
        using (host.Enter())
        {
            return new Timeline(host, device.Name);
        }
    }

    private void HandleDrained()
    {
        using (host.Enter())
        {
            Attachment!.Evidence!.RecordDrained();
            Attachment.UnmapInvalidated();
            (Fence drain, _drain) = (_drain!, null);
            drain.Signal();
        }
    }
}
