using Wayleave.Core;

namespace Wayleave.Host.Runners;

/// <summary>
/// Tells state machines of a host that their time is over: removals that nobody waits for by name, changes of a
/// function that wait for importers. One timer for all of them, set to the first deadline. Threads may share it.
/// </summary>
/// <remarks>
/// The timer runs on a thread of the pool and takes the host lock; whoever holds that lock does not call
/// <see cref="Arm"/>.
/// </remarks>
public sealed class DeadlineWatch : IDisposable
{
    // A deadline that appears by itself, as when a process dies, is noticed by the next look.
    private static readonly TimeSpan s_lookAgain = TimeSpan.FromSeconds(1);

    private readonly HostContext _host;
    private readonly ITimer _timer;
    private readonly List<(Func<TimeSpan?> Next, Action<TimeSpan> Handle)> _sources = []; // host lock
    private volatile bool _isDisposed;

    /// <param name="host">Whose lock is taken, and whose time counts.</param>
    /// <param name="clock">Of the timer.</param>
    public DeadlineWatch(HostContext host, TimeProvider clock)
    {
        ArgumentNullException.ThrowIfNull(clock);
        _host = host;
        _timer = clock.CreateTimer(_ => Fire(), null, s_lookAgain, Timeout.InfiniteTimeSpan);
    }

    /// <summary>Watches one more state machine. Host lock held by the caller.</summary>
    /// <param name="next">Its deadline on the host's clock, or null; called with the host lock held.</param>
    /// <param name="handle">Called with the host lock held, at the deadline or later.</param>
    public void Add(Func<TimeSpan?> next, Action<TimeSpan> handle)
    {
        _host.AssertHeld();
        _sources.Add((next, handle));
    }

    /// <summary>Looks for the first deadline: something was begun that has one. Host lock not held.</summary>
    public void Arm()
    {
        TimeSpan wait = s_lookAgain;
        using (_host.Enter())
        {
            foreach ((Func<TimeSpan?> next, _) in _sources)
            {
                if (next() is { } deadline && deadline - _host.Now < wait)
                {
                    wait = deadline - _host.Now;
                }
            }
        }

        // Not zero: a deadline of this very moment is over a tick later.
        wait = wait < TimeSpan.FromMilliseconds(1) ? TimeSpan.FromMilliseconds(1) : wait;
        if (!_isDisposed)
        {
            _timer.Change(wait, Timeout.InfiniteTimeSpan);
        }
    }

    /// <summary>Nobody is told any more.</summary>
    public void Dispose()
    {
        _isDisposed = true;
        _timer.Dispose();
    }

    private void Fire()
    {
        using (_host.Enter())
        {
            foreach ((Func<TimeSpan?> next, Action<TimeSpan> handle) in _sources)
            {
                if (next() is { } deadline && deadline <= _host.Now)
                {
                    handle(_host.Now);
                }
            }
        }

        Arm();
    }
}
