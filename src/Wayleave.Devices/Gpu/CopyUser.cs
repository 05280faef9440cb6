using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu;

// Why no gate: as CopyEngine says, the engine's users of memory are its jobs, and each has a fence in the reservation
// from the moment it is submitted. An invalidation ends when the last job has; a revoke cancels those that are left,
// which then copy no further block.

/// <summary>
/// A copy engine's hold on a shared buffer of any exporter: a dynamic importer whose jobs read from and write to the
/// buffer's memory. Host lock held by the caller.
/// </summary>
public sealed class CopyUser : IRevocableImporter
{
    private readonly GpuDevice _device;
    private readonly Timeline _copies;
    private readonly Timeline _drains;
    private readonly Attachment _attachment;
    private readonly Action<CopyJob> _handleEnded;
    private CopyUser? _source; // whose jobs _handleEndedWithSource ends there too
    private Action<CopyJob>? _handleEndedWithSource;
    private Fence? _drain; // pending while the last jobs end

    private CopyUser(GpuDevice device, SharedBuffer buffer, out Errno errno)
    {
        _device = device;
        Name = $"{device.CopyEngine.Name} for {buffer.Name}";
        _copies = new Timeline(device.Host, Name);
        _drains = new Timeline(device.Host, $"{Name}, drains");
        _handleEnded = HandleEnded;
        errno = buffer.TryAttach(device.Function, this, out Attachment? attachment);
        _attachment = attachment!;
    }

    public string Name { get; }

    public ImporterKind Kind => ImporterKind.Dynamic;

    public bool AllowPeerToPeer => true;

    /// <summary>The buffer that is held.</summary>
    public SharedBuffer Buffer => _attachment.Buffer;

    /// <summary>Jobs that have not ended.</summary>
    public int Outstanding { get; private set; }

    /// <summary>
    /// Off, an invalidation is done at once, whatever the engine still copies: the twin that tests must catch.
    /// </summary>
    internal bool WaitsForJobs { get; set; } = true;

    /// <summary>Attaches the copy engine of a GPU to a buffer.</summary>
    /// <returns>What <see cref="SharedBuffer.TryAttach"/> returns.</returns>
    public static Errno TryCreate(GpuDevice device, SharedBuffer buffer, out CopyUser? user)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(buffer);
        user = new CopyUser(device, buffer, out Errno errno);
        user = errno == Errno.Success ? user : null;
        return errno;
    }

    /// <summary>
    /// Maps the buffer for the engine, if it is not mapped. Reservation held by the ticket.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when the buffer was taken back; <see cref="Errno.EAGAIN"/> while an invalidation is
    /// not over or KERNEL fences are pending: ask again after those; <see cref="Errno.EBUSY"/> or
    /// <see cref="Errno.EREMOTEIO"/> without a way to the memory.
    /// </returns>
    public Errno TryMapLocked(AcquireTicket ticket)
    {
        _device.Host.AssertHeld();
        if (Buffer.IsRevoked)
        {
            return Errno.ENODEV;
        }

        if (_attachment.State == MappingState.Invalidated)
        {
            return Errno.EAGAIN;
        }

        if (_attachment.State == MappingState.Unmapped)
        {
            Errno errno = _attachment.MapLocked(ticket, DmaDirection.Bidirectional).Errno;
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        // The map itself may have begun a move: nothing is touched before its bytes are there.
        return Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel) is null ? Errno.Success : Errno.EAGAIN;
    }

    /// <summary>
    /// Submits a copy between two buffers that one engine holds. The ticket holds both reservations and both are
    /// mapped (<see cref="TryMapLocked"/>). The copy does not wait for READ and WRITE fences of others: who needs an
    /// order waits for them first.
    /// </summary>
    /// <param name="ticket">Who holds the reservations.</param>
    /// <param name="source">Gets the fence as READ.</param>
    /// <param name="sourceOffset">Where the copy starts there, in bytes.</param>
    /// <param name="target">Of the same engine; gets the fence as WRITE.</param>
    /// <param name="targetOffset">Where the copy starts there, in bytes.</param>
    /// <param name="lengthBytes">Positive.</param>
    /// <param name="fence">Signals when the engine is done with both.</param>
    /// <param name="waits">
    /// What has to signal before the copy starts; null for nothing. Copies of one target start in the order in which
    /// they were submitted: one that waits is the last of its target until it has ended.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a range outside a buffer, <see cref="CopyEngine.Refusal"/>, or
    /// <see cref="Errno.EDEADLK"/> when it would wait for itself. Then nothing was submitted.
    /// </returns>
    /// <exception cref="ArgumentException">The two are of different engines.</exception>
    /// <exception cref="InvalidOperationException">One of them is not mapped.</exception>
    public static Errno TryCopyLocked(
        AcquireTicket ticket,
        CopyUser source,
        ulong sourceOffset,
        CopyUser target,
        ulong targetOffset,
        ulong lengthBytes,
        out Fence? fence,
        IReadOnlyList<Fence>? waits = null)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(target);
        fence = null;
        if (!ReferenceEquals(source._device, target._device))
        {
            throw new ArgumentException($"{source.Name} and {target.Name} are not one engine", nameof(target));
        }

        DmaAddressList from = source.MappedAddresses;
        DmaAddressList to = target.MappedAddresses;
        if (lengthBytes == 0 || !IsWithin(sourceOffset, lengthBytes, from) || !IsWithin(targetOffset, lengthBytes, to))
        {
            return Errno.EINVAL;
        }

        CopyEngine engine = target._device.CopyEngine;
        if (engine.Refusal != Errno.Success)
        {
            return engine.Refusal;
        }

        source.Buffer.Reservation.ReserveFences(ticket, 1);
        target.Buffer.Reservation.ReserveFences(ticket, 1);
        CopyJob job = new()
        {
            Name = target.Name,
            Source = from,
            SourceOffset = sourceOffset,
            Target = to,
            TargetOffset = targetOffset,
            LengthBytes = lengthBytes,
            Fence = target._copies.CreateFence(),
            Waits = waits ?? CopyJob.None,
            Ended = target.EndingFor(source),
        };
        Errno errno = engine.TrySubmit(job); // it has room, so that only a circle is left to refuse
        if (errno != Errno.Success)
        {
            job.Fence.Signal(errno);
            return errno;
        }

        source.Outstanding++;
        target.Outstanding += ReferenceEquals(source, target) ? 0 : 1;
        source.AddFence(ticket, job.Fence, ReservationUsage.Read);
        target.AddFence(ticket, job.Fence, ReservationUsage.Write);
        fence = job.Fence;
        return Errno.Success;
    }

    /// <summary>Lets go of the buffer. Reservation held by the ticket; no job is in the ring.</summary>
    public void DetachLocked(AcquireTicket ticket)
    {
        _device.Host.AssertHeld();
        if (Outstanding > 0)
        {
            throw new InvalidOperationException($"{Name} has {Outstanding} copies under way: wait for them");
        }

        if (_attachment.State != MappingState.Unmapped)
        {
            _attachment.UnmapLocked(ticket);
        }

        Buffer.Detach(_attachment);
    }

    /// <inheritdoc/>
    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        if (_drain is { HasEnded: false } pending)
        {
            return InvalidateOutcome.Draining(pending);
        }

        attachment.Evidence!.RecordGateClosed(Outstanding);
        if (Outstanding == 0 || !WaitsForJobs)
        {
            attachment.Evidence!.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        // A move waits for the copies; only an owner who takes the memory back is in a hurry.
        if (Buffer.IsRevoked)
        {
            foreach (CopyJob job in _device.CopyEngine.Jobs)
            {
                if (ReferenceEquals(job.Target, attachment.Addresses)
                    || ReferenceEquals(job.Source, attachment.Addresses))
                {
                    job.Cancel();
                }
            }
        }

        _drain = _drains.CreateFence();
        return InvalidateOutcome.Draining(_drain);
    }

    private DmaAddressList MappedAddresses => _attachment.State == MappingState.Mapped
        ? _attachment.Addresses!
        : throw new InvalidOperationException($"{Name} is not mapped: call TryMapLocked first");

    private static bool IsWithin(ulong offset, ulong lengthBytes, DmaAddressList addresses) =>
        offset <= addresses.LengthBytes && lengthBytes <= addresses.LengthBytes - offset;

    private void AddFence(AcquireTicket ticket, Fence fence, ReservationUsage usage)
    {
        if (WaitsForJobs)
        {
            Buffer.Reservation.AddFence(ticket, fence, usage);
        }
    }

    // One delegate per pair, not per job.
    private Action<CopyJob> EndingFor(CopyUser source)
    {
        if (ReferenceEquals(source, this))
        {
            return _handleEnded;
        }

        if (!ReferenceEquals(_source, source) || _handleEndedWithSource is null)
        {
            _source = source;
            _handleEndedWithSource = job =>
            {
                source.HandleEnded(job);
                HandleEnded(job);
            };
        }

        return _handleEndedWithSource;
    }

    private void HandleEnded(CopyJob job)
    {
        Outstanding--;
        if (Outstanding == 0 && _drain is { HasEnded: false } drain)
        {
            if (_attachment.State == MappingState.Invalidated)
            {
                _attachment.Evidence!.RecordDrained();
                _attachment.UnmapInvalidated();
            }

            drain.Signal();
        }
    }
}
