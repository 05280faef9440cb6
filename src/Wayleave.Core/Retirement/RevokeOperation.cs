using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Core.Retirement;

// Who runs it: Start and HandleTimeout on the owner's thread; every other step inside the signal of a fence or a new
// line of an importer's evidence, on whatever thread that is, with the host lock held. Nothing waits; the owner's wait
// is a completion that runs after the lock.
//
// Two revokes of one buffer are two operations with their own policies and proofs, fed by the same evidence. Neither
// changes the other: a second owner who asks for less does not loosen what the first one waits for.

/// <summary>
/// Takes a buffer back (linux.md 1.4, architecture.md, Moving and taking back): refuse maps, tell every importer, wait
/// until nobody writes, wait until nobody reads, and write down why that is known. Host lock held by the caller, unless
/// a member says otherwise.
/// </summary>
public sealed class RevokeOperation : IWaitNode
{
    private readonly SharedBuffer _buffer;
    private readonly AcquireTicket _ticket;
    private readonly TimeSpan _startedAt;
    private readonly int _epoch; // of the buffer's lives
    // Who held the memory when they were told. One that detaches later stays part of the proof.
    private (IMemoryHold Hold, ImporterEvidence Evidence)[] _told = [];
    private Fence[] _fences = [];
    private int _signaled; // how many of the fences, from the first on, are known to have signalled
    private Fence? _watched;
    private Fence? _watchedEnd;
    private TimeSpan? _invalidatedAt;
    private TimeSpan? _fencesSignaledAt;
    private Action? _completed;
    private Action? _retired;
    private Action? _retirementObserver;
    private Action? _completionObserver;
    private RetirementProof? _proof;

    private RevokeOperation(SharedBuffer buffer, RevokePolicy policy)
    {
        _buffer = buffer;
        Policy = policy;
        _epoch = buffer.Epoch;
        _startedAt = buffer.Host.Now;
        _ticket = new AcquireTicket(buffer.Host, Label);
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

    public string Label => $"revoke of {_buffer.Name}";

    /// <summary>
    /// Whether the proof is about the buffer's present life: an exporter that lets a buffer be mapped again makes the
    /// proofs of the time before void.
    /// </summary>
    public bool IsCurrent => _epoch == _buffer.Epoch;

    /// <summary>What the owner still has to hear; <see cref="QuarantineCause.None"/> once retired.</summary>
    public QuarantineCause Missing
    {
        get
        {
            _buffer.Host.AssertHeld();
            return State == RevokeState.Retired ? QuarantineCause.None : FindMissing();
        }
    }

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

        buffer.Host.Checker.MightWaitForFence(buffer.Reservation.Label);
        RevokeOperation operation = new(buffer, policy);
        buffer.MarkRevoked();
        buffer.PendingRevokes++;
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

        // Less than everything may be enough for this owner; until now it could hope for more.
        bool proven = _invalidatedAt is not null && Grade() >= Policy.RequiredGrade;
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

    /// <summary>As <see cref="ObserveRetirement"/>, when the owner stops waiting.</summary>
    internal void ObserveCompletion(Action observer) => _completionObserver += observer;

    /// <summary>
    /// Whether somebody of that name, on whose behalf memory was held, has not given enough evidence yet.
    /// </summary>
    internal bool IsHeldBy(string holder)
    {
        foreach ((IMemoryHold hold, ImporterEvidence evidence) in _told)
        {
            if (hold.Holder == holder && evidence.Grade < Policy.RequiredGrade)
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>On whose behalf the memory is still held, each once, in the order of their attachments.</summary>
    internal IReadOnlyList<string> Holders()
    {
        List<string> holders = [];
        foreach ((IMemoryHold hold, ImporterEvidence evidence) in _told)
        {
            if (evidence.Grade < Policy.RequiredGrade && !holders.Contains(hold.Holder))
            {
                holders.Add(hold.Holder);
            }
        }

        return holders;
    }

    /// <summary>
    /// What must happen before the memory may go to somebody else, so that a wait for that is looked at.
    /// </summary>
    public void ListWaits(WaitEdges edges)
    {
        if (_invalidatedAt is null)
        {
            edges.Add("locks with", _ticket);
        }

        foreach (Fence fence in _fences)
        {
            if (State != RevokeState.Retired && !fence.HasEnded && !fence.IsForced)
            {
                edges.Add("waits for", fence);
            }
        }
    }

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
        _told =
        [
            .. _buffer.Attachments.Select(a => ((IMemoryHold)a, a.Evidence!)),
            .. _buffer.CpuMappings.Select(m => ((IMemoryHold)m, m.Evidence!)),
        ];
        _fences = [.. _buffer.Reservation.GetFences(ReservationUsage.Bookkeep).Where(f => !f.HasEnded)];
        Action reconsider = Reconsider;
        foreach ((_, ImporterEvidence evidence) in _told)
        {
            evidence.Observe(reconsider);
        }

        _buffer.Reservation.Unlock(_ticket);
        Reconsider();
    }

    // Every event leads here, in any order and any number. What is known decides, not what has just happened.
    private void Reconsider()
    {
        if (State == RevokeState.Retired)
        {
            return;
        }

        bool haveSignaled = HaveFencesSignaled();
        if (haveSignaled)
        {
            _fencesSignaledAt ??= _buffer.Host.Now;
            if (State == RevokeState.Draining)
            {
                Advance(RevokeEvent.FencesSignaled);
            }
        }

        // Until the time-out an owner waits for the fences, however little it asks for.
        bool isProven = Grade() >= Policy.RequiredGrade
            || (haveSignaled && !_buffer.Host.Has(CoreDefences.RevokeWaitsForUnmap));
        if (State != RevokeState.Draining && isProven)
        {
            Advance(RevokeEvent.Proven);
            return;
        }

        // A forced fence is no evidence. Its owner may still come and say that the work has ended.
        if (State == RevokeState.Unmapping && !IsAnybodyMapped())
        {
            Advance(RevokeEvent.Unproven);
        }

        if (haveSignaled)
        {
            WatchForEnd();
        }
    }

    private bool HaveFencesSignaled()
    {
        while (_signaled < _fences.Length)
        {
            Fence fence = _fences[_signaled];
            if (ReferenceEquals(fence, _watched) && !fence.IsSignaled)
            {
                return false;
            }

            if (fence.TryObserve(_ => Reconsider()))
            {
                _watched = fence;
                return false;
            }

            _signaled++;
        }

        return true;
    }

    private void WatchForEnd()
    {
        if (Array.Find(_fences, f => !f.HasEnded) is { } open && !ReferenceEquals(open, _watchedEnd))
        {
            _watchedEnd = open;
            open.TryObserveEnd(_ => Reconsider());
        }
    }

    private bool IsAnybodyMapped() => Array.Exists(_told, t => t.Hold.IsMapped);

    private void Advance(RevokeEvent ev)
    {
        State = State.Next(ev)
            ?? throw new InvalidOperationException($"revoke of {_buffer}: {ev} does not apply when {State}");
        if (State is RevokeState.Draining or RevokeState.Unmapping)
        {
            return;
        }

        if (State == RevokeState.Retired)
        {
            _buffer.PendingRevokes--;
        }
        else
        {
            ReportWhoIsLate();
        }

        Volatile.Write(ref _proof, MakeProof());
        string mark = State == RevokeState.Retired ? "revoke.retired" : "revoke.quarantined";
        _buffer.Host.Trace(mark, _buffer.Name, (long)_buffer.Id);
        Call(ref _completed);
        (Action? completion, _completionObserver) = (_completionObserver, null);
        completion?.Invoke();
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

    // linux.md 1.4: an importer with the callback unmaps in bounded time; an owner's patience is such a bound.
    private void ReportWhoIsLate()
    {
        foreach ((IMemoryHold hold, _) in _told)
        {
            if (hold.IsRevocable && hold.IsMapped)
            {
                _buffer.Host.Checker.Report(
                    ViolationKind.LateUnmap,
                    hold.Name,
                    $"was told to stop and still maps {_buffer} after {Policy.Timeout}");
            }
        }
    }

    private RetirementGrade Grade()
    {
        RetirementGrade grade = _invalidatedAt is null ? RetirementGrade.None : RetirementGrade.Retired;
        foreach ((_, ImporterEvidence evidence) in _told)
        {
            RetirementGrade own = evidence.Grade;
            grade = own < grade ? own : grade;
        }

        return GradeRules.WithFences(grade, Array.TrueForAll(_fences, f => f.HasEnded));
    }

    private QuarantineCause FindMissing() =>
        _invalidatedAt is null ? QuarantineCause.ReservationHeld
        : Array.Exists(_told, t => !t.Hold.IsRevocable && t.Hold.IsMapped) ? QuarantineCause.UserCannotStop
        : Array.Exists(_fences, f => !f.IsSignaled) ? QuarantineCause.WorkPending
        : Array.Exists(_fences, f => !f.HasEnded) || Array.Exists(_told, t => t.Evidence.Drain == DrainState.Forced)
            ? QuarantineCause.FenceForced
        : IsAnybodyMapped() ? QuarantineCause.StillMapped
        : QuarantineCause.EvidenceMissing;

    private RetirementProof MakeProof() => new()
    {
        BufferId = _buffer.Id,
        Buffer = _buffer.Name,
        Exporter = _buffer.Exporter.Name,
        SizeBytes = _buffer.SizeBytes,
        Reason = Policy.Reason,
        Grade = Grade(),
        RequiredGrade = Policy.RequiredGrade,
        Cause = Missing,
        StartedAt = _startedAt,
        Deadline = Deadline,
        InvalidatedAt = _invalidatedAt,
        FencesSignaledAt = _fencesSignaledAt,
        CompletedAt = _buffer.Host.Now,
        Importers = _invalidatedAt is null
            ?
            [
                .. _buffer.Attachments.Select(a => Describe(a, null)),
                .. _buffer.CpuMappings.Select(m => Describe(m, null)),
            ]
            : [.. _told.Select(t => Describe(t.Hold, t.Evidence))],
        Fences =
        [
            .. _fences.Select(f =>
                new FenceProof(f.ToString(), f.Timestamp, f.IsForced, f.HasEnded) { Error = f.Error }),
        ],
    };

    private static ImporterProof Describe(IMemoryHold hold, ImporterEvidence? evidence) => new()
    {
        Importer = hold.Name,
        Device = hold.DeviceName,
        Holder = hold.Holder,
        Kind = hold.Kind,
        Grade = evidence?.Grade ?? RetirementGrade.None,
        WasMapped = evidence?.WasMapped ?? hold.IsMapped,
        AcknowledgedAt = evidence?.AcknowledgedAt,
        Key = evidence?.Key,
        KeyDeadAt = evidence?.KeyDeadAt,
        GateClosedAt = evidence?.GateClosedAt,
        InsideAtClose = evidence?.InsideAtClose ?? 0,
        DrainedAt = evidence?.DrainedAt,
        UnmappedAt = evidence?.UnmappedAt,
        DrainFence = evidence?.DrainFence,
        Drain = evidence?.Drain ?? DrainState.None,
        StoppedBy = evidence?.StoppedBy,
        StoppedAt = evidence?.StoppedAt,
        Witness = evidence?.Witness,
    };
}
