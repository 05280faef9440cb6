namespace Wayleave.Devices.Gpu.Compute;

/// <summary>How much of the engine a queue gets beside others that are busy too.</summary>
public enum GpuPriority
{
    Low = 1,
    Normal = 4,

    /// <summary>Takes the engine from lower ones at the next block.</summary>
    High = 16,
}

/// <summary>
/// What an engine goes to and fro between: work of one process, one piece after the other. Host lock held by
/// the caller, unless a member says otherwise.
/// </summary>
public abstract class EngineQueue
{
    private protected EngineQueue(GpuProcess process, string name, GpuPriority priority, QueueEngine engine)
    {
        (Process, Priority, Engine) = (process, priority, engine);
        string what = engine.Kind == GpuEngineKind.Compute ? "compute" : "copy";
        Name = $"{process.Device.Function.Name} {what}, {name} of {process.Name}";
    }

    /// <summary>Who runs it.</summary>
    public QueueEngine Engine { get; }

    public GpuProcess Process { get; }

    public GpuPriority Priority { get; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    /// <summary>
    /// Work of it faulted or hung: it runs nothing more, and takes nothing more. Other queues, of this process and of
    /// others, are not affected.
    /// </summary>
    public bool IsLost { get; private set; }

    /// <summary>
    /// It takes nothing more; what it has goes on, and then it is gone (<see cref="GpuProcess.CloseQueue"/>).
    /// </summary>
    public bool IsClosed { get; internal set; }

    /// <summary>What can run now, or null. Callable without the lock, as a guess.</summary>
    internal abstract EngineWork? Ready { get; }

    /// <summary>It cannot get on before <see cref="Look"/>. Callable without the lock, as a guess.</summary>
    internal virtual bool MustLook => false;

    /// <summary>Does what its next work needs first. Nothing when <see cref="MustLook"/> is false.</summary>
    internal virtual void Look()
    {
    }

    /// <summary>Whether it has work at all, ready or not.</summary>
    internal abstract bool HasWork { get; }

    // What it has had of the engine, in blocks over its priority: the least is next.
    internal double Share { get; set; }

    internal virtual void Lose() => IsLost = true;
}
