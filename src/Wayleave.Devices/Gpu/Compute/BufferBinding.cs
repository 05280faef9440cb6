using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

// Why no gate for jobs: as with the copy engine, a job with a fence is in the reservation from its submission on, and
// whoever moves or takes the memory waits for that. The mapping ends with the last job that was submitted with it. An
// invalidation makes the next submission map again; a revoke besides cancels the jobs, which stop at the next block.

/// <summary>
/// A process's hold on a buffer, of its own GPU or of another device (<c>amdgpu_bo_va</c>): a dynamic importer. Host
/// lock held by the caller.
/// </summary>
internal sealed class BufferBinding : GpuBinding, IRevocableImporter
{
    private readonly Timeline _drains;
    private Attachment? _attachment;
    private Fence? _drain; // pending while the last jobs end

    public BufferBinding(GpuProcess process, uint handle, string bufferName, GpuAccess access)
        : base(process, handle, bufferName, access) => _drains = new Timeline(Host, Name);

    public string Holder => Process.Name;

    public ImporterKind Kind => ImporterKind.Dynamic;

    public bool AllowPeerToPeer => true;

    public override SharedBuffer? Buffer => _attachment?.Buffer;

    public override ulong SizeBytes => Buffer?.SizeBytes ?? 0;

    public override bool IsGone => Buffer is not { IsRevoked: false };

    internal override Reservation? Reservation => Buffer?.Reservation;

    internal override DmaAddressList? Addresses => _attachment?.Addresses;

    /// <inheritdoc/>
    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        if (attachment.State != MappingState.Invalidated)
        {
            return InvalidateOutcome.Done;
        }

        using SignalingSection section = new(Name, "drain");
        if (attachment.Buffer.IsRevoked)
        {
            Process.CancelJobsWith(this);
        }

        if (_drain is { HasEnded: false } pending)
        {
            return InvalidateOutcome.Draining(pending);
        }

        if (Jobs > 0)
        {
            Process.Eviction.RequestLater(); // those of user queues have no end of their own
        }

        attachment.Evidence!.RecordGateClosed(Jobs);
        if (Jobs == 0)
        {
            attachment.Evidence.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        _drain = _drains.CreateFence();
        foreach (QueueEngine engine in Process.Device.QueueEngines)
        {
            engine.AddDrain(_drain); // its jobs may be on any of them
        }

        return InvalidateOutcome.Draining(_drain);
    }

    internal Errno Attach(SharedBuffer buffer, PciFunction function) =>
        buffer.TryAttach(function, this, out _attachment);

    /// <summary>The addresses that the next job uses. Reservation held by the ticket.</summary>
    /// <returns>
    /// MustWait while jobs still use the place from which the buffer was moved; otherwise what a map says. KERNEL
    /// fences are the job's to wait for.
    /// </returns>
    internal override MapOutcome MapLocked(AcquireTicket ticket)
    {
        if (_attachment is not { } attachment || attachment.Buffer.IsRevoked)
        {
            return MapOutcome.Refused(Errno.ENODEV);
        }

        if (attachment.State == MappingState.Mapped)
        {
            return MapOutcome.Mapped(attachment.Addresses!);
        }

        if (_drain is { HasEnded: false } drain)
        {
            return drain.IsSignaled ? MapOutcome.Refused(Errno.EBUSY) : MapOutcome.MustWait(drain);
        }

        bool writes = (Access & GpuAccess.Write) != 0;
        return attachment.MapLocked(ticket, writes ? DmaDirection.Bidirectional : DmaDirection.ToDevice);
    }

    private protected override void HandleIdle()
    {
        if (_drain is not { } drain)
        {
            return;
        }

        _drain = null;
        if (_attachment is { State: MappingState.Invalidated } attachment)
        {
            attachment.Evidence!.RecordDrained();
            attachment.UnmapInvalidated();
        }

        drain.Signal();
    }

    private protected override void ReleaseNow()
    {
        if (_attachment is not { } attachment)
        {
            return;
        }

        AcquireTicket ticket = new(Host, $"release of {Name}");
        if (attachment.Buffer.Reservation.TryLock(ticket).Wait is not { } wait)
        {
            ReleaseLocked(ticket);
            return;
        }

        wait.TryAddCallback(() =>
        {
            using (Host.Enter())
            {
                ReleaseLocked(ticket);
            }
        });
    }

    private void ReleaseLocked(AcquireTicket ticket)
    {
        (Attachment attachment, _attachment) = (_attachment!, null);
        if (attachment.State != MappingState.Unmapped)
        {
            attachment.UnmapLocked(ticket);
        }

        attachment.Buffer.Reservation.Unlock(ticket);
        attachment.Buffer.Detach(attachment);
    }
}
