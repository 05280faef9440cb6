using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Jobs of one process, which run one after the other and each end with a fence (<c>drm_sched_entity</c>). Host lock
/// held by the caller. Lost, it ends what is in it with ECANCELED.
/// </summary>
public sealed class ComputeQueue : EngineQueue
{
    private readonly List<ComputeJob> _jobs = [];
    private readonly bool _waitsForFences;

    internal ComputeQueue(GpuProcess process, string name, GpuPriority priority, bool waitsForFences)
        : base(process, name, priority)
    {
        _waitsForFences = waitsForFences;
        Timeline = new Timeline(process.Device.Host, Name);
    }

    /// <summary>Jobs that have not ended.</summary>
    public int Count => _jobs.Count;

    internal Timeline Timeline { get; }

    internal IReadOnlyList<ComputeJob> Jobs => _jobs;

    internal override bool HasWork => _jobs.Count > 0;

    internal override EngineWork? Ready =>
        _jobs is [{ } job, ..] && (job.IsReady || !_waitsForFences) ? job : null;

    internal void Add(ComputeJob job) => _jobs.Add(job);

    internal void Remove(ComputeJob job) => _jobs.Remove(job);

    internal override void Lose()
    {
        base.Lose();
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
