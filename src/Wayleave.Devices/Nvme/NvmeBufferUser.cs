using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

// Why no gate: the controller knows addresses, not translations, so nothing could ask one for each block. Its users of
// memory are commands, and each has a fence in the reservation from the moment it is sent until the controller has
// posted its completion, after which it does no DMA for it. An invalidation aborts the commands and ends when the last
// one has.

/// <summary>
/// A drive's hold on a shared buffer: a dynamic importer that reads and writes namespace blocks straight from and to
/// the buffer's memory. Host lock.
/// </summary>
public sealed class NvmeBufferUser : IRevocableImporter
{
    private readonly HostContext _host;
    private readonly NvmeDriver _driver;
    private readonly Timeline _drains;
    private readonly Stack<Timeline> _idle = new(); // commands end in any order: a timeline each
    private readonly Attachment _attachment;
    private readonly List<NvmeTransfer> _transfers = [];
    private Fence? _drain; // pending while the last commands end
    private Action? _idled;

    private NvmeBufferUser(
        HostContext host, NvmeDriver driver, PciFunction function, SharedBuffer buffer, out Errno errno)
    {
        (_host, _driver) = (host, driver);
        Name = $"{function.Name} for {buffer.Name}";
        _drains = new Timeline(host, $"{Name}, drains");
        errno = buffer.TryAttach(function, this, out Attachment? attachment);
        _attachment = attachment!;
    }

    public string Name { get; }

    public ImporterKind Kind => ImporterKind.Dynamic;

    public bool AllowPeerToPeer => true;

    /// <summary>Commands that have not ended.</summary>
    public int Outstanding => _transfers.Count;

    /// <summary>
    /// Off, an invalidation is done at once, whatever the drive still writes: the twin that tests must catch.
    /// </summary>
    internal bool WaitsForCommands { get; set; } = true;

    /// <summary>
    /// Attaches a drive to a buffer.
    /// </summary>
    /// <returns>What <see cref="SharedBuffer.TryAttach"/> returns.</returns>
    public static Errno TryCreate(
        HostContext host, NvmeDriver driver, PciFunction function, SharedBuffer buffer, out NvmeBufferUser? user)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        ArgumentNullException.ThrowIfNull(function);
        user = new NvmeBufferUser(host, driver, function, buffer, out Errno errno);
        user = errno == Errno.Success ? user : null;
        return errno;
    }

    /// <summary>
    /// Sends one command for a part of the buffer. The reservation is held by <paramref name="ticket"/> and its KERNEL
    /// fences have signalled.
    /// </summary>
    /// <param name="ticket">Who holds the reservation.</param>
    /// <param name="opcode">Read (into the buffer) or write (from it).</param>
    /// <param name="namespace">What is moved.</param>
    /// <param name="lba">The first block.</param>
    /// <param name="blocks">Blocks.</param>
    /// <param name="offset">Where in the buffer, in bytes.</param>
    /// <param name="fence">
    /// Signals when the drive is done with it; in the reservation as WRITE or READ. With EAGAIN: what to wait for, or
    /// null for <see cref="NvmeDriver.ObserveRoom"/>.
    /// </param>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when the buffer was taken back, <see cref="Errno.EAGAIN"/> when the drive has no
    /// slot, an invalidation is not over or a move that the map began is not: ask again; <see cref="Errno.EREMOTEIO"/>
    /// or <see cref="Errno.EBUSY"/> without a way to the memory; <see cref="Errno.EINVAL"/> for a range outside the
    /// buffer.
    /// </returns>
    public Errno TryStart(
        AcquireTicket ticket,
        NvmeOpcode opcode,
        NvmeNamespace @namespace,
        ulong lba,
        int blocks,
        ulong offset,
        out Fence? fence)
    {
        ArgumentNullException.ThrowIfNull(@namespace);
        _host.AssertHeld();
        fence = null;
        if (_attachment.Buffer.IsRevoked)
        {
            return Errno.ENODEV;
        }

        if (!_driver.HasRoom || _attachment.State == MappingState.Invalidated)
        {
            fence = _driver.HasRoom ? _drain : null;
            return _driver.State == NvmeDriverState.Ready ? Errno.EAGAIN : Errno.ENODEV;
        }

        if (_attachment.State == MappingState.Unmapped)
        {
            Errno errno = _attachment.MapLocked(ticket, DmaDirection.Bidirectional).Errno;
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        // The map itself may have begun a move, to where the drive reaches it: nothing is touched before its bytes are
        // there.
        if (_attachment.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is { } moving)
        {
            fence = moving;
            return Errno.EAGAIN;
        }

        _attachment.Buffer.Reservation.ReserveFences(ticket, 1);
        using SignalingSection section = new(Name, "submission");
        if (!_idle.TryPop(out Timeline? timeline))
        {
            timeline = new Timeline(_host, Name);
        }

        Fence ended = timeline.CreateFence();
        NvmeTransfer transfer = new()
        {
            Opcode = opcode,
            NamespaceId = @namespace.Id,
            StartLba = lba,
            BlockCount = blocks,
            BlockBytes = @namespace.BlockBytes,
            Addresses = _attachment.Addresses,
            Offset = offset,
            Fence = ended,
            Ended = t => HandleEnded(t, ended, timeline),
        };
        Errno sent = _driver.TrySubmit(transfer);
        if (sent != Errno.Success)
        {
            ended.Signal(sent);
            _idle.Push(timeline);
            return sent;
        }

        _transfers.Add(transfer);
        _driver.Hangs.Add(ended, _driver);
        ReservationUsage usage = opcode == NvmeOpcode.Read ? ReservationUsage.Write : ReservationUsage.Read;
        if (WaitsForCommands)
        {
            _attachment.Buffer.Reservation.AddFence(ticket, ended, usage);
        }

        fence = ended;
        return Errno.Success;
    }

    /// <summary>
    /// Asks the drive to stop every command: each ends soon, whatever the medium does. Fences signal as each ends.
    /// </summary>
    public void Abort()
    {
        _host.AssertHeld();
        foreach (NvmeTransfer transfer in _transfers)
        {
            _driver.Abort(transfer);
        }
    }

    /// <summary>
    /// Runs <paramref name="callback"/> when no command is under way any more, after the lock was released; false when
    /// none is.
    /// </summary>
    public bool TryObserveIdle(Action callback)
    {
        _host.AssertHeld();
        if (_transfers.Count == 0)
        {
            return false;
        }

        _idled += callback;
        return true;
    }

    /// <summary>Lets go of the buffer. Reservation held by the ticket; no command is under way.</summary>
    public void DetachLocked(AcquireTicket ticket)
    {
        _host.AssertHeld();
        if (_transfers.Count > 0)
        {
            throw new InvalidOperationException($"{Name} has {_transfers.Count} commands under way: wait for them");
        }

        if (_attachment.State != MappingState.Unmapped)
        {
            _attachment.UnmapLocked(ticket);
        }

        _attachment.Buffer.Detach(_attachment);
    }

    /// <inheritdoc/>
    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        using SignalingSection section = new(Name, "drain");
        if (_drain is { HasEnded: false } pending)
        {
            return InvalidateOutcome.Draining(pending);
        }

        attachment.Evidence!.RecordGateClosed(_transfers.Count);
        if (_transfers.Count == 0 || !WaitsForCommands)
        {
            attachment.Evidence!.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        // A move waits for the commands; only an owner who takes the memory back is in a hurry.
        if (attachment.Buffer.IsRevoked)
        {
            Abort();
        }

        _drain = _drains.CreateFence();
        _driver.Hangs.Add(_drain, _driver, extra: NvmeDriver.CommandTimeout); // a late command is aborted first
        return InvalidateOutcome.Draining(_drain);
    }

    private void HandleEnded(NvmeTransfer transfer, Fence ended, Timeline timeline)
    {
        _transfers.Remove(transfer);
        ended.Signal(transfer.Errno);
        _idle.Push(timeline);
        if (_transfers.Count == 0 && _idled is { } idled)
        {
            _idled = null;
            _host.Defer(idled);
        }

        if (_transfers.Count == 0 && _drain is { } drain)
        {
            _drain = null; // a drive that was stopped has signalled it before: the mapping ends all the same
            if (_attachment.State == MappingState.Invalidated)
            {
                _attachment.Evidence!.RecordDrained();
                _attachment.UnmapInvalidated();
            }

            drain.Signal();
        }
    }
}
