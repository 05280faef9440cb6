namespace Wayleave.Core.Retirement;

/// <summary>
/// How it is known that a user of memory is gone for good, without a word of its own. Each excludes another access; a
/// time-out, a closed connection or a missing heartbeat does not, and is none of these.
/// </summary>
public enum StopCause
{
    /// <summary>The process has ended: its pidfd is readable. Its mappings ended with it.</summary>
    ProcessDead,

    /// <summary>
    /// The engine was reset and has said so: what was in its queues is lost (a function-level reset).
    /// </summary>
    EngineReset,

    /// <summary>The device is off the bus, or its bus mastering is off.</summary>
    DeviceRemoved,

    /// <summary>
    /// The user still has its mapping, but other storage is behind it: the owner took the bytes out of it, and what
    /// is done there reaches the memory no more.
    /// </summary>
    StorageReplaced,
}
