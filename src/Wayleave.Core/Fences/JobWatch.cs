namespace Wayleave.Core.Fences;

/// <summary>
/// What a <see cref="HangDetector"/> knows of one fence that must signal in time. An engine that runs one job after the
/// other has one for all of them (<see cref="HangDetector.Watch"/>), so that to watch a job allocates nothing and
/// writes nothing that another engine reads. Host lock held by the caller.
/// </summary>
public sealed class JobWatch
{
    private readonly HangDetector _detector;

    internal JobWatch(HangDetector detector, ReadOnlySpan<IStoppableEngine> engines)
    {
        _detector = detector;
        foreach (IStoppableEngine engine in engines)
        {
            Engines.Add(new WatchedEngine(engine));
        }
    }

    /// <summary>What is watched, or null.</summary>
    internal Fence? Fence { get; set; }

    /// <summary>Who works for it and is not known to have stopped.</summary>
    internal List<WatchedEngine> Engines { get; } = new(1);

    /// <summary>When something is done about it, on the host's clock.</summary>
    internal TimeSpan Due { get; set; }

    internal bool WasAborted { get; set; }

    internal bool IsPending => Fence is { IsSignaled: false };

    internal bool WasTold
    {
        get
        {
            foreach (WatchedEngine engine in Engines)
            {
                if (!engine.WasTold)
                {
                    return false;
                }
            }

            return true;
        }
    }

    internal string EngineNames => string.Join(" and ", Engines.Select(e => e.Engine.Name));

    /// <summary>
    /// From <paramref name="now"/> on the engine has the time-out to signal <paramref name="fence"/>, in the place of
    /// what was watched before.
    /// </summary>
    /// <param name="fence">What is watched, until <see cref="Stop"/>.</param>
    /// <param name="now">On the host's clock.</param>
    /// <param name="extra">More time, for a job that is larger than others.</param>
    public void Start(Fence fence, TimeSpan now, TimeSpan extra = default)
    {
        _detector.Host.AssertHeld();
        (Fence, Due, WasAborted) = (fence, now + _detector.Timeout + extra, false);
        foreach (WatchedEngine engine in Engines)
        {
            engine.WasTold = false;
        }
    }

    /// <summary>
    /// The work has left its engine, done or not, and is not watched any more; nothing when it was not. Only the engine
    /// says so: what was forced stays watched until it is back.
    /// </summary>
    public void Stop()
    {
        _detector.Host.AssertHeld();
        Fence = null;
    }

    internal WatchedEngine? Find(IStoppableEngine engine)
    {
        foreach (WatchedEngine watched in Engines)
        {
            if (ReferenceEquals(watched.Engine, engine))
            {
                return watched;
            }
        }

        return null;
    }
}

/// <summary>One who works for a fence that is watched.</summary>
internal sealed class WatchedEngine(IStoppableEngine engine)
{
    public IStoppableEngine Engine => engine;

    public bool WasTold { get; set; }
}
