namespace Wayleave.Devices.Gpu.Compute;

// An engine reads a value without the lock, finds that it is not there yet, and puts its queue to sleep with the lock.
// What another engine has written in between would be missed: so the engine notes the count of ends before it reads,
// and a queue whose count is out of date does not sleep but looks again.

/// <summary>
/// What the engines of a GPU tell each other of their user queues: that something has ended, which may have written
/// what a queue of any of them waits for. Host lock held by the caller, unless a member says otherwise.
/// </summary>
internal sealed class UserProgress
{
    private readonly List<QueueEngine> _engines = [];
    private long _ends;

    /// <summary>How often something has ended; to be read before a value is. Readable without the lock.</summary>
    public long Ends => Volatile.Read(ref _ends);

    public void Add(QueueEngine engine) => _engines.Add(engine);

    /// <summary>Something has ended, and what it wrote can be seen.</summary>
    public void Tell(QueueEngine by)
    {
        Volatile.Write(ref _ends, _ends + 1);
        foreach (QueueEngine engine in _engines)
        {
            engine.WakeWaiting(isElsewhere: engine != by);
        }
    }
}
