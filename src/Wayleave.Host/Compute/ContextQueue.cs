using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Host.Compute;

/// <summary>A queue of a client: of jobs with fences, or a ring of its own.</summary>
/// <param name="Id">Unique in the host, never used again.</param>
/// <param name="Name">For people.</param>
/// <param name="Queue">Host lock held by whoever looks at it.</param>
public sealed record ContextQueue(ulong Id, string Name, EngineQueue Queue)
{
    /// <summary>Null for a ring of the client's own.</summary>
    public ComputeQueue? Jobs => Queue as ComputeQueue;

    /// <summary>Null for a queue of jobs.</summary>
    public UserQueue? Ring => Queue as UserQueue;
}
