using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Devices.Gpu;

// lock the reservation -> refuse, or take the target -> invalidate every mapping -> submit the copy, which waits for
// all fences of the buffer -> its fence goes in as KERNEL -> the buffer is at its new place -> unlock. All of it in one
// hold of the host lock, so a revoke that comes meanwhile finds either nothing or a copy whose fence it waits for.
//
// The old place is given back when the copy has ended and everything it waited for has ended: the copy started only
// after the importers had stopped (stage 1 of linux.md 1.4), so nobody writes there. An importer whose fence had to be
// forced may still be inside; then the old place stays in quarantine until that fence's owner says otherwise.
//
// A copy that does not come to its end leaves the buffer at a place with somebody else's bytes. It is taken back before
// the fence signals: its own bytes are lost, and nobody may see the others.

/// <summary>
/// Moves a buffer's bytes to the other domain (<c>ttm_bo_move</c>). Never blocks; goes on when the reservation is
/// granted and when the copy ends. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class MoveOperation
{
    private readonly GpuDevice _device;
    private AcquireTicket _ticket;
    private GpuPlacement? _old;
    private Action? _completed;
    private volatile bool _isCompleted;

    internal MoveOperation(GpuBuffer buffer, GpuDomain target)
    {
        (_device, Buffer, Target) = (buffer.Device, buffer, target);
        _ticket = new AcquireTicket(_device.Host, $"move of {buffer.Shared.Name} to {target}");
    }

    public GpuBuffer Buffer { get; }

    public GpuDomain Target { get; }

    /// <summary>By which it locks, for the checker.</summary>
    internal AcquireTicket Ticket => _ticket;

    public MoveState State { get; private set; }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>
    /// Why the move was refused or failed: <see cref="Errno.ENODEV"/> revoked, <see cref="Errno.EBUSY"/> pinned, or
    /// mapped by an importer that cannot be told, <see cref="Errno.EOPNOTSUPP"/> not movable,
    /// <see cref="Errno.ENOSPC"/> or <see cref="Errno.ENOMEM"/> no room at the target, <see cref="Errno.EAGAIN"/> the
    /// ring is full; and the copy's own.
    /// </summary>
    public Errno Error { get; private set; }

    /// <summary>The KERNEL fence of the copy, once there is one.</summary>
    public Fence? Fence { get; private set; }

    /// <summary>
    /// Runs <paramref name="callback"/> at the end, good or bad, after the lock was released; false when it has ended
    /// already and the callback was not kept.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _device.Host.AssertHeld();
        if (_isCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    internal void Start()
    {
        if (Buffer.Storage != Core.Buffers.StorageKind.Movable)
        {
            Complete(MoveEvent.Refused, Errno.EOPNOTSUPP);
            return;
        }

        LockOutcome outcome = Buffer.Shared.Reservation.TryLock(_ticket);
        if (outcome.Wait is not { } wait)
        {
            HandleLocked();
            return;
        }

        wait.TryAddCallback(() =>
        {
            using (_device.Host.Enter())
            {
                HandleLocked();
            }
        });
    }

    /// <summary>In a hold of the reservation that somebody else has, and keeps.</summary>
    internal void StartLocked(AcquireTicket holder)
    {
        _ticket = holder;
        HandleSubmitted(TrySubmit());
    }

    private void HandleLocked()
    {
        Errno errno = TrySubmit();
        Buffer.Shared.Reservation.Unlock(_ticket);
        HandleSubmitted(errno);
    }

    private void HandleSubmitted(Errno errno)
    {
        if (errno != Errno.Success)
        {
            Complete(MoveEvent.Refused, errno);
        }
        else if (Fence is null)
        {
            Complete(MoveEvent.AlreadyThere, Errno.Success);
        }
    }

    private Errno TrySubmit()
    {
        if (Buffer.Shared.IsRevoked)
        {
            return Errno.ENODEV;
        }

        if (Buffer.PinCount > 0 || Buffer.HasUnstoppableMapping)
        {
            return Errno.EBUSY;
        }

        if (Buffer.Placement.Domain == Target)
        {
            return Errno.Success;
        }

        // What can fail comes before the importers are told.
        if (!_device.CopyEngine.HasRoom)
        {
            return _device.CopyEngine.Refusal;
        }

        Errno errno = _device.TryPlace(Buffer, Target, out GpuPlacement? placement);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = Buffer.Backing?.TryBack(placement!) ?? Errno.Success;
        if (errno != Errno.Success)
        {
            _device.GiveBackUnused(placement!);
            return errno;
        }

        Reservation reservation = Buffer.Shared.Reservation;
        Buffer.Shared.InvalidateMappings(_ticket);
        _old = Buffer.Placement;
        reservation.ReserveFences(_ticket, 1); // the last that may allocate: from here on others see the fence
        using SignalingSection section = new(_ticket.Owner, "submission");
        CopyJob job = new()
        {
            Name = $"move {Buffer.Shared.Name} to {Target}",
            Source = _old.LocalAddresses,
            Target = placement!.LocalAddresses,
            Waits = [.. reservation.GetFences(ReservationUsage.Bookkeep).Where(f => !f.HasEnded)],
            Fence = Buffer.Timeline.CreateFence(),
            Failed = _ => _device.TakeBackLost(Buffer, "its bytes were lost in a move"),
            Ended = HandleEnded,
        };
        _device.CopyEngine.TrySubmit(job);
        reservation.AddFence(_ticket, job.Fence, ReservationUsage.Kernel);
        Fence = job.Fence;
        Buffer.Placement = placement;
        State = State.Next(MoveEvent.Submitted)!.Value;
        _device.Host.Trace("gpu.move", Buffer.Name, (long)Target, (long)Buffer.SizeBytes);
        return Errno.Success;
    }

    private void HandleEnded(CopyJob job)
    {
        Errno left = Buffer.Backing?.Unback(_old!) ?? Errno.Success;
        if (left == Errno.Success)
        {
            _device.GiveBackAfter(Buffer, job.Waits, _old!);
        }
        else
        {
            _device.KeepForGood(Buffer, _old!, left);
        }

        Errno errno = job.IsCanceled ? Errno.ECANCELED : job.Fence.Error;
        Complete(errno == Errno.Success ? MoveEvent.Copied : MoveEvent.CopyFailed, errno);
    }

    private void Complete(MoveEvent ev, Errno errno)
    {
        State = State.Next(ev)
            ?? throw new InvalidOperationException($"move of {Buffer.Name}: {ev} does not apply when {State}");
        Error = errno;
        _isCompleted = true;
        _device.HandleMoveEnded(this);
        if (_completed is { } callback)
        {
            _device.Host.Defer(callback);
        }
    }
}
