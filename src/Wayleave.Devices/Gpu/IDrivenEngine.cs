namespace Wayleave.Devices.Gpu;

/// <summary>
/// An engine that moves only while a thread drives it. Members are callable without any lock, unless they say
/// otherwise.
/// </summary>
public interface IDrivenEngine
{
    /// <summary>
    /// Called without any lock, on any thread, when work may have become ready: sets a flag or wakes a thread, and
    /// returns. Set by the edge before the first job.
    /// </summary>
    Action? WorkAvailable { get; set; }

    /// <summary>Work may have become ready since <see cref="Drive"/> last looked.</summary>
    bool HasDoorbell { get; }

    /// <summary>Work that was submitted and has not ended, as a guess: none, and nobody need look soon.</summary>
    bool IsIdle { get; }

    /// <summary>Runs up to so many steps if nobody else drives the engine. Host lock not held.</summary>
    /// <returns>How many steps did something.</returns>
    int Drive(int stepsMax);

    /// <summary>
    /// The thread that has the token has ended by a fault and never gives it back: every job ends with EIO, and none is
    /// taken any more. Host lock held by the caller.
    /// </summary>
    void HandleDriverEnded();
}
