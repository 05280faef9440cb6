using Wayleave.Core;
using Wayleave.Core.Checking;
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
    private readonly Activity _activity; // what its fences need, when that itself can wait
    private bool _isLooking;

    internal ComputeQueue(
        GpuProcess process, string name, GpuPriority priority, QueueEngine engine, bool waitsForFences)
        : base(process, name, priority, engine)
    {
        _waitsForFences = waitsForFences;
        _activity = new Activity(process.Device.Host, ActivityKind.Engine, Name);
        Timeline = new Timeline(process.Device.Host, Name, _activity);
    }

    /// <summary>Jobs that have not ended.</summary>
    public int Count => _jobs.Count;

    /// <summary>Whether the job that is next, or has the engine, is the one with this fence.</summary>
    public bool IsFirst(Fence fence) => _jobs is [{ } job, ..] && ReferenceEquals(job.Fence, fence);

    internal Timeline Timeline { get; }

    /// <summary>Of the command that runs: jobs run one after the other. Engine token held.</summary>
    internal KernelRun Run { get; } = new();

    internal IReadOnlyList<ComputeJob> Jobs => _jobs;

    internal override bool HasWork => _jobs.Count > 0;

    internal override EngineWork? Ready =>
        _jobs is [{ } job, ..] && (job.IsReady || !_waitsForFences) && !job.MustLook ? job : null;

    /// <summary>The next job needs <see cref="Look"/>. Callable without the lock, as a guess.</summary>
    internal override bool MustLook => !_isLooking && _jobs is [{ MustLook: true }, ..];

    /// <summary>
    /// Memory of the process is looked up for the next job, which has a fence that others wait for already.
    /// </summary>
    internal override void Look()
    {
        if (MustLook)
        {
            LookFor(_jobs[0]);
        }
    }

    private void LookFor(ComputeJob job)
    {
        foreach (GpuBinding binding in job.Bindings)
        {
            if (binding is not UserPointerBinding { IsStale: true } pages)
            {
                continue;
            }

            _isLooking = true;
            bool cookie = _activity.BeginSignaling(Name);
            bool isThere = pages.TryLookAgain(_activity, errno => HandleLooked(job, errno));
            _activity.EndSignaling(cookie);
            if (!isThere)
            {
                return; // one after the other: the next when this one is there
            }

            _isLooking = false;
        }
    }

    private void HandleLooked(ComputeJob job, Errno errno)
    {
        _isLooking = false;
        if (errno is not (Errno.Success or Errno.EBUSY))
        {
            job.Fail(errno);
        }

        Process.Device.Host.Defer(Engine.HandleRestored);
    }

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
