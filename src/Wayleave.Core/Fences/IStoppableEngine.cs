namespace Wayleave.Core.Fences;

/// <summary>What an engine answered when it was told to stop.</summary>
public enum EngineStop
{
    /// <summary>
    /// It stands still and touches no memory: it was seen to, by its own registers or its thread's end.
    /// </summary>
    Stopped,

    /// <summary>It will say so later, by <see cref="HangDetector.HandleStopped"/>.</summary>
    Stopping,

    /// <summary>Nobody can tell whether it still runs.</summary>
    Unknown,
}

/// <summary>An engine that can be told to stop (a GPU ring with a reset). Called with the host lock held.</summary>
public interface IStoppableEngine
{
    /// <summary>For people and traces.</summary>
    string Name { get; }

    /// <summary>
    /// Asks for the end of one job that is late, before the engine as a whole is stopped (<c>nvme_timeout</c>). True
    /// gives the job its time once more; an engine that cannot end one job alone says false.
    /// </summary>
    bool TryAbort(Fence late) => false;

    /// <summary>
    /// Begins to stop, and never blocks. <see cref="EngineStop.Stopped"/> is a promise that no access is under way and
    /// none will start for any job submitted so far.
    /// </summary>
    EngineStop Stop();

    /// <summary>
    /// The fences of what was submitted and has not ended, in the order of submission, watched or not: they are given
    /// up with the engine. Empty for one whose every fence is watched.
    /// </summary>
    IEnumerable<Fence> Submitted => [];

    /// <summary>
    /// The engine is given up, and the fences of all that was submitted are about to be forced, in the same hold of the
    /// lock: whoever waits for one of them must find nothing that only the work would have made fit to be seen.
    /// </summary>
    void HandleLost()
    {
    }
}

/// <summary>
/// Somebody who signals and whom nobody can stop, or see standing still: a thread inside a gate. Its fences can be
/// forced; only its own signal is evidence.
/// </summary>
/// <param name="name">For people and traces.</param>
public sealed class UnstoppableEngine(string name) : IStoppableEngine
{
    public string Name => name;

    EngineStop IStoppableEngine.Stop() => EngineStop.Unknown;
}
