using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Core.Retirement;

public enum RevokeState
{
    /// <summary>Maps are refused; somebody else, a mover perhaps, holds the reservation.</summary>
    Locking,

    /// <summary>Everybody was told; BOOKKEEP fences are pending: writes that had started may still land.</summary>
    Draining,

    /// <summary>Nobody writes; a mapping is left, so somebody may still read.</summary>
    Unmapping,

    /// <summary>The proof satisfies the owner's policy.</summary>
    Retired,

    /// <summary>The time-out passed before that. The memory is not given out; a later drain still retires it.</summary>
    Quarantined,
}

public enum RevokeEvent
{
    /// <summary>The reservation is locked, every importer has been told, the lock is released again.</summary>
    Locked,

    /// <summary>Every fence is signalled, by its owner or by force.</summary>
    FencesSignaled,

    /// <summary>What is known amounts to the grade that the policy asks for.</summary>
    Proven,

    /// <summary>All mappings have ended and all fences are signalled, yet it does not amount to that grade.</summary>
    Unproven,

    /// <summary>The owner stops waiting.</summary>
    TimedOut,
}

//   Locking --Locked--> Draining --FencesSignaled--> Unmapping --Proven--> Retired
//      |                   |                             |                    ^
//      +-----TimedOut------+------TimedOut, Unproven-----+--> Quarantined ----+ Proven
//
// In Quarantined all of it goes on: the lock, the drain, the unmaps, and at last the end of work whose fence was
// forced.
//
// Who runs it: Start and HandleTimeout on the owner's thread; every other step inside the signal of a fence or the end
// of a mapping, on whatever thread that is, with the host lock held. Nothing waits; the owner's wait is a completion
// that runs after the lock.

/// <summary>
/// Takes a buffer back (linux.md 1.4, architecture.md, Moving and taking back): refuse maps, tell every importer, wait
/// until nobody writes, wait until nobody reads, and write down why that is known. Host lock held by the caller, unless
/// a member says otherwise.
/// </summary>
public sealed class RevokeOperation
{
    private readonly SharedBuffer _buffer;
    private readonly AcquireTicket _ticket;
    private readonly TimeSpan _startedAt;
    // One that detaches later stays part of the proof.
    private (Attachment Attachment, ImporterEvidence Evidence)[] _told = [];
    private IReadOnlyList<Fence> _fences = [];
    private TimeSpan? _invalidatedAt;
    private TimeSpan? _fencesSignaledAt;
    private Action? _completed;
    private Action? _retired;
    private Action? _retirementObserver;
    private RetirementProof? _proof;

    private RevokeOperation(SharedBuffer buffer, RevokePolicy policy)
    {
        _buffer = buffer;
        Policy = policy;
        _startedAt = buffer.Host.Now;
        _ticket = new AcquireTicket(buffer.Host, $"revoke of {buffer.Name}");
        Deadline = _startedAt + policy.Timeout;
    }

    public SharedBuffer Buffer => _buffer;

    public RevokePolicy Policy { get; }

    public RevokeState State { get; private set; } = RevokeState.Locking;

    /// <summary>When the edge calls <see cref="HandleTimeout"/>, on the host's clock.</summary>
    public TimeSpan Deadline { get; }

    /// <summary>Whether <see cref="Proof"/> is there: retired, or timed out. Readable without the lock.</summary>
    public bool IsCompleted => Volatile.Read(ref _proof) is not null;

    /// <summary>
    /// The proof once completed; a better one replaces it when quarantined memory retires later. Readable without the
    /// lock.
    /// </summary>
    public RetirementProof? Proof => Volatile.Read(ref _proof);

    /// <summary>
    /// Starts to take <paramref name="buffer"/> back. On return maps are refused, and if the reservation was free every
    /// key is dead and every gate closed. A second revoke of one buffer is a new operation with its own proof.
    /// </summary>
    /// <exception cref="ArgumentException">The policy would give memory out on time alone.</exception>
    public static RevokeOperation Start(SharedBuffer buffer, RevokePolicy policy)
    {
        buffer.Host.AssertHeld();
        if (policy.RequiredGrade == RetirementGrade.None)
        {
            throw new ArgumentException(
                "a revoke that requires no grade would give memory out on time alone", nameof(policy));
        }

        RevokeOperation operation = new(buffer, policy);
        buffer.MarkRevoked();
        buffer.Host.Trace("revoke.start", buffer.Name, (long)buffer.Id);
        LockOutcome outcome = buffer.Reservation.TryLock(operation._ticket);
        if (outcome.Wait is { } wait)
        {
            wait.Observe(operation.HandleLocked);
        }
        else
        {
            operation.HandleLocked();
        }

        return operation;
    }

    /// <summary>The owner stops waiting: the operation ends in quarantine unless it has ended before.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        _buffer.Host.AssertHeld();
        if (IsCompleted || now < Deadline)
        {
            return;
        }

        // By evidence that came without an unmap.
        bool proven = State == RevokeState.Unmapping && Grade() >= Policy.RequiredGrade;
        Advance(proven ? RevokeEvent.Proven : RevokeEvent.TimedOut);
    }

    /// <summary>
    /// Runs <paramref name="callback"/> once there is a proof, good or bad, after the lock was released; false when
    /// there is one already and the callback was not kept.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _buffer.Host.AssertHeld();
        if (IsCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    /// <summary>
    /// As <see cref="TryAddCompletion"/>, for the moment at which the memory may go to somebody else.
    /// </summary>
    public bool TryAddRetirement(Action callback)
    {
        _buffer.Host.AssertHeld();
        if (State == RevokeState.Retired)
        {
            return false;
        }

        _retired += callback;
        return true;
    }

    /// <summary>
    /// Core's own waiter: runs once, with the host lock held, when the memory may go to somebody else.
    /// </summary>
    internal void ObserveRetirement(Action observer) => _retirementObserver += observer;

    /// <summary>The state after an event, or null when the event does not apply.</summary>
    public static RevokeState? Next(RevokeState state, RevokeEvent ev) => (state, ev) switch
    {
        (RevokeState.Locking, RevokeEvent.Locked) => RevokeState.Draining,
        (RevokeState.Draining, RevokeEvent.FencesSignaled) => RevokeState.Unmapping,
        (RevokeState.Unmapping or RevokeState.Quarantined, RevokeEvent.Proven) => RevokeState.Retired,
        (RevokeState.Unmapping, RevokeEvent.Unproven) => RevokeState.Quarantined,
        (RevokeState.Locking or RevokeState.Draining or RevokeState.Unmapping, RevokeEvent.TimedOut) =>
            RevokeState.Quarantined,
        _ => null,
    };

    private void HandleLocked()
    {
        // The lock may come after the time-out: the importers are told all the same, and the memory retires late.
        if (State == RevokeState.Locking)
        {
            Advance(RevokeEvent.Locked);
        }

        // Whoever submits work checks IsRevoked under this lock, so the fences seen here are all there will ever be.
        // The lock is not held while waiting: a static importer needs it to unmap.
        _buffer.InvalidateMappings(_ticket);
        _invalidatedAt = _buffer.Host.Now;
        _told = [.. _buffer.Attachments.Select(a => (a, a.Evidence!))];
        _fences = [.. _buffer.Reservation.GetFences(ReservationUsage.Bookkeep).Where(f => !f.HasEnded)];
        _buffer.Reservation.Unlock(_ticket);
        WaitForFences();
    }

    private void WaitForFences()
    {
        foreach (Fence fence in _fences)
        {
            if (!fence.IsSignaled && fence.TryObserve(_ => WaitForFences()))
            {
                return;
            }
        }

        _fencesSignaledAt = _buffer.Host.Now;
        if (State == RevokeState.Draining)
        {
            Advance(RevokeEvent.FencesSignaled);
        }

        WaitForProof();
    }

    private void WaitForProof()
    {
        // The time-out may have found the proof before the unmap that is waited for here.
        if (State == RevokeState.Retired)
        {
            return;
        }

        if (Grade() >= Policy.RequiredGrade)
        {
            Advance(RevokeEvent.Proven);
            return;
        }

        foreach ((Attachment attachment, _) in _told)
        {
            if (attachment.State != MappingState.Unmapped)
            {
                attachment.ObserveUnmap(WaitForProof);
                return;
            }
        }

        // A forced fence is no evidence. Its owner may still come and say that the work has ended.
        if (!IsCompleted)
        {
            Advance(RevokeEvent.Unproven);
        }

        _fences.FirstOrDefault(f => !f.HasEnded)?.TryObserveEnd(_ => WaitForProof());
    }

    private void Advance(RevokeEvent ev)
    {
        State = Next(State, ev)
            ?? throw new InvalidOperationException($"revoke of {_buffer}: {ev} does not apply when {State}");
        if (State is RevokeState.Draining or RevokeState.Unmapping)
        {
            return;
        }

        Volatile.Write(ref _proof, MakeProof());
        string mark = State == RevokeState.Retired ? "revoke.retired" : "revoke.quarantined";
        _buffer.Host.Trace(mark, _buffer.Name, (long)_buffer.Id);
        Call(ref _completed);
        if (State == RevokeState.Retired)
        {
            (Action? observer, _retirementObserver) = (_retirementObserver, null);
            observer?.Invoke();
            Call(ref _retired);
        }
    }

    private void Call(ref Action? callbacks)
    {
        (Action? callback, callbacks) = (callbacks, null);
        if (callback is not null)
        {
            _buffer.Host.Defer(callback);
        }
    }

    private RetirementGrade Grade()
    {
        RetirementGrade grade = _invalidatedAt is null ? RetirementGrade.None : RetirementGrade.Retired;
        foreach ((_, ImporterEvidence evidence) in _told)
        {
            grade = evidence.Grade < grade ? evidence.Grade : grade;
        }

        // Work whose fence is pending, or was signalled by somebody else, may still write.
        bool unknown = _fences.Any(f => !f.HasEnded);
        return unknown && grade > RetirementGrade.KeyDead ? RetirementGrade.KeyDead : grade;
    }

    private RetirementProof MakeProof() => new()
    {
        BufferId = _buffer.Id,
        Buffer = _buffer.Name,
        Exporter = _buffer.Exporter.Name,
        SizeBytes = _buffer.SizeBytes,
        Reason = Policy.Reason,
        Grade = Grade(),
        RequiredGrade = Policy.RequiredGrade,
        StartedAt = _startedAt,
        InvalidatedAt = _invalidatedAt,
        FencesSignaledAt = _fencesSignaledAt,
        CompletedAt = _buffer.Host.Now,
        Importers = _invalidatedAt is null
            ? [.. _buffer.Attachments.Select(a => Describe(a, null))]
            : [.. _told.Select(t => Describe(t.Attachment, t.Evidence))],
        Fences = [.. _fences.Select(f => new FenceProof(f.ToString(), f.Timestamp, f.IsForced, f.HasEnded))],
    };

    private static ImporterProof Describe(Attachment attachment, ImporterEvidence? evidence) => new()
    {
        Importer = attachment.Name,
        Device = attachment.Device.Name,
        Kind = attachment.Kind,
        Grade = evidence?.Grade ?? RetirementGrade.None,
        WasMapped = evidence?.WasMapped ?? attachment.State != MappingState.Unmapped,
        Key = evidence?.Key,
        KeyDeadAt = evidence?.KeyDeadAt,
        GateClosedAt = evidence?.GateClosedAt,
        InsideAtClose = evidence?.InsideAtClose ?? 0,
        DrainedAt = evidence?.DrainedAt,
        UnmappedAt = evidence?.UnmappedAt,
    };
}
