using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>What has the engine until it is done or has to give it up: a job, or a queue of a program's own.</summary>
internal abstract class EngineWork(EngineQueue queue)
{
    public EngineQueue Queue => queue;

    /// <summary>Null for work that nobody waits for by a fence: it can be taken from the engine for any time.</summary>
    public abstract Fence? Fence { get; }

    /// <summary>How long it has had the engine, but for the time since it got it last.</summary>
    public TimeSpan RanFor { get; set; }

    /// <summary>What it is given time for, in bytes.</summary>
    public abstract double Size { get; }

    /// <summary>
    /// One block. Engine token held. EAGAIN: it cannot go on now, and is not done.
    /// </summary>
    public abstract Errno Step(out bool hasEnded);

    /// <summary>The engine has let go of it for good, or for now if there is no fence. Host lock held.</summary>
    public abstract void HandleEnded(Errno errno);
}
