namespace Wayleave.Simulation;

/// <summary>
/// A clock that advances only when told. Timers run on the thread that advances it, in the order of their due times,
/// and see the time they were due at.
/// </summary>
/// <remarks>Reading is safe from any thread. One thread at a time advances.</remarks>
public sealed class VirtualClock : TimeProvider
{
    private readonly Lock _lock = new();
    private readonly List<Timer> _timers = [];
    private readonly DateTimeOffset _start;
    private long _nowTicks;
    private ulong _nextTimer;

    /// <param name="start">What <see cref="GetUtcNow"/> says at first; 2000-01-01T00:00:00Z by default.</param>
    public VirtualClock(DateTimeOffset? start = null) =>
        _start = start ?? new DateTimeOffset(2000, 1, 1, 0, 0, 0, TimeSpan.Zero);

    /// <summary>Time since this clock was made.</summary>
    public TimeSpan Now => new(Volatile.Read(ref _nowTicks));

    /// <summary>When the next timer is due, or null when none is set.</summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            lock (_lock)
            {
                return Earliest() is { } timer ? new TimeSpan(timer.DueTicks) : null;
            }
        }
    }

    /// <inheritdoc/>
    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    /// <inheritdoc/>
    public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;

    /// <inheritdoc/>
    public override long GetTimestamp() => Volatile.Read(ref _nowTicks);

    /// <inheritdoc/>
    public override DateTimeOffset GetUtcNow() => _start + Now;

    /// <summary>
    /// Moves time on by <paramref name="duration"/> and runs the timers that come due, each at its own time.
    /// </summary>
    public void Advance(TimeSpan duration)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(duration, TimeSpan.Zero);
        AdvanceTo(Now + duration);
    }

    /// <summary>As <see cref="Advance"/>, up to a time that is not before <see cref="Now"/>.</summary>
    public void AdvanceTo(TimeSpan time)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(time, Now);
        while (TakeDue(time.Ticks) is { } timer)
        {
            timer.Run();
        }

        Volatile.Write(ref _nowTicks, time.Ticks);
    }

    /// <inheritdoc/>
    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        ArgumentNullException.ThrowIfNull(callback);
        lock (_lock)
        {
            Timer timer = new(this, callback, state, _nextTimer++);
            _timers.Add(timer);
            timer.Set(dueTime, period);
            return timer;
        }
    }

    private Timer? TakeDue(long untilTicks)
    {
        lock (_lock)
        {
            if (Earliest() is not { } timer || timer.DueTicks > untilTicks)
            {
                return null;
            }

            Volatile.Write(ref _nowTicks, Math.Max(_nowTicks, timer.DueTicks));
            timer.Rearm();
            return timer;
        }
    }

    private Timer? Earliest()
    {
        Timer? earliest = null;
        foreach (Timer timer in _timers)
        {
            if (timer.DueTicks != Timer.Never
                && (earliest is null
                    || (timer.DueTicks, timer.Number).CompareTo((earliest.DueTicks, earliest.Number)) < 0))
            {
                earliest = timer;
            }
        }

        return earliest;
    }

    private sealed class Timer(VirtualClock clock, TimerCallback callback, object? state, ulong number) : ITimer
    {
        public const long Never = long.MaxValue;

        private long _periodTicks = Never;

        public ulong Number { get; } = number;

        public long DueTicks { get; private set; } = Never;

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (clock._lock)
            {
                if (!clock._timers.Contains(this))
                {
                    return false;
                }

                Set(dueTime, period);
                return true;
            }
        }

        public void Set(TimeSpan dueTime, TimeSpan period)
        {
            DueTicks = dueTime == Timeout.InfiniteTimeSpan ? Never : clock._nowTicks + dueTime.Ticks;
            _periodTicks = period == Timeout.InfiniteTimeSpan || period == TimeSpan.Zero ? Never : period.Ticks;
        }

        public void Rearm() => DueTicks = _periodTicks == Never ? Never : DueTicks + _periodTicks;

        public void Run() => callback(state);

        public void Dispose()
        {
            lock (clock._lock)
            {
                clock._timers.Remove(this);
            }
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
