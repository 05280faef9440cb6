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
public sealed class GpuBinding : IRevocableImporter
{
    private readonly HostContext _host;
    private readonly Timeline _drains;
    private Attachment? _attachment;
    private Fence? _drain; // pending while the last jobs end
    private int _jobs;
    private Action? _released;

    internal GpuBinding(GpuProcess process, uint handle, string bufferName, GpuAccess access)
    {
        (Process, Handle, Access, _host) = (process, handle, access, process.Device.Host);
        Name = $"{process.Name} on {process.Device.Function.Name} for {bufferName}";
        _drains = new Timeline(_host, Name);
    }

    public GpuProcess Process { get; }

    /// <summary>The number by which the process's commands name it, never zero.</summary>
    public uint Handle { get; }

    /// <summary>What the process's commands may do with the buffer at most.</summary>
    public GpuAccess Access { get; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    public string Holder => Process.Name;

    public ImporterKind Kind => ImporterKind.Dynamic;

    public bool AllowPeerToPeer => true;

    /// <summary>Null once it is released.</summary>
    public SharedBuffer? Buffer => _attachment?.Buffer;

    /// <summary>Of the present mapping, or null.</summary>
    internal DmaAddressList? Addresses => _attachment?.Addresses;

    /// <summary>Jobs that were submitted with it and have not ended.</summary>
    public int Jobs => _jobs;

    public override string ToString() => Name;

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

        if (_jobs > 0)
        {
            Process.Eviction.RequestLater(); // those of user queues have no end of their own
        }

        attachment.Evidence!.RecordGateClosed(_jobs);
        if (_jobs == 0)
        {
            attachment.Evidence.RecordDrained();
            attachment.UnmapInvalidated();
            return InvalidateOutcome.Done;
        }

        _drain = _drains.CreateFence();
        Process.Device.ComputeEngine.AddDrain(_drain);
        return InvalidateOutcome.Draining(_drain);
    }

    internal Errno Attach(SharedBuffer buffer, PciFunction function) =>
        buffer.TryAttach(function, this, out _attachment);

    /// <summary>The addresses that the next job uses. Reservation held by the ticket.</summary>
    /// <returns>
    /// MustWait while jobs still use the place from which the buffer was moved; otherwise what a map says. KERNEL
    /// fences are the job's to wait for.
    /// </returns>
    internal MapOutcome MapLocked(AcquireTicket ticket)
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

    internal void BeginJob() => _jobs++;

    internal void EndJob()
    {
        _jobs--;
        if (_jobs > 0)
        {
            return;
        }

        if (_drain is { } drain)
        {
            _drain = null;
            if (_attachment is { State: MappingState.Invalidated } attachment)
            {
                attachment.Evidence!.RecordDrained();
                attachment.UnmapInvalidated();
            }

            drain.Signal();
        }

        if (_released is { } released)
        {
            _released = null;
            _host.Defer(released);
        }
    }

    /// <summary>
    /// Lets go of the buffer when the last job has ended and the reservation is free; on whatever thread that is.
    /// </summary>
    internal void Release()
    {
        if (_jobs > 0)
        {
            _released = () =>
            {
                using (_host.Enter())
                {
                    Release();
                }
            };
            return;
        }

        if (_attachment is not { } attachment)
        {
            return;
        }

        AcquireTicket ticket = new(_host, $"release of {Name}");
        if (attachment.Buffer.Reservation.TryLock(ticket).Wait is not { } wait)
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
