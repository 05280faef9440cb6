using Wayleave.Core.Fences;

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
/// A ring of jobs of one process, which run one after the other (<c>drm_sched_entity</c>). Host lock held by the
/// caller.
/// </summary>
public sealed class ComputeQueue
{
    private readonly List<ComputeJob> _jobs = [];

    internal ComputeQueue(GpuProcess process, string name, GpuPriority priority)
    {
        (Process, Priority) = (process, priority);
        Name = $"{process.Device.Function.Name} compute, {name} of {process.Name}";
        Timeline = new Timeline(process.Device.Host, Name);
    }

    public GpuProcess Process { get; }

    public GpuPriority Priority { get; }

    /// <summary>For people and proofs.</summary>
    public string Name { get; }

    /// <summary>Jobs that have not ended.</summary>
    public int Count => _jobs.Count;

    /// <summary>
    /// A job of it faulted or hung: what was in it ends with ECANCELED, and it takes nothing more. Other queues, of
    /// this process and of others, are not affected.
    /// </summary>
    public bool IsLost { get; private set; }

    internal Timeline Timeline { get; }

    internal IReadOnlyList<ComputeJob> Jobs => _jobs;

    // What it has had of the engine, in blocks over its priority: the least is next.
    internal double Share { get; set; }

    internal void Add(ComputeJob job) => _jobs.Add(job);

    internal void Remove(ComputeJob job) => _jobs.Remove(job);

    internal void Lose()
    {
        IsLost = true;
        CancelAll();
    }

    internal void CancelAll()
    {
        foreach (ComputeJob job in _jobs)
        {
            job.Cancel();
        }
    }
}
