using Wayleave.Simulation;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>Somebody who works in simulated time: one step after the other, each of some length.</summary>
/// <param name="Name">For people.</param>
/// <param name="HasWork">Reads state and changes none.</param>
/// <param name="Work">One step; returns how long it takes.</param>
internal sealed record Station(string Name, Func<bool> HasWork, Func<TimeSpan> Work)
{
    /// <summary>When it can begin the next step.</summary>
    public TimeSpan FreeAt { get; set; }

    /// <summary>The step that it waits to make; null for who has none now.</summary>
    public string? At => _at?.Invoke();

    private Func<string?>? _at;

    /// <summary>An actor of the explorer as a station.</summary>
    /// <param name="name">For people.</param>
    /// <param name="steps">Driven to its end.</param>
    /// <param name="cost">Of the step of that name, which has just been made.</param>
    public static Station Of(string name, IEnumerable<Step> steps, Func<string, TimeSpan> cost)
    {
        IEnumerator<Step> at = steps.GetEnumerator();
        bool isOver = !at.MoveNext();
        Station station = new(
            name,
            () => !isOver && (at.Current.Ready is not { } ready || ready()),
            () =>
            {
                string made = at.Current.Name;
                isOver = !at.MoveNext();
                return cost(made);
            });
        station._at = () => isOver ? null : at.Current.Name;
        return station;
    }
}

/// <summary>
/// Runs stations in simulated time: whoever can begin first is next, of two the one that was added first. The same
/// workload gives the same run.
/// </summary>
/// <param name="clock">Moved on by this.</param>
/// <param name="stations">More may be added between two runs.</param>
/// <param name="surcharge">What a step took besides, asked after each.</param>
internal sealed class EventLoop(VirtualClock clock, List<Station> stations, Func<TimeSpan> surcharge)
{
    private readonly List<Func<TimeSpan?>> _alarms = [];

    /// <summary>Steps that were made.</summary>
    public long Steps { get; private set; }

    /// <summary>A time at which somebody may have work that has none now; null for no such time.</summary>
    public void AddAlarm(Func<TimeSpan?> next) => _alarms.Add(next);

    /// <summary>Runs until <paramref name="isOver"/>, or nobody has anything to do any more.</summary>
    /// <returns>Whether it is over; false: everybody waits for somebody.</returns>
    public bool Run(Func<bool> isOver)
    {
        while (!isOver())
        {
            Station? next = null;
            TimeSpan at = TimeSpan.MaxValue;
            foreach (Station station in stations)
            {
                TimeSpan start = station.FreeAt > clock.Now ? station.FreeAt : clock.Now;
                if (start < at && station.HasWork())
                {
                    (next, at) = (station, start);
                }
            }

            foreach (Func<TimeSpan?> alarm in _alarms)
            {
                if (alarm() is { } time && time > clock.Now && time < at)
                {
                    (next, at) = (null, time);
                }
            }

            if (at == TimeSpan.MaxValue)
            {
                return false;
            }

            clock.AdvanceTo(at);
            if (next is null)
            {
                continue;
            }

            Steps++;
            next.FreeAt = at + next.Work() + surcharge();
        }

        return true;
    }
}
