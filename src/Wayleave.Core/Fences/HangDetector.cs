using Wayleave.Core.Checking;

namespace Wayleave.Core.Fences;

/// <summary>A fence whose engine hung.</summary>
/// <param name="Fence">Name, context and sequence number.</param>
/// <param name="Engine">Who should have signalled it.</param>
/// <param name="At">When the hang was noticed, on the host's clock.</param>
/// <param name="WasStopped">Whether the engine was known to stand still when the fence was signalled for it.</param>
public sealed record EngineHang(string Fence, string Engine, TimeSpan At, bool WasStopped);

// watched --timeout--> job aborted, if the engine can --timeout--> as without
// watched --timeout--> engine told to stop --Stopped--> fences signalled with ETIME: ended, good as evidence
//                                   |
//                                   +--Unknown, or Stopping for longer than the grace time--> fences forced: waiters
//                                      get ETIME, no evidence, memory quarantined --HandleStopped--> ended after all

/// <summary>
/// Keeps the promise that every fence signals in bounded time (dma-fence.c, cross-driver contract): an engine that is
/// late is asked to end the job alone, if it can, and then told to stop; its fences end when it has. Only then is a
/// fence evidence. Host lock held by the caller.
/// </summary>
public sealed class HangDetector
{
    private readonly HostContext _host;
    private readonly TimeSpan _stopGrace;
    private readonly List<JobWatch> _watches = [];
    private readonly List<EngineHang> _hangs = [];
    private readonly HashSet<IStoppableEngine> _lost = [];

    /// <param name="host">Of the fences.</param>
    /// <param name="timeout">
    /// How long a job may take, from <see cref="Add(Fence, IStoppableEngine, TimeSpan)"/>.
    /// </param>
    /// <param name="stopGrace">How long an engine may take to stop.</param>
    public HangDetector(HostContext host, TimeSpan timeout, TimeSpan stopGrace) =>
        (_host, Timeout, _stopGrace) = (host, timeout, stopGrace);

    /// <summary>What hung so far, oldest first.</summary>
    public IReadOnlyList<EngineHang> Hangs => _hangs;

    /// <summary>Fences that have not ended, forced ones among them.</summary>
    public int WatchedCount => _watches.Count(w => w.Fence is not null);

    /// <summary>
    /// Whether the engine was given up: it was told to stop and nobody knows that it did. Until it is seen to stand
    /// still, nothing that is submitted to it can be promised to signal.
    /// </summary>
    public bool HasLost(IStoppableEngine engine) => _lost.Contains(engine);

    /// <summary>When <see cref="HandleTimeout"/> has something to do; null while nothing is pending.</summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan? next = null;
            foreach (JobWatch watch in _watches)
            {
                TimeSpan? due = watch.IsPending ? watch.Due : null;
                next = next is null || due < next ? due ?? next : next;
            }

            return next;
        }
    }

    internal TimeSpan Timeout { get; }

    internal HostContext Host => _host;

    /// <summary>
    /// For an engine that runs one job at a time: it says when each begins and leaves. Kept for good.
    /// </summary>
    public JobWatch Watch(IStoppableEngine engine)
    {
        JobWatch watch = new(this, [engine]);
        _watches.Add(watch);
        return watch;
    }

    /// <summary>From now on <paramref name="engine"/> has the time-out to signal <paramref name="fence"/>.</summary>
    /// <param name="fence">What is watched, until it has ended.</param>
    /// <param name="engine">Who signals it.</param>
    /// <param name="extra">More time, for a job that is larger than others.</param>
    public void Add(Fence fence, IStoppableEngine engine, TimeSpan extra = default) => Add(fence, [engine], extra);

    /// <summary>
    /// As the other, for a fence behind which several engines work: it ends when all of them stand still, or have left
    /// (<see cref="HandleLeft"/>).
    /// </summary>
    /// <param name="fence">What is watched, until it has ended.</param>
    /// <param name="engines">At least one.</param>
    /// <param name="extra">More time, for a job that is larger than others.</param>
    public void Add(Fence fence, ReadOnlySpan<IStoppableEngine> engines, TimeSpan extra = default)
    {
        _host.AssertHeld();
        JobWatch watch = new(this, engines);
        watch.Start(fence, _host.Now, extra);
        if (fence.TryObserveEnd(_ => _watches.Remove(watch)))
        {
            _watches.Add(watch);
        }
    }

    /// <summary>
    /// One of several engines has done what the fence waits for and works for it no more; nothing if it does not. The
    /// last one signals the fence instead.
    /// </summary>
    public void HandleLeft(Fence fence, IStoppableEngine engine)
    {
        _host.AssertHeld();
        foreach (JobWatch watch in _watches)
        {
            if (ReferenceEquals(watch.Fence, fence) && watch.Engines.Count > 1)
            {
                watch.Engines.RemoveAll(p => ReferenceEquals(p.Engine, engine));
            }
        }
    }

    /// <summary>Tells engines that are late to stop, and gives up on those that do not.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        _host.AssertHeld();
        using SignalingSection section = new("hang detector", "time-out");
        foreach ((JobWatch watch, Fence fence) in List(w => w.IsPending && w.Due <= now))
        {
            if (!ReferenceEquals(watch.Fence, fence) || fence.IsSignaled)
            {
                continue; // an earlier one of this round ended it as well
            }

            if (!watch.WasTold && !watch.WasAborted
                && watch.Engines is [{ Engine: { } only }] && only.TryAbort(fence))
            {
                (watch.WasAborted, watch.Due) = (true, now + Timeout);
            }
            else if (!watch.WasTold)
            {
                Tell(watch, fence, now);
            }
            else
            {
                Force(watch, fence);
            }
        }
    }

    /// <summary>
    /// The engine is known to stand still: every fence of it that is watched ends now, with ETIME, also those that had
    /// to be forced meanwhile; one behind which other engines work ends with those. Only the engine, or who saw it
    /// stop, may say so.
    /// </summary>
    public void HandleStopped(IStoppableEngine engine)
    {
        _host.AssertHeld();
        using SignalingSection section = new(engine.Name, "end of a hang");
        _host.Trace("fence.engine_stopped", engine.Name);
        _lost.Remove(engine);
        foreach ((JobWatch watch, Fence fence) in List(w => w.Find(engine) is not null))
        {
            if (!ReferenceEquals(watch.Fence, fence))
            {
                continue; // ended with an earlier one
            }

            if (watch.Engines.Count > 1)
            {
                watch.Engines.Remove(watch.Find(engine)!);
                continue;
            }

            Note(watch, fence, wasStopped: true);
            foreach (Fence pending in fence.PendingUpToThis())
            {
                pending.Signal(Errno.ETIME);
            }

            fence.Signal(Errno.ETIME); // one that was forced is no longer pending
        }
    }

    // With their fences, which may have ended when it is their turn.
    private (JobWatch Watch, Fence Fence)[] List(Func<JobWatch, bool> isMeant) =>
        [.. _watches.Where(w => w.Fence is not null && isMeant(w)).Select(w => (w, w.Fence!))];

    private void Tell(JobWatch watch, Fence fence, TimeSpan now)
    {
        _host.Trace("fence.hang", fence.ToString(), (long)(now - watch.Due).TotalMilliseconds);
        foreach (WatchedEngine part in watch.Engines.Where(p => !p.WasTold).ToArray())
        {
            Tell(part.Engine, now);
            EngineStop answer = _host.Has(CoreDefences.StopBeforeEnd) ? part.Engine.Stop() : EngineStop.Stopped;
            switch (answer)
            {
                case EngineStop.Stopped:
                    HandleStopped(part.Engine);
                    break;
                case EngineStop.Unknown:
                    Force(watch, fence);
                    return;
            }
        }
    }

    // Who is told stops for all of its fences; the grace time of one begins when the last of its engines was told.
    private void Tell(IStoppableEngine engine, TimeSpan now)
    {
        foreach (JobWatch watch in _watches)
        {
            if (watch.Find(engine) is { WasTold: false } part)
            {
                part.WasTold = true;
                watch.Due = watch.WasTold ? now + _stopGrace : watch.Due;
            }
        }
    }

    // Fences of one queue signal in order, so the earlier ones are given up with it; and nobody gets to what else was
    // submitted to an engine that is lost.
    private void Force(JobWatch watch, Fence late)
    {
        Note(watch, late, wasStopped: false);
        foreach (WatchedEngine part in watch.Engines.ToArray())
        {
            part.Engine.HandleLost();
        }

        Force(late);
        foreach (WatchedEngine part in watch.Engines)
        {
            _lost.Add(part.Engine);
            foreach (Fence fence in part.Engine.Submitted.ToArray())
            {
                Force(fence);
            }
        }
    }

    private static void Force(Fence last)
    {
        foreach (Fence fence in last.PendingUpToThis())
        {
            fence.Force(Errno.ETIME);
        }
    }

    private void Note(JobWatch watch, Fence fence, bool wasStopped)
    {
        if (!fence.IsSignaled)
        {
            _hangs.Add(new EngineHang(fence.ToString(), watch.EngineNames, _host.Now, wasStopped));
            _host.Trace(wasStopped ? "fence.ended_for_engine" : "fence.forced", fence.ToString());
        }
    }
}
