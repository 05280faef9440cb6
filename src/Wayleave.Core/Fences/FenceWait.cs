using Wayleave.Core.Checking;
using Wayleave.Core.Reservations;

namespace Wayleave.Core.Fences;

public enum FenceWaitState
{
    Pending,

    /// <summary>What was waited for is signalled, well or with an error: see the fence.</summary>
    Signaled,

    TimedOut,

    /// <summary>Somebody called <see cref="FenceWait.Interrupt"/>; the work goes on.</summary>
    Interrupted,

    /// <summary>The wait would have closed a circle; <see cref="FenceWait.Cycle"/> says which.</summary>
    Deadlock,

    /// <summary>A negative time-out, or no fence to wait for any of.</summary>
    Invalid,
}

/// <summary>
/// A wait as data (<c>dma_fence_wait_timeout</c> and its relatives): it has ended when it is made, or ends by a signal,
/// by <see cref="HandleTimeout"/> or by <see cref="Interrupt"/>. Each fence is shown to the checker before it is waited
/// for. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class FenceWait
{
    /// <summary>Waits as long as it takes.</summary>
    public static readonly TimeSpan NoTimeout = TimeSpan.MaxValue;

    private readonly HostContext _host;
    private readonly Waiter? _waiter;
    private readonly TimeSpan _timeout;
    private readonly TimeSpan _startedAt;
    private readonly Reservation? _reservation;
    private readonly ReservationUsage _usage;
    private readonly Fence[] _fences = [];
    private readonly List<Fence> _watched = [];
    private readonly Action<Fence> _handleSignaled;
    private Action? _callback;
    private int _state;

    private FenceWait(
        HostContext host,
        Waiter? waiter,
        TimeSpan timeout,
        Fence[] fences,
        Reservation? reservation = null,
        ReservationUsage usage = default)
    {
        (_host, _waiter, _timeout, _startedAt) = (host, waiter, timeout, host.Now);
        (_fences, _reservation, _usage) = (fences, reservation, usage);
        _handleSignaled = HandleSignaled;
    }

    /// <summary>Readable without the lock.</summary>
    public FenceWaitState State => (FenceWaitState)Volatile.Read(ref _state);

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => State != FenceWaitState.Pending;

    /// <summary>
    /// What was left of the time when it signalled, at least one tick: so positive means signalled, as in the kernel. A
    /// wait without a time-out has that. Zero otherwise.
    /// </summary>
    public TimeSpan Remaining { get; private set; }

    /// <summary>Which of several fences signalled first; 0 for one fence, and while pending.</summary>
    public int Index { get; private set; }

    /// <summary>The circle, after <see cref="FenceWaitState.Deadlock"/>.</summary>
    public WaitCycle? Cycle { get; private set; }

    /// <summary>
    /// 0, or why it did not signal: EDEADLK, EINVAL, EINTR (the kernel's -ERESTARTSYS, as a program sees it), ETIME.
    /// </summary>
    public Errno Errno => State switch
    {
        FenceWaitState.Deadlock => Errno.EDEADLK,
        FenceWaitState.Invalid => Errno.EINVAL,
        FenceWaitState.Interrupted => Errno.EINTR,
        FenceWaitState.TimedOut => Errno.ETIME,
        _ => Errno.Success,
    };

    /// <summary>
    /// When <see cref="HandleTimeout"/> ends it, on the host's clock; null for never or not any more.
    /// </summary>
    public TimeSpan? NextDeadline => IsCompleted || _timeout == NoTimeout ? null : _startedAt + _timeout;

    /// <summary>Waits for one fence (<c>dma_fence_wait_timeout</c>).</summary>
    /// <param name="host">Of the fence.</param>
    /// <param name="waiter">Who waits, for the checker; null is not looked at.</param>
    /// <param name="fence">Its signalling is enabled, even if the time-out is zero.</param>
    /// <param name="timeout">Zero looks and does not wait; <see cref="NoTimeout"/>.</param>
    public static FenceWait Start(HostContext host, Waiter? waiter, Fence fence, TimeSpan timeout)
    {
        FenceWait wait = new(host, waiter, timeout, [fence]);
        wait.Begin(fence.Label);
        return wait;
    }

    /// <summary>
    /// Waits for the first of several fences (<c>dma_fence_wait_any_timeout</c>). None at all is invalid.
    /// </summary>
    /// <param name="host">Of all fences.</param>
    /// <param name="waiter">Who waits. No circle is looked for: another of the fences may get on.</param>
    /// <param name="fences">Copied.</param>
    /// <param name="timeout">Zero looks and does not wait; <see cref="NoTimeout"/>.</param>
    public static FenceWait StartAny(
        HostContext host, Waiter? waiter, IReadOnlyCollection<Fence> fences, TimeSpan timeout)
    {
        FenceWait wait = new(host, waiter, timeout, [.. fences]);
        wait.Begin($"any of {fences.Count} fences");
        return wait;
    }

    /// <summary>
    /// Waits for every fence of a class and the stronger ones, one after the other, within one time-out
    /// (<c>dma_resv_wait_timeout</c>). Fences that are added meanwhile count too.
    /// </summary>
    public static FenceWait Start(
        HostContext host, Waiter? waiter, Reservation reservation, ReservationUsage usage, TimeSpan timeout)
    {
        FenceWait wait = new(host, waiter, timeout, [], reservation, usage);
        wait.Begin(reservation.Label);
        return wait;
    }

    /// <summary>
    /// Runs <paramref name="callback"/> once at the end, after the host lock was released; false when it has ended and
    /// the callback was not kept.
    /// </summary>
    public bool TryAddCallback(Action callback)
    {
        _host.AssertHeld();
        if (IsCompleted)
        {
            return false;
        }

        _callback += callback;
        return true;
    }

    /// <summary>Ends the wait if its time is over.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        _host.AssertHeld();
        if (NextDeadline <= now)
        {
            Complete(FenceWaitState.TimedOut);
        }
    }

    /// <summary>Ends a wait that is pending; the work that was waited for goes on.</summary>
    public void Interrupt()
    {
        _host.AssertHeld();
        if (!IsCompleted)
        {
            Complete(FenceWaitState.Interrupted);
        }
    }

    private bool IsForAny => _reservation is null && _fences.Length != 1;

    private void Begin(string what)
    {
        _host.AssertHeld();
        if (_timeout < TimeSpan.Zero || (_reservation is null && _fences.Length == 0))
        {
            _host.Checker.Report(ViolationKind.WaitArguments, what, "a negative time-out, or no fence at all");
            Complete(FenceWaitState.Invalid);
            return;
        }

        // Before it is known whether there is anything to wait for: an order that is wrong is wrong every time.
        (_waiter as Activity)?.MightWaitForFence(what);
        _host.Checker.MightWaitForFence(what);
        WaitForNext();
    }

    private void WaitForNext()
    {
        if (IsForAny)
        {
            WaitForAny();
            return;
        }

        while (Next() is { } fence)
        {
            fence.EnableSignaling();
            if (fence.IsSignaled)
            {
                continue;
            }

            if (_timeout == TimeSpan.Zero)
            {
                Complete(FenceWaitState.TimedOut);
                return;
            }

            WaitCycle? cycle = null;
            if (_waiter is not null && _waiter.TryBeginWait(fence, out cycle) != Errno.Success)
            {
                Cycle = cycle;
                Complete(FenceWaitState.Deadlock);
                return;
            }

            Watch(fence);
            return;
        }

        Complete(FenceWaitState.Signaled);
    }

    private Fence? Next() => _reservation is not null ? _reservation.FirstUnsignaled(_usage)
        : _fences[0].IsSignaled ? null
        : _fences[0];

    private void WaitForAny()
    {
        foreach (Fence fence in _fences)
        {
            fence.EnableSignaling();
        }

        int signaled = Array.FindIndex(_fences, f => f.IsSignaled);
        if (signaled >= 0)
        {
            Index = signaled;
            Complete(FenceWaitState.Signaled);
        }
        else if (_timeout == TimeSpan.Zero)
        {
            Complete(FenceWaitState.TimedOut);
        }
        else
        {
            foreach (Fence fence in _fences)
            {
                Watch(fence);
            }
        }
    }

    private void Watch(Fence fence)
    {
        _watched.Add(fence);
        fence.TryObserve(_handleSignaled);
    }

    private void HandleSignaled(Fence fence)
    {
        if (IsCompleted)
        {
            return;
        }

        if (IsForAny)
        {
            Index = Array.IndexOf(_fences, fence);
            Complete(FenceWaitState.Signaled);
            return;
        }

        Unwatch();
        WaitForNext();
    }

    private void Unwatch()
    {
        foreach (Fence fence in _watched)
        {
            fence.TryStopObserving(_handleSignaled);
            _waiter?.EndWait(fence);
        }

        _watched.Clear();
    }

    private void Complete(FenceWaitState state)
    {
        Unwatch();
        if (state == FenceWaitState.Signaled)
        {
            TimeSpan left = _timeout == NoTimeout ? TimeSpan.FromTicks(1) : _startedAt + _timeout - _host.Now;
            Remaining = left > TimeSpan.Zero ? left : TimeSpan.FromTicks(1);
        }

        Volatile.Write(ref _state, (int)state);
        (Action? callback, _callback) = (_callback, null);
        if (callback is not null)
        {
            _host.Defer(callback);
        }
    }
}
