using Wayleave.Core.Checking;
using Wayleave.Core.Fences;

namespace Wayleave.Core.AddressSpaces;

/// <summary>Where a round stands.</summary>
public enum InvalidationState
{
    /// <summary>Mirrors are being called, one with each <see cref="InvalidationRound.Advance"/>.</summary>
    Calling,

    /// <summary>A mirror waits for a fence; the next one is called when it has signalled.</summary>
    Waiting,

    /// <summary>No device uses the range: the pages may change until <see cref="InvalidationRound.End"/>.</summary>
    Started,

    /// <summary>
    /// A mirror could not be made to stop: nothing may change, and the round has ended by itself.
    /// </summary>
    Refused,

    Ended,
}

/// <summary>
/// One time that the CPU side takes a range back: <c>mmu_notifier_invalidate_range_start</c> until <c>_end</c>. Mirrors
/// are called one after the other, and one that waits holds up the next, as in the kernel. Host lock held by the
/// caller.
/// </summary>
public sealed class InvalidationRound
{
    private readonly NotifierTree _tree;
    private readonly Activity _activity;
    private readonly IReadOnlyList<IntervalNotifier> _mirrors;
    private readonly ulong _sequence;
    private readonly InvalidateRange _range;
    private List<IntervalNotifier>? _finishes;
    private int _next;
    private bool _isSecondPass;
    private FenceWait? _wait;
    private MirrorDrain? _drain;

    internal InvalidationRound(NotifierTree tree, Activity activity, in InvalidateRange range)
    {
        (_tree, _activity, _range) = (tree, activity, range);
        activity.Touch(LockClass.Notifier, range.Event.ToString());
        _mirrors = tree.Start(range.Addresses, out _sequence);
        if (_mirrors.Count == 0)
        {
            State = InvalidationState.Started;
        }
    }

    public InvalidateRange Range => _range;

    public InvalidationState State { get; private set; }

    /// <summary>
    /// Of a round that was refused: <see cref="Errno.EAGAIN"/> when a mirror would have had to wait and the range is
    /// not blockable; <see cref="Errno.EDEADLK"/> when its wait would never have ended, where the kernel hangs.
    /// </summary>
    public Errno Errno { get; private set; }

    /// <summary>The circle, after EDEADLK.</summary>
    public WaitCycle? Cycle { get; private set; }

    /// <summary>The mirror whose fence is waited for, or null.</summary>
    public IntervalNotifier? WaitsFor { get; private set; }

    /// <summary>Whether <see cref="Advance"/> gets on. Readable without the lock.</summary>
    public bool CanAdvance => State == InvalidationState.Calling
        || (State == InvalidationState.Waiting && (_wait is { IsCompleted: true } || _drain is { IsCompleted: true }));

    /// <summary>
    /// Calls the next mirror, or takes up the end of a wait. Nothing when <see cref="CanAdvance"/> is false.
    /// </summary>
    public void Advance()
    {
        _tree.Host.AssertHeld();
        if (!CanAdvance)
        {
            return;
        }

        if (State == InvalidationState.Waiting && !TakeUpWait())
        {
            return;
        }

        State = InvalidationState.Calling;
        if (_isSecondPass)
        {
            Finish(_finishes![_next++]);
        }
        else
        {
            Call(_mirrors[_next++]);
        }

        if (State == InvalidationState.Calling)
        {
            GoOn();
        }
    }

    /// <summary>
    /// The pages have changed; devices may map the range again (<c>mmu_notifier_invalidate_range_end</c>). Not after a
    /// refusal, which has ended the round: that is a violation.
    /// </summary>
    public void End()
    {
        _tree.Host.AssertHeld();
        if (State != InvalidationState.Started)
        {
            _tree.Host.Checker.Report(
                ViolationKind.Notifier, Range.Addresses.ToString(), $"a round that is {State} is ended");
            return;
        }

        State = InvalidationState.Ended;
        _tree.End();
    }

    /// <summary>The caller gives up before the mirrors have answered: it was killed. Nothing has changed.</summary>
    internal void Abandon()
    {
        if (State is InvalidationState.Calling or InvalidationState.Waiting or InvalidationState.Started)
        {
            _wait?.Interrupt();
            EndWait();
            State = InvalidationState.Ended;
            _tree.End();
        }
    }

    /// <summary>Runs a callback, after the lock was released, when what is waited for has come.</summary>
    internal bool TryAddCallback(Action callback) =>
        _wait?.TryAddCallback(callback) ?? _drain?.TryAddCallback(callback) ?? false;

    private void Call(IntervalNotifier notifier)
    {
        notifier.InvalidationCount++;
        _tree.Calling = notifier;
        InvalidateAnswer answer = notifier.Mirror.Invalidate(notifier, _range, _sequence);
        _tree.Calling = null;
        if (answer.Kind != InvalidateAnswerKind.Refused && notifier.Sequence != (_sequence | 1))
        {
            Report(notifier, "its callback did not set the sequence: what it read before will pass for fresh");
        }

        Take(notifier, answer);
    }

    private void Finish(IntervalNotifier notifier)
    {
        _tree.Calling = notifier;
        InvalidateAnswer answer = ((ITwoPassMirror)notifier.Mirror).FinishInvalidate(notifier, _range);
        _tree.Calling = null;
        Take(notifier, answer);
    }

    private void Take(IntervalNotifier notifier, InvalidateAnswer answer)
    {
        switch (answer.Kind)
        {
            case InvalidateAnswerKind.FinishLater when !_isSecondPass && notifier.Mirror is ITwoPassMirror:
                (_finishes ??= []).Add(notifier);
                break;
            case InvalidateAnswerKind.FinishLater:
                Report(notifier, "wants a second pass that it does not have");
                break;
            case InvalidateAnswerKind.Refused when _range.IsBlockable:
                Report(notifier, "refuses, although the range is blockable; the invalidation goes on");
                break;
            case InvalidateAnswerKind.Wait when !_range.IsBlockable:
                Report(notifier, "would wait, although the range is not blockable");
                Errno = Errno.EAGAIN;
                break;
            case InvalidateAnswerKind.Refused:
                Errno = Errno.EAGAIN;
                break;
            case InvalidateAnswerKind.Wait:
                BeginWait(notifier, answer);
                break;
            default:
                break;
        }
    }

    // After a callback that is not waited for. A refusal of the first pass calls nobody else, and those that have begun
    // still finish.
    private void GoOn()
    {
        if (!_isSecondPass && (Errno != Errno.Success || _next == _mirrors.Count))
        {
            _isSecondPass = true;
            _next = 0;
        }

        if (!_isSecondPass || _next < (_finishes?.Count ?? 0))
        {
            return;
        }

        State = Errno == Errno.Success ? InvalidationState.Started : InvalidationState.Refused;
        if (State == InvalidationState.Refused)
        {
            _tree.End();
        }
    }

    private void BeginWait(IntervalNotifier notifier, InvalidateAnswer answer)
    {
        // The thread waits for the callback, the callback for the fence: both are in the graph before the wait begins.
        WaitsFor = notifier;
        if (_activity.TryBeginWait(notifier.Activity, out WaitCycle? cycle) != Errno.Success)
        {
            (WaitsFor, Cycle, Errno) = (null, cycle, Errno.EDEADLK);
            return;
        }

        if (answer.Drain is { IsCompleted: false } drain)
        {
            _drain = drain;
            State = InvalidationState.Waiting;
            return;
        }

        if (answer.Fence is not { } fence)
        {
            EndWait();
            return;
        }

        _wait = FenceWait.Start(_tree.Host, notifier.Activity, fence, FenceWait.NoTimeout);
        if (_wait.IsCompleted)
        {
            TakeUpWait();
        }
        else
        {
            State = InvalidationState.Waiting;
        }
    }

    // False: the round is over.
    private bool TakeUpWait()
    {
        FenceWait? wait = _wait;
        EndWait();
        if (wait is { State: FenceWaitState.Deadlock })
        {
            (Cycle, Errno) = (wait.Cycle, Errno.EDEADLK);
        }

        if (State == InvalidationState.Waiting)
        {
            State = InvalidationState.Calling;
            GoOn();
        }

        return State == InvalidationState.Calling;
    }

    private void EndWait()
    {
        if (WaitsFor is { } notifier)
        {
            _activity.EndWait(notifier.Activity);
        }

        (WaitsFor, _wait, _drain) = (null, null, null);
    }

    private void Report(IntervalNotifier notifier, string what) =>
        _tree.Host.Checker.Report(ViolationKind.Notifier, notifier.ToString(), what);
}
