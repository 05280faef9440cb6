using Wayleave.Core;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Gpu.Compute;

// Who runs what. TrySubmit: anybody, host lock held. Step: the holder of the engine token, who does not hold the host
// lock; a step takes it to choose a job and to end one, never while a kernel touches memory.
//
//   queued --chosen--> running --block, block, ...--> ended: fence signalled
//                        |  ^
//                        +--+ preempted between two blocks: another queue has had less, or is of a higher priority
//
// Of what an idle engine has, only EngineTurn is written by others when a job becomes ready; and an engine that has run
// out of ready jobs knows it by count, without the lock and without a look at the fences of the jobs that follow, whose
// cache lines it would take from those who are about to signal them.
//
// A job is watched while it has the engine, and what it has had before counts. One that is late is ended between two
// blocks by whoever has the token, which proves that no block is under way; its queue is lost, as a guilty context is
// in amdgpu, and the other queues go on: there is nothing else to reset.

// A GPU has two of these, which run beside each other: one computes, the other copies. Their user queues share the
// memory of their process, so what one has written may be what a queue of the other waits for, and whoever wants the
// memory waits until both have left (GpuEviction).

/// <summary>
/// An engine of a GPU that runs queues of several processes, of which the one that has had least is next; driven by
/// whoever holds its token.
/// </summary>
public sealed class QueueEngine : IStoppableEngine, IDrivenEngine
{
    // Slower than this is hung.
    private const double SlowBytesPerSecond = 16 << 20;

    private readonly HostContext _host;
    private readonly GpuOptions _options;
    private readonly EngineTurn _turn;
    private readonly UserProgress _progress;
    private readonly JobWatch _watch;
    private readonly Func<bool> _step;
    private readonly List<EngineQueue> _queues = []; // host lock
    private readonly List<Fence> _drains = []; // host lock
    private EngineWork? _current; // token
    private EngineWork? _running; // host lock: what the token's holder may be in
    private int _takenJobs; // written under the host lock by the holder of the token: of those that were rung for
    private int _userQueues; // host lock
    private int _blocksLeft; // token
    private TimeSpan _chosenAt; // token
    private bool _isDead; // host lock
    private int _preempts; // set under the host lock, read by the holder of the token
    private int _stopRequested;

    internal QueueEngine(
        HostContext host,
        DmaPort port,
        GpuOptions options,
        GpuEngineKind kind,
        HangDetector hangs,
        UserProgress progress)
    {
        (_host, Port, _options, Kind, Hangs, _progress) = (host, port, options, kind, hangs, progress);
        Name = kind == GpuEngineKind.Compute
            ? $"{port.Function.Name} compute engine"
            : $"{port.Function.Name} copy queue engine";
        _turn = new EngineTurn(options);
        _step = Step;
        _watch = hangs.Watch(this);
        progress.Add(this);
    }

    /// <summary>What it knows.</summary>
    public GpuEngineKind Kind { get; }

    /// <summary>For people and traces.</summary>
    public string Name { get; }

    /// <summary>
    /// Watches the jobs that have an engine of the GPU; one for all of them. The edge calls
    /// <see cref="HangDetector.HandleTimeout"/> when <see cref="HangDetector.NextDeadline"/> has passed, from another
    /// thread than those that drive.
    /// </summary>
    public HangDetector Hangs { get; }

    /// <summary>The engine's way to memory, with its byte counters.</summary>
    public DmaPort Port { get; }

    /// <summary>
    /// Called without any lock, on any thread, when a job may have become ready: sets a flag or wakes a thread, and
    /// returns. Set by the edge before the first job.
    /// </summary>
    public Action? WorkAvailable
    {
        get => _turn.WorkAvailable;
        set => _turn.WorkAvailable = value;
    }

    /// <summary>How often a job had to give the engine up before it was done. Host lock held by the caller.</summary>
    public long PreemptionCount { get; private set; }

    /// <summary>Whose work has the engine, or null. Host lock held by the caller.</summary>
    public EngineQueue? RunningQueue => _running?.Queue;

    /// <summary>
    /// Work may have come since <see cref="Drive"/> last looked. Callable without the lock.
    /// </summary>
    public bool HasDoorbell => _turn.HasDoorbell;

    /// <summary>Whether <see cref="Step"/> would do something. Exact while nobody else drives or submits.</summary>
    public bool HasReadyJob
    {
        get
        {
            bool isReady = _current is not null || Volatile.Read(ref _stopRequested) != 0;
            for (int i = 0; i < _queues.Count && !isReady; i++)
            {
                isReady = _queues[i].Ready is not null || _queues[i].MustLook;
            }

            return isReady;
        }
    }

    // Queues are the lock's; a ready one has rung the doorbell.
    bool IDrivenEngine.IsIdle => false;

    IEnumerable<Fence> IStoppableEngine.Submitted =>
        _queues.OfType<ComputeQueue>().SelectMany(q => q.Jobs).Select(j => j.Fence).Concat(_drains);

    /// <summary>Takes the engine token; false when another thread drives the engine. Host lock not held.</summary>
    public bool TryEnter() => _turn.TryEnter();

    /// <summary>Gives the token back; see <see cref="Drive"/> for work that came meanwhile.</summary>
    public void Exit() => _turn.Exit();

    /// <summary>
    /// Runs one block of the current job, or chooses another. Token held by the caller; host lock not held.
    /// </summary>
    /// <returns>False when nothing is ready and there was nothing to let go of.</returns>
    public bool Step()
    {
        if (!_turn.IsTaken)
        {
            throw new InvalidOperationException("the engine token is not held: call TryEnter first");
        }

        // Every fence of the queues needs this thread, so all of a step is between publishing and signalling.
        using SignalingSection section = new(Name, "queues");
        if (Volatile.Read(ref _stopRequested) != 0)
        {
            StandStill();
            return true;
        }

        bool had = _current is not null;
        if (_current is null ? MayHaveWork : _blocksLeft == 0 || Volatile.Read(ref _preempts) != 0)
        {
            Choose();
        }

        if (_current is not { } work)
        {
            return had; // to let go of what it had may be all that somebody waits for
        }

        _blocksLeft--;
        Errno errno = work.Step(out bool hasEnded);
        if (errno != Errno.Success || hasEnded)
        {
            _current = null;
            using (_host.Enter())
            {
                EndLocked(work, errno);
            }
        }

        return true;
    }

    /// <summary>
    /// Runs up to <paramref name="stepsMax"/> steps if nobody else drives the engine, and leaves no ready job behind
    /// unless the limit says so. Callable by any thread that does not hold the host lock.
    /// </summary>
    /// <returns>How many steps did something.</returns>
    public int Drive(int stepsMax) => _turn.Drive(stepsMax, _step);

    /// <summary>
    /// The thread that has the token has ended by a fault and never gives it back: every job ends with EIO, and none is
    /// taken any more. Host lock held by the caller.
    /// </summary>
    public void HandleDriverEnded()
    {
        _host.AssertHeld();
        if (!_turn.IsTaken)
        {
            throw new InvalidOperationException($"nobody has the token of {Name}: another thread may drive it");
        }

        using SignalingSection section = new(Name, "end");
        (_isDead, _current) = (true, null);
        Hangs.HandleStopped(this);
        _running = null;
        foreach (ComputeJob job in _queues.OfType<ComputeQueue>().SelectMany(q => q.Jobs).ToArray())
        {
            EndLocked(job, Errno.EIO);
        }

        foreach (UserQueue queue in _queues.OfType<UserQueue>())
        {
            queue.Lose(Errno.EIO);
            HandleLeft(queue.Process);
        }
    }

    EngineStop IStoppableEngine.Stop()
    {
        _host.AssertHeld();
        Interlocked.Exchange(ref _stopRequested, 1);
        _host.Defer(_turn.RingDoorbell);
        return EngineStop.Stopping;
    }

    /// <summary>Why a queue takes no job now; Success when it does. Host lock held.</summary>
    internal Errno RefusalOf(ComputeQueue queue) =>
        _isDead ? Errno.ENODEV
        : queue.IsLost || queue.IsClosed ? Errno.ECANCELED
        : queue.Count >= _options.ComputeQueueSlots || Hangs.HasLost(this) ? Errno.EAGAIN
        : Errno.Success;

    /// <summary>Puts a job into its queue, which takes it. Host lock held.</summary>
    /// <returns>
    /// <see cref="Errno.EDEADLK"/> when it would wait for itself; the violation says how, and its fence has ended.
    /// </returns>
    internal Errno TrySubmit(ComputeJob job)
    {
        _host.AssertHeld();
        Errno errno = job.Fence.TryRunAfter(job.Waits, out _);
        if (errno != Errno.Success)
        {
            job.Fence.Signal(errno);
            return errno;
        }

        ComputeQueue queue = job.Owner;
        if (!queue.HasWork)
        {
            CatchUp(queue);
        }

        queue.Add(job);
        _host.Trace("compute.submit", queue.Name, job.Commands.Length, queue.Count);
        Action<Fence> ready = job.Waits.Length == 1 && queue.Priority != GpuPriority.High
            ? _turn.HandleReady
            : _ => HandleWaitSignaled(job);
        int waits = 0;
        foreach (Fence fence in job.Waits)
        {
            waits += fence.TryAddCallback(ready) == Errno.Success ? 1 : 0;
        }

        job.WaitsLeft = waits; // before any of them is told: that is after the lock
        if (waits == 0)
        {
            _host.Defer(() => HandleReady(job));
        }

        return Errno.Success;
    }

    internal void AddQueue(EngineQueue queue)
    {
        _queues.Add(queue);
        Volatile.Write(ref _userQueues, _userQueues + (queue is UserQueue ? 1 : 0));
    }

    internal void RemoveQueue(EngineQueue queue)
    {
        if (_queues.Remove(queue) && queue is UserQueue)
        {
            Volatile.Write(ref _userQueues, _userQueues - 1);
        }
    }

    /// <summary>A program says that it has written commands. Callable without any lock.</summary>
    internal void HandleDoorbell(UserQueue queue)
    {
        if (queue.Priority == GpuPriority.High)
        {
            Interlocked.Exchange(ref _preempts, 1);
        }

        _turn.RingDoorbell();
    }

    /// <summary>User queues may run again. Called without the lock.</summary>
    internal void HandleRestored() => _turn.RingDoorbell();

    /// <summary>
    /// Takes the engine from the user queues of a process, which must not be ready any more. Host lock held.
    /// </summary>
    /// <returns>False when the holder of the token may be in a block of one: it reports when it is not.</returns>
    internal bool TryLeave(GpuProcess process)
    {
        if (_running is not { Fence: null } work || work.Queue.Process != process)
        {
            return true;
        }

        Interlocked.Exchange(ref _preempts, 1);
        _host.Defer(_turn.RingDoorbell);
        return false;
    }

    /// <summary>A fence that signals when jobs of this engine have ended: given up with it.</summary>
    internal void AddDrain(Fence drain)
    {
        _drains.RemoveAll(d => d.HasEnded);
        _drains.Add(drain);
    }

    // False is certain, but for what is rung for later. A count that is ahead for a moment, because a job was taken
    // before it was rung for, is right again at that ring.
    private bool MayHaveWork =>
        _turn.ReadyJobs != _takenJobs
        || Volatile.Read(ref _userQueues) != 0
        || Volatile.Read(ref _preempts) != 0
        || !_options.WaitsForFences;

    private void HandleWaitSignaled(ComputeJob job)
    {
        if (Interlocked.Decrement(ref job.WaitsLeft) == 0)
        {
            HandleReady(job);
        }
    }

    // Once for each job.
    private void HandleReady(ComputeJob job)
    {
        if (job.Queue.Priority == GpuPriority.High)
        {
            Interlocked.Exchange(ref _preempts, 1);
        }

        _turn.RingForJob();
    }

    private void Choose()
    {
        using (_host.Enter())
        {
            Interlocked.Exchange(ref _preempts, 0);
            TimeSpan now = _host.Now;
            EngineWork? last = _current;
            if (last is not null)
            {
                PutAside(last, now);
            }

            _current = _running = FindNext();
            (_blocksLeft, _chosenAt) = (_options.ComputeQuantumBlocks, now);
            if (_current is ComputeJob job)
            {
                _takenJobs++;
                job.Begin();
                _watch.Start(job.Fence, now, TimeSpan.FromSeconds(job.Size / SlowBytesPerSecond) - job.RanFor);
            }

            if (last is not null && _current != last)
            {
                PreemptionCount++;
                _host.Trace("compute.preempt", last.Queue.Name);
            }
        }
    }

    private void PutAside(EngineWork work, TimeSpan now)
    {
        work.RanFor += now - _chosenAt;
        Charge(work.Queue);
        _running = null;
        if (work.Fence is null)
        {
            HandleLeft(work.Queue.Process);
        }
        else
        {
            _takenJobs--;
            _watch.Stop();
        }
    }

    private void Charge(EngineQueue queue) =>
        queue.Share += (double)(_options.ComputeQuantumBlocks - _blocksLeft) / (int)queue.Priority;

    // Who was idle has saved nothing up.
    private void CatchUp(EngineQueue queue)
    {
        double least = _queues.Where(q => q.HasWork).Select(q => q.Share).DefaultIfEmpty().Min();
        queue.Share = Math.Max(queue.Share, least);
    }

    // Who has had least, and of two that had the same, who is of the higher priority. The share of a high queue grows
    // slowly, so it comes often; that of a low one does not grow while it waits, so its turn comes.
    private EngineWork? FindNext()
    {
        EngineWork? best = null;
        foreach (EngineQueue queue in _queues)
        {
            queue.Look();
            if ((best is null || IsBefore(queue, best.Queue)) && queue.Ready is { } work)
            {
                best = work;
            }
        }

        return best;
    }

    private static bool IsBefore(EngineQueue one, EngineQueue other) =>
        one.Share < other.Share || (one.Share.Equals(other.Share) && one.Priority > other.Priority);

    private void StandStill()
    {
        (EngineWork? work, _current) = (_current, null);
        using (_host.Enter())
        {
            Interlocked.Exchange(ref _stopRequested, 0);
            Hangs.HandleStopped(this);
            if (work is not null)
            {
                EndLocked(work, work.Fence is null ? Errno.Success : Errno.ETIME);
            }
        }
    }

    private void EndLocked(EngineWork work, Errno errno)
    {
        EngineQueue queue = work.Queue;
        Charge(queue);
        _running = null;
        _host.Trace("compute.end", queue.Name, (long)errno);
        work.HandleEnded(errno);
        if (work.Fence is null)
        {
            HandleLeft(queue.Process);
        }
        else
        {
            _watch.Stop();
        }

        if (errno != Errno.EAGAIN)
        {
            _progress.Tell(by: this);
        }

        if (!queue.HasWork && (queue.IsClosed || queue.Process.IsClosed))
        {
            RemoveQueue(queue);
            queue.Process.Forget(queue);
        }
    }

    // The engine is in no block of the process's user queues, and chooses none while it has no page table.
    private void HandleLeft(GpuProcess process) => process.Eviction.HandleLeft(this);

    /// <summary>
    /// What has just ended, here or on another engine, may have written what a user queue waits for. Host lock held.
    /// </summary>
    internal void WakeWaiting(bool isElsewhere)
    {
        bool any = false;
        for (int i = 0; i < _queues.Count && _userQueues > 0; i++)
        {
            EngineQueue queue = _queues[i];
            any |= queue is UserQueue { IsWaiting: true };
            (queue as UserQueue)?.Wake();
        }

        if (any && isElsewhere)
        {
            _host.Defer(_turn.RingDoorbell);
        }
    }
}
