using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

// What a thread does inside mm/ in the kernel is one of these: it is written down in the kernel's order, and where the
// kernel would sleep, or be preempted at a place that matters, it pauses. Its caller drives it: the edge awaits, the
// explorer puts steps of others in between. Locks that it holds stay held across a pause, as in the kernel, and are let
// go when it is abandoned.

/// <summary>
/// Work of one thread on address spaces, in steps. Made by the members of <see cref="AddressSpace"/> and its relatives;
/// nothing happens before the first <see cref="Step"/>. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public abstract class SpaceOperation : IDisposable
{
    private IEnumerator<Pause>? _steps;
    private Pause _next = "start";
    private IWaitNode? _waitsFor;
    private bool _isKilled;

    private protected SpaceOperation(MemorySystem memory, Activity? activity, string name)
    {
        Memory = memory;
        Activity = activity ?? new Activity(memory.Host, ActivityKind.Thread, name);
    }

    /// <summary>Whose work it is, for the checker.</summary>
    public Activity Activity { get; }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted { get; private set; }

    /// <summary>0, or why it failed; 0 while it has not completed.</summary>
    public Errno Errno { get; private protected set; }

    /// <summary>The circle that a wait would have closed, after EDEADLK.</summary>
    public WaitCycle? Cycle { get; internal set; }

    /// <summary>Whether the next step can run. Reads state and changes none; callable between steps.</summary>
    public bool IsReady => !IsCompleted && (_next.Ready is not { } ready || ready());

    /// <summary>What the next step does, for people.</summary>
    public string Next => IsCompleted ? "finished" : _next.Next;

    internal MemorySystem Memory { get; }

    /// <summary>What a step inside failed with; the operation decides what becomes of it.</summary>
    internal Errno StepErrno { get; set; }

    /// <summary>Runs one step. Called only when <see cref="IsReady"/>.</summary>
    /// <returns>Whether it has completed.</returns>
    public bool Step()
    {
        Memory.Host.AssertHeld();
        if (!IsReady)
        {
            throw new InvalidOperationException($"{Activity.Label} cannot {Next} now");
        }

        EndWait();
        if (_isKilled)
        {
            End();
            return true;
        }

        _steps ??= Run().GetEnumerator();
        while (true)
        {
            if (!_steps.MoveNext())
            {
                Complete();
                return true;
            }

            _next = _steps.Current;
            if (TryBeginWait())
            {
                return false;
            }
        }
    }

    /// <summary>Runs steps until it completes or has to wait.</summary>
    /// <returns>Whether it has completed.</returns>
    public bool Proceed()
    {
        while (IsReady)
        {
            Step();
        }

        return IsCompleted;
    }

    /// <summary>
    /// Runs <paramref name="callback"/>, after the lock was released, when the next step can run; false when that is so
    /// already, or it has completed.
    /// </summary>
    public bool TryAddReadyCallback(Action callback)
    {
        Memory.Host.AssertHeld();
        return !IsCompleted && !IsReady && Memory.AddBlocked(this, callback);
    }

    /// <summary>
    /// The thread is killed: what it holds is let go, and nothing else happens. While a device copies for it, that is
    /// not so yet: the next <see cref="Step"/>, when the copy has ended, does it. Nothing after the end.
    /// </summary>
    public void Abandon()
    {
        Memory.Host.AssertHeld();
        if (IsCompleted)
        {
            return;
        }

        if (_next.IsUninterruptible && !IsReady)
        {
            _isKilled = true;
            return;
        }

        End();
    }

    /// <summary>As <see cref="Abandon"/>.</summary>
    public void Dispose()
    {
        Abandon();
        GC.SuppressFinalize(this);
    }

    public override string ToString() => $"{Activity.Label}: {Next}";

    /// <summary>The steps. Each wait is followed by a look at <see cref="StepErrno"/>.</summary>
    private protected abstract IEnumerable<Pause> Run();

    /// <summary>What a wait that would never end comes to.</summary>
    internal bool TakeStepErrno(out Errno errno)
    {
        (errno, StepErrno) = (StepErrno, Errno.Success);
        return errno != Errno.Success;
    }

    // False: the wait would close a circle, and the step goes on at once, to find EDEADLK.
    private bool TryBeginWait()
    {
        if (_next.For is not { } target || _next.Ready is not { } ready || ready())
        {
            return true;
        }

        if (Activity.TryBeginWait(target, out WaitCycle? cycle) != Errno.Success)
        {
            (Cycle, StepErrno) = (cycle, Errno.EDEADLK);
            return false;
        }

        _waitsFor = target;
        return true;
    }

    private void End()
    {
        Errno = Errno.EINTR;
        _steps?.Dispose();
        Complete();
    }

    private void EndWait()
    {
        if (_waitsFor is { } target)
        {
            Activity.EndWait(target);
            _waitsFor = null;
        }
    }

    private void Complete()
    {
        EndWait();
        IsCompleted = true;
        _steps = null;
        Memory.HandleProgress();
    }
}
