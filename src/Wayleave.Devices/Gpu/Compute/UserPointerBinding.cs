using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

// amdgpu_hmm.c and amdgpu_amdkfd_gpuvm.c. The pages are not pinned: they are the process's, and the notifier says when
// they go. What it does depends on who uses them:
//
//   jobs with fences    set the sequence, then wait for all of them, for as long as it takes: step 4 of the argument
//                       about fences in notifiers, legal for a graphics driver under C1 to C6 (linux.md 3.8)
//   user queues         set the sequence, stop the queues, and wait for no job: what is half done goes on after the
//                       restore, one millisecond later
//
// Before the next submission, and before the reservation is locked, the pages are faulted in again; whether they are
// still right is asked once more under the host lock, in the hold in which the job is published.

/// <summary>
/// Memory of a process at an address of its own, as its GPU reaches it. Host lock held by the caller.
/// </summary>
internal sealed class UserPointerBinding : GpuBinding, IMirror
{
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly PciFabric _fabric;
    private readonly PciFunction _function;
    private IntervalNotifier? _notifier;
    private MirrorRange? _look;
    private DmaAddressList? _mapped; // by the fabric, for jobs
    private bool _isValid;
    private ulong _sequence; // of the look that _mapped came from
    private Action<Errno>? _prepared;

    public UserPointerBinding(
        GpuProcess process, uint handle, AddressSpace space, AddressRange range, GpuAccess access)
        : base(process, handle, $"{space.Name} {range}", access)
    {
        (_space, _range) = (space, range);
        (_fabric, _function) = (process.Device.Fabric, process.Device.Function);
        Reservation = new Reservation(Host, Name);
    }

    public override SharedBuffer? Buffer => null;

    public override ulong SizeBytes => _range.LengthBytes;

    public override bool IsGone => _notifier is null || _space.IsDead;

    internal override Reservation? Reservation { get; }

    internal override DmaAddressList? Addresses => IsValid ? _mapped : null;

    private bool IsValid => _isValid && _notifier is { } notifier && !notifier.ReadRetry(_sequence);

    public Errno Subscribe()
    {
        Errno errno = _space.Subscribe(_range, this, out _notifier, mayWaitForFences: true);
        if (errno == Errno.Success)
        {
            bool writes = (Access & GpuAccess.Write) != 0;
            _look = new MirrorRange(_space, _notifier!, _range)
            {
                DefaultRequest = writes ? MirrorBits.Fault | MirrorBits.FaultWrite : MirrorBits.Fault,
            };
        }

        return errno;
    }

    public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
    {
        if (!range.IsBlockable)
        {
            return InvalidateAnswer.Refused;
        }

        notifier.SetSequence(sequence);
        _isValid = false;
        if (Jobs == 0)
        {
            Unmap();
            return InvalidateAnswer.Done;
        }

        MirrorDrain? left = Process.Eviction.StopForUserMemory();
        if (Reservation!.GetSingleton(ReservationUsage.Bookkeep) is { } jobs && !IsOnlyEviction(jobs))
        {
            return InvalidateAnswer.WaitFor(jobs);
        }

        return left is null ? InvalidateAnswer.Done : InvalidateAnswer.WaitFor(left);
    }

    internal override bool TryPrepare(Action<Errno> prepared)
    {
        if (IsValid || IsGone)
        {
            return true;
        }

        bool isUnderWay = _prepared is not null;
        _prepared += prepared;
        if (!isUnderWay)
        {
            Proceed(_look!.Update(Take));
        }

        return false;
    }

    internal override MapOutcome MapLocked(AcquireTicket ticket) =>
        IsGone ? MapOutcome.Refused(Errno.EFAULT)
        : IsValid ? MapOutcome.Mapped(_mapped!)
        : MapOutcome.Refused(Errno.EAGAIN);

    private protected override void HandleIdle()
    {
        if (!IsValid)
        {
            Unmap();
        }
    }

    private protected override void ReleaseNow()
    {
        _isValid = false;
        Unmap();
        _notifier?.Remove();
        _notifier = null;
    }

    private bool IsOnlyEviction(Fence jobs) => ReferenceEquals(jobs, Process.Eviction.Fence);

    private void Proceed(MirrorUpdateOperation update)
    {
        if (!update.Proceed())
        {
            bool waits = update.TryAddReadyCallback(() =>
            {
                using (Host.Enter())
                {
                    Proceed(update);
                }
            });
            if (waits)
            {
                return;
            }

            Proceed(update);
            return;
        }

        (Action<Errno> prepared, _prepared) = (_prepared!, null);
        Errno errno = update.Errno == Errno.Success && !IsValid ? Errno.EFAULT : update.Errno;
        Host.Defer(() =>
        {
            using (Host.Enter())
            {
                prepared(errno);
            }
        });
    }

    // With the host lock held, and the pages certain.
    private void Take(MirrorRange look)
    {
        if (IsGone)
        {
            return; // let go of while it was being looked at
        }

        DeviceRange[] ranges = new DeviceRange[look.Pages.Count];
        for (int i = 0; i < ranges.Length; i++)
        {
            if (look.Pages[i].Frame is not { Address.Value: not 0 } frame)
            {
                return; // no device reaches that page
            }

            if ((Access & GpuAccess.Write) != 0)
            {
                frame.MarkDirty(); // a job writes when it runs
            }

            ranges[i] = new DeviceRange(frame.Address, PageFrame.SizeBytes);
        }

        Unmap();
        if (_fabric.TryMap(_function, new DmaAddressList(ranges), out _mapped) == Errno.Success)
        {
            (_isValid, _sequence) = (true, look.Sequence);
        }
    }

    private void Unmap()
    {
        if (_mapped is { } mapped && Jobs == 0)
        {
            _mapped = null;
            _fabric.Unmap(_function, mapped);
        }
    }
}
