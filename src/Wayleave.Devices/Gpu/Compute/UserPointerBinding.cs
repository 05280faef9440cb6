using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
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
//   DrainLocally        set the sequence, then wait for the job that has begun here; the others, which wait for other
//                       devices, look the pages up again when they begin: with their fences published long ago
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
    private readonly bool _drainsLocally;
    private int _begun; // jobs that have had the engine and have not ended, where only those are waited for
    private MirrorDrain? _begunLeft;

    public UserPointerBinding(
        GpuProcess process,
        uint handle,
        AddressSpace space,
        AddressRange range,
        GpuAccess access,
        bool drainsLocally = false)
        : base(process, handle, $"{space.Name} {range}", access)
    {
        (_space, _range, _drainsLocally) = (space, range, drainsLocally);
        (_fabric, _function) = (process.Device.Fabric, process.Device.Function);
        Reservation = new Reservation(Host, Name);
    }

    public override SharedBuffer? Buffer => null;

    public override ulong SizeBytes => _range.LengthBytes;

    public override bool IsGone => _notifier is null || _space.IsDead;

    internal override Reservation? Reservation { get; }

    internal override DmaAddressList? Addresses => IsValid ? _mapped : null;

    /// <summary>
    /// A job that has not begun must look the pages up again. Callable without the lock, as a guess.
    /// </summary>
    internal bool IsStale => _drainsLocally && !IsGone
        && !(_isValid && _notifier is { } notifier && !notifier.CheckRetry(_sequence));

    // Whether somebody uses the addresses that were looked up last.
    private bool IsInUse => _drainsLocally ? _begun > 0 || Process.Eviction.Holds(this) : Jobs > 0;

    private bool IsValid => _isValid && _notifier is { } notifier && !notifier.ReadRetry(_sequence);

    public Errno Subscribe()
    {
        Errno errno = _space.Subscribe(_range, this, out _notifier, mayWaitForFences: true);
        if (errno == Errno.Success)
        {
            bool writes = (Access & GpuAccess.Write) != 0;
            _look = new MirrorRange(_space, _notifier!, _range)
            {
                NeedsAddresses = true,
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
        if (!IsInUse || !Process.Device.WaitsInNotifier)
        {
            Unmap();
            return InvalidateAnswer.Done;
        }

        MirrorDrain? left = Process.Eviction.StopForUserMemory();
        if (_drainsLocally)
        {
            return _begun == 0 ? AnswerOf(left) : AnswerOf(Both(_begunLeft ??= new MirrorDrain(Host), left));
        }

        if (Reservation!.GetSingleton(ReservationUsage.Bookkeep) is { } jobs && !IsOnlyEviction(jobs))
        {
            return InvalidateAnswer.WaitFor(jobs);
        }

        return AnswerOf(left);
    }

    /// <summary>A job with the memory has the engine for the first time.</summary>
    internal void BeginRun() => _begun++;

    /// <summary>It has ended: nothing of this binding is touched by it any more.</summary>
    internal void EndRun()
    {
        if (--_begun == 0)
        {
            (MirrorDrain? left, _begunLeft) = (_begunLeft, null);
            left?.Complete();
            if (!_isValid)
            {
                Unmap();
            }
        }
    }

    /// <summary>
    /// Pages are looked up again for a job whose fence is published: what this allocates, the fence waits for.
    /// </summary>
    /// <param name="activity">Who signals the fence.</param>
    /// <param name="looked">Runs with the host lock held at the end; not when there is nothing to do.</param>
    /// <returns>True when there is nothing to do.</returns>
    internal bool TryLookAgain(Activity activity, Action<Errno> looked) => TryPrepare(looked, activity);

    internal override bool TryPrepare(Action<Errno> prepared) => TryPrepare(prepared, activity: null);

    private bool TryPrepare(Action<Errno> prepared, Activity? activity)
    {
        if (IsValid || IsGone)
        {
            return true;
        }

        bool isUnderWay = _prepared is not null;
        _prepared += prepared;
        if (!isUnderWay)
        {
            Proceed(_look!.Update(Take, activity));
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

    private static InvalidateAnswer AnswerOf(MirrorDrain? left) =>
        left is null ? InvalidateAnswer.Done : InvalidateAnswer.WaitFor(left);

    private MirrorDrain Both(MirrorDrain one, MirrorDrain? other)
    {
        if (other is null)
        {
            return one;
        }

        MirrorDrain both = new(Host);
        int left = 2;
        void End()
        {
            using (Host.Enter())
            {
                EndOne();
            }
        }

        void EndOne()
        {
            if (--left == 0)
            {
                both.Complete();
            }
        }

        foreach (MirrorDrain drain in (MirrorDrain[])[one, other])
        {
            if (!drain.TryAddCallback(End))
            {
                EndOne();
            }
        }

        return both;
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
        if (_mapped is { } mapped && !IsInUse)
        {
            _mapped = null;
            _fabric.Unmap(_function, mapped);
        }
    }
}
