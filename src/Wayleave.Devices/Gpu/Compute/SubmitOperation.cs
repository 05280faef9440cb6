using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>What is submitted.</summary>
/// <param name="Mode">Who checks the memory that the commands name.</param>
/// <param name="Commands">Copied before it is looked at.</param>
/// <param name="Waits">
/// In-fences, of any device: the job starts when all have signalled. Fences of a program's own are refused.
/// </param>
public sealed record GpuSubmission(
    GpuCommandMode Mode, ReadOnlyMemory<byte> Commands, IReadOnlyList<Fence>? Waits = null);

public enum SubmitState
{
    /// <summary>The reservations of its buffers are being locked.</summary>
    Locking,

    /// <summary>
    /// Pages of the process are faulted in, or jobs still use the place from which a buffer was moved; then all is
    /// locked anew.
    /// </summary>
    Waiting,

    /// <summary>It is in its queue: see <see cref="SubmitOperation.Fence"/>.</summary>
    Submitted,

    /// <summary>Nothing was submitted: see <see cref="SubmitOperation.Error"/>.</summary>
    Refused,
}

// check a copy of the commands -> fault pages of the process in -> lock every buffer -> map what is not mapped ->
// collect what to wait for -> the fence is made and goes into every reservation, the job into its queue -> unlock
//
// In one hold of the host lock from the last lock on; what can fail comes before the fence is made.

/// <summary>
/// Submits commands (<c>DRM_IOCTL_AMDGPU_CS</c>). Never blocks; goes on when reservations are granted. Host lock held
/// by the caller, unless a member says otherwise.
/// </summary>
public sealed class SubmitOperation
{
    private readonly ComputeQueue _queue;
    private readonly GpuProcess _process;
    private readonly HostContext _host;
    private readonly GpuSubmission _submission;
    private readonly GpuCommand[] _commands;
    private readonly List<(GpuBinding Binding, GpuAccess Access)> _buffers;
    private LockOperation? _locks;
    private bool _isStale;
    private Action? _completed;
    private volatile bool _isCompleted;

    private SubmitOperation(ComputeQueue queue, GpuSubmission submission)
    {
        (_queue, _process, _submission) = (queue, queue.Process, submission);
        _host = _process.Device.Host;
        byte[] own = submission.Commands.ToArray(); // a program may write to its own while it is being checked
        Error = CommandParser.TryParse(
            _process, queue.Engine.Kind, submission.Mode, own, out _commands, out _buffers, out string? problem);
        Problem = problem;
        if (Error == Errno.Success && submission.Mode == GpuCommandMode.Paged)
        {
            // What may fault is left out: a job with a fence that touches it ends with EFAULT. So is what was taken
            // back: who does not touch it goes on.
            _buffers.AddRange(_process.Memory.Mappings.Select(m => m.Binding).Distinct()
                .Where(b => b is not MirrorBinding && !b.IsGone)
                .Select(b => (b, GpuAccess.None)));
        }
    }

    public SubmitState State { get; private set; }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>
    /// Why it was refused. <see cref="Errno.EINVAL"/>, <see cref="Errno.ENOENT"/>, <see cref="Errno.EACCES"/>: see <see
    /// cref="Problem"/>. <see cref="Errno.ENODEV"/>: a buffer was taken back, or the process or the engine is gone.
    /// <see cref="Errno.EAGAIN"/>: the queue is full. <see cref="Errno.ECANCELED"/>: the queue is lost. <see
    /// cref="Errno.EDEADLK"/>: it would wait for itself. Or what a map says.
    /// </summary>
    public Errno Error { get; private set; }

    /// <summary>Which command was refused and why, for people; null otherwise.</summary>
    public string? Problem { get; private set; }

    /// <summary>
    /// The out-fence, once submitted: EFAULT or EACCES where a command reached what it must not, ETIME when it hung,
    /// ECANCELED when it, its queue or its process was given up.
    /// </summary>
    public Fence? Fence { get; private set; }

    /// <summary>Starts to submit; it may be done on return.</summary>
    public static SubmitOperation Start(ComputeQueue queue, GpuSubmission submission)
    {
        ArgumentNullException.ThrowIfNull(queue);
        ArgumentNullException.ThrowIfNull(submission);
        queue.Process.Device.Host.AssertHeld();
        SubmitOperation operation = new(queue, submission);
        if (operation.Error != Errno.Success)
        {
            operation.Complete(SubmitState.Refused, operation.Error);
        }
        else if (submission.Waits?.FirstOrDefault(f => f.IsUserControlled) is { } own)
        {
            operation.Problem = $"{own} is signalled by a program, perhaps never: a job must not wait for it";
            operation.Complete(SubmitState.Refused, Errno.EINVAL);
        }
        else
        {
            operation.Lock();
        }

        return operation;
    }

    /// <summary>
    /// Runs <paramref name="callback"/> once at the end, after the host lock was released; false when it has ended and
    /// the callback was not kept.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _host.AssertHeld();
        if (_isCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    private void Lock()
    {
        State = SubmitState.Waiting;
        foreach ((GpuBinding binding, _) in _buffers)
        {
            if (!binding.TryPrepare(HandlePrepared))
            {
                return;
            }
        }

        State = SubmitState.Locking;
        AcquireTicket ticket = new(_host, $"submission to {_queue.Name}");
        Reservation[] reservations = new Reservation[_buffers.Count];
        for (int i = 0; i < reservations.Length; i++)
        {
            if (_buffers[i].Binding.Reservation is not { } reservation)
            {
                Complete(SubmitState.Refused, Errno.ENODEV); // closed while this waited
                return;
            }

            reservations[i] = reservation;
        }

        _locks = LockOperation.Start(_host, ticket, reservations, fenceSlots: 1);
        if (!_locks.TryAddCompletion(() => Enter(HandleLocked)))
        {
            HandleLocked();
        }
    }

    private void HandlePrepared(Errno errno)
    {
        if (errno == Errno.Success)
        {
            Lock();
        }
        else
        {
            Complete(SubmitState.Refused, errno);
        }
    }

    private void HandleLocked()
    {
        if (_locks!.Errno != Errno.Success)
        {
            Complete(SubmitState.Refused, _locks.Errno);
            return;
        }

        Errno errno = TrySubmit(_locks.Ticket, out Fence? mustWait);
        _locks.UnlockAll();
        if (_isStale)
        {
            Lock(); // pages went between the look and the lock
            return;
        }

        if (mustWait is null)
        {
            Complete(errno == Errno.Success ? SubmitState.Submitted : SubmitState.Refused, errno);
            return;
        }

        State = SubmitState.Waiting;
        if (mustWait.TryAddCallback(_ => Enter(Lock)) != Errno.Success)
        {
            Lock();
        }
    }

    private Errno TrySubmit(AcquireTicket ticket, out Fence? mustWait)
    {
        (mustWait, _isStale) = (null, false);
        Errno errno = _process.IsClosed ? Errno.ENODEV : _queue.Engine.RefusalOf(_queue);
        if (errno != Errno.Success)
        {
            return errno;
        }

        (uint Handle, DmaAddressList Addresses)[] addresses = new (uint, DmaAddressList)[_buffers.Count];
        for (int i = 0; i < addresses.Length; i++)
        {
            MapOutcome outcome = _buffers[i].Binding.MapLocked(ticket);
            mustWait = outcome.Fence;
            if (outcome.Kind != MapOutcomeKind.Mapped)
            {
                _isStale = outcome is { Kind: MapOutcomeKind.Refused, Errno: Errno.EAGAIN };
                return outcome.Errno;
            }

            addresses[i] = (_buffers[i].Binding.Handle, outcome.Addresses!);
        }

        return Publish(ticket, MemoryOf(addresses));
    }

    private IGpuMemory MemoryOf((uint Handle, DmaAddressList Addresses)[] addresses)
    {
        if (_submission.Mode == GpuCommandMode.Parsed)
        {
            return new ParsedMemory(_queue.Engine.Port, addresses);
        }

        // What was mapped meanwhile is for the next submission: its buffers are not locked here.
        GpuMapping[] mappings =
            [.. _process.Memory.Mappings.Where(m => Array.Exists(addresses, a => a.Handle == m.Binding.Handle))];
        DmaAddressList[] lists =
            [.. mappings.Select(m => Array.Find(addresses, a => a.Handle == m.Binding.Handle).Addresses)];
        return new PagedMemory(_queue.Engine.Port, new GpuPageTable(mappings, lists));
    }

    private Errno Publish(AcquireTicket ticket, IGpuMemory memory)
    {
        List<Fence> waits = [.. (_submission.Waits ?? []).Where(f => !f.HasEnded)];
        foreach ((GpuBinding binding, GpuAccess access) in _buffers)
        {
            bool isImplicit = access != GpuAccess.None;
            ReservationUsage usage = isImplicit
                ? ReservationUsages.ForAccess((access & GpuAccess.Write) != 0)
                : ReservationUsage.Kernel;
            waits.AddRange(binding.Reservation!.GetPendingFences(usage));
        }

        using SignalingSection section = new(_queue.Name, "submission");
        ComputeJob job = new(_queue, _commands, memory, _process.Device.ComputeBlockBytes)
        {
            Waits = [.. waits],
            Bindings = [.. _buffers.Select(b => b.Binding)],
        };
        Errno errno = _queue.Engine.TrySubmit(job);
        if (errno != Errno.Success)
        {
            return errno;
        }

        foreach ((GpuBinding binding, GpuAccess access) in _buffers)
        {
            ReservationUsage usage = access == GpuAccess.None ? ReservationUsage.Bookkeep
                : (access & GpuAccess.Write) != 0 ? ReservationUsage.Write
                : ReservationUsage.Read;
            binding.Reservation!.AddFence(ticket, job.Fence, usage);
            binding.BeginJob();
        }

        Fence = job.Fence;
        return Errno.Success;
    }

    private void Enter(Action action)
    {
        using (_host.Enter())
        {
            action();
        }
    }

    private void Complete(SubmitState state, Errno errno)
    {
        (State, Error) = (state, errno);
        _isCompleted = true;
        if (_completed is { } callback)
        {
            _host.Defer(callback);
        }
    }
}
