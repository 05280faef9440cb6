using System.Globalization;
using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Host.Compute;

/// <summary>
/// Names by which the clients of a host wait for each other's work, on any of its engines (<c>drm_syncobj</c>). A name
/// may be waited for before anybody has submitted anything for it: such a job is held back, outside of every queue and
/// without a fence, because nobody has promised that its turn comes. A name stays known after its work has ended, and
/// can then be used again. Host lock held by the caller.
/// </summary>
internal sealed class SyncPointTable(HostContext host)
{
    /// <summary>Names at a time; those whose work is over make room.</summary>
    public const int PointsMax = 1024;

    private readonly Dictionary<string, Point> _points = new(StringComparer.Ordinal);
    private readonly List<string> _inOrder = [];

    /// <summary>In the order in which they were first named.</summary>
    public IEnumerable<(string Name, Fence? Fence, ContextJob? Producer)> List() =>
        _inOrder.Select(n => (n, _points[n].Object.Fence, _points[n].Producer));

    /// <summary>
    /// Notes what a job waits for and signals, or says why it must not: a name that somebody else is about to signal
    /// (EBUSY), too many names (ENOSPC), and a circle of jobs that would all wait to be submitted (EDEADLK).
    /// </summary>
    /// <param name="job">That is about to be submitted.</param>
    /// <param name="operation">For the failure.</param>
    /// <returns>A task for each name that nobody has submitted anything for.</returns>
    public IReadOnlyList<Task> Enter(ContextJob job, string operation)
    {
        host.AssertHeld();
        if (job.Request.Signal is { } signal && _points.TryGetValue(signal, out Point? taken)
            && (taken.Producer is not null || taken.Object.Fence is { IsSignaled: false }))
        {
            throw new WayleaveException(
                Errno.EBUSY,
                operation,
                $"'{signal}' is what {Describe(taken)} signals, and that has not ended",
                "choose another name");
        }

        string[] missing = [.. job.Request.After.Distinct().Where(n => !IsSubmitted(n))];
        if (FindCircle(job, missing) is { } circle)
        {
            throw new WayleaveException(Errno.EDEADLK, operation, $"it would wait for itself: {circle}");
        }

        int added = job.Request.After.Append(job.Request.Signal ?? "").Where(n => n.Length > 0).Distinct()
            .Count(n => !_points.ContainsKey(n));
        if (!TryMakeRoom(added))
        {
            throw new WayleaveException(
                Errno.ENOSPC, operation, $"{PointsMax} names are waited for already", "wait until some work has ended");
        }

        job.Missing = missing;
        List<Task> submitted = [];
        foreach (string name in job.Request.After.Distinct())
        {
            Point point = FindOrAdd(name);
            point.Waiting.Add(job);
            TaskCompletionSource known = new(TaskCreationOptions.RunContinuationsAsynchronously);
            if (point.Object.TryAddSubmitCallback(0, _ => known.SetResult()))
            {
                submitted.Add(known.Task);
            }
        }

        if (job.Request.Signal is { } promised)
        {
            FindOrAdd(promised).Producer = job;
        }

        return submitted;
    }

    /// <summary>What the job waits for; every name has been submitted for.</summary>
    public IReadOnlyList<Fence> FencesFor(ContextJob job) =>
        [.. job.Request.After.Distinct().Select(n => _points[n].Object.Fence!)];

    /// <summary>The job no longer waits for names. Nothing the second time.</summary>
    public void LeaveWaiting(ContextJob job)
    {
        foreach (string name in job.Request.After.Distinct())
        {
            if (_points.TryGetValue(name, out Point? point) && point.Waiting.Remove(job))
            {
                RemoveIfUnused(name);
            }
        }

        job.Missing = [];
    }

    /// <summary>The job is in its queue: who waits for its name waits for its fence from now on.</summary>
    public void Submit(ContextJob job)
    {
        if (job.Request.Signal is { } signal)
        {
            Point point = _points[signal];
            (point.Producer, point.Last) = (null, job);
            point.Object.Replace(job.Fence!);
        }
    }

    /// <summary>The job was refused, and signals nothing.</summary>
    public void GiveUp(ContextJob job)
    {
        LeaveWaiting(job);
        if (job.Request.Signal is { } signal && _points.TryGetValue(signal, out Point? point)
            && ReferenceEquals(point.Producer, job))
        {
            point.Producer = null;
            RemoveIfUnused(signal);
        }
    }

    // What is held waits for names; who will signal them may be held as well.
    private string? FindCircle(ContextJob job, IReadOnlyList<string> missing)
    {
        if (job.Request.Signal is not { } own)
        {
            return null;
        }

        HashSet<string> seen = [];
        Stack<(string Name, string Path)> left = new(missing.Select(n => (n, $"it runs after '{n}'")));
        while (left.TryPop(out (string Name, string Path) at))
        {
            if (at.Name == own)
            {
                return $"{at.Path}, which is what it signals itself";
            }

            if (!seen.Add(at.Name) || !_points.TryGetValue(at.Name, out Point? point) || point.Producer is not { } next)
            {
                continue;
            }

            foreach (string name in next.Missing)
            {
                left.Push((name, string.Create(
                    CultureInfo.InvariantCulture,
                    $"{at.Path}, which job {next.Id} signals, which runs after '{name}'")));
            }
        }

        return null;
    }

    private bool IsSubmitted(string name) => _points.TryGetValue(name, out Point? p) && p.Object.Fence is not null;

    private Point FindOrAdd(string name)
    {
        if (!_points.TryGetValue(name, out Point? point))
        {
            point = new Point(new SyncObject(host, name));
            _points.Add(name, point);
            _inOrder.Add(name);
        }

        return point;
    }

    private bool TryMakeRoom(int count)
    {
        for (int i = 0; i < _inOrder.Count && _points.Count + count > PointsMax;)
        {
            Point point = _points[_inOrder[i]];
            bool isOver = point is { Producer: null, Waiting.Count: 0, Object.Fence.IsSignaled: true };
            if (isOver)
            {
                _points.Remove(_inOrder[i]);
                _inOrder.RemoveAt(i);
            }
            else
            {
                i++;
            }
        }

        return _points.Count + count <= PointsMax;
    }

    private void RemoveIfUnused(string name)
    {
        if (_points[name] is { Producer: null, Waiting.Count: 0, Object.Fence: null })
        {
            _points.Remove(name);
            _inOrder.Remove(name);
        }
    }

    private static string Describe(Point point) =>
        (point.Producer ?? point.Last) is { } job
            ? string.Create(CultureInfo.InvariantCulture, $"job {job.Id}")
            : "another job";

    private sealed class Point(SyncObject o)
    {
        public SyncObject Object { get; } = o;

        /// <summary>Held or being submitted; its fence will be the point's.</summary>
        public ContextJob? Producer { get; set; }

        /// <summary>Whose fence it has.</summary>
        public ContextJob? Last { get; set; }

        public List<ContextJob> Waiting { get; } = [];
    }
}
