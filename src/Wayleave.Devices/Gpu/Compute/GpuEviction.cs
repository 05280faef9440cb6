using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;

namespace Wayleave.Devices.Gpu.Compute;

public enum GpuEvictionState
{
    /// <summary>No queue of the process's own runs.</summary>
    Stopped,

    /// <summary>Buffers are being locked and mapped, or their moves waited for; then the queues run.</summary>
    Restoring,

    /// <summary>The queues run, and the process's fence stands in every buffer.</summary>
    Running,

    /// <summary>Somebody waits for the fence; the queues stop soon, but not at once after they were restored.</summary>
    Scheduled,

    /// <summary>The engine is being taken from the queues: at the next block.</summary>
    Stopping,

    /// <summary>The fence has signalled; after a while all is restored.</summary>
    Evicted,
}

//  Stopped --start--> Restoring --all mapped--> Running --somebody waits--> Scheduled --due--> Stopping
//                        ^                                                                        |
//                        +------------------- 100 ms -------------------- Evicted <--the engine has left

/// <summary>
/// Lets user queues run without a fence for each of their commands (<c>amdgpu_amdkfd_fence.c</c>): one fence of the
/// process stands in all of its buffers as BOOKKEEP and signals only when somebody waits for it, because the queues are
/// stopped then. That is bounded, as preemption is: between two blocks. Host lock held by the caller.
/// </summary>
public sealed class GpuEviction : IFenceOperations
{
    /// <summary>After a restore the queues run at least so long (<c>PROCESS_ACTIVE_TIME_MS</c>).</summary>
    public static readonly TimeSpan ActiveTimeMin = TimeSpan.FromMilliseconds(10);

    /// <summary>After an eviction nothing is restored for so long (<c>PROCESS_RESTORE_TIME_MS</c>).</summary>
    public static readonly TimeSpan RestoreDelay = TimeSpan.FromMilliseconds(100);

    /// <summary>The same after pages of the process itself went (<c>AMDGPU_USERPTR_RESTORE_DELAY_MS</c>).</summary>
    public static readonly TimeSpan UserRestoreDelay = TimeSpan.FromMilliseconds(1);

    private readonly GpuProcess _process;
    private readonly HostContext _host;
    private readonly ulong _context;
    private readonly HashSet<GpuBinding> _unreachable = []; // at this restore
    private readonly List<GpuBinding> _held = []; // mapped for the queues, and told when they stop
    private volatile GpuPageTable? _table;
    private LockOperation? _locks;
    private ulong _seqno;
    private TimeSpan _restoredAt = TimeSpan.MinValue;
    private TimeSpan _restoreDelay = RestoreDelay;
    private readonly List<QueueEngine> _inside = []; // while stopping: who may be in a block of the queues
    private bool _mustRefresh;
    private MirrorDrain? _left; // for a notifier that waits until the engine has left

    internal GpuEviction(GpuProcess process)
    {
        (_process, _host) = (process, process.Device.Host);
        _context = _host.AllocateFenceContexts();
    }

    public GpuEvictionState State { get; private set; }

    /// <summary>The fence that stands in the buffers while the queues run; null before the first start.</summary>
    public Fence? Fence { get; private set; }

    /// <summary>How often the queues had to stop.</summary>
    public long EvictionCount { get; private set; }

    /// <summary>When <see cref="HandleTimeout"/> has something to do; null for nothing.</summary>
    public TimeSpan? NextDeadline { get; private set; }

    string IFenceOperations.DriverName => _process.Device.Function.Name;

    string IFenceOperations.TimelineName => $"eviction of {_process.Name}";

    /// <summary>What the queues reach; null while they must not run. Readable without the lock.</summary>
    internal GpuPageTable? Table => _table;

    internal bool IsRunning => State is GpuEvictionState.Running or GpuEvictionState.Scheduled;

    /// <summary>Whether the queues run with that memory mapped, or are being stopped.</summary>
    internal bool Holds(GpuBinding binding) => _held.Contains(binding);

    /// <summary>
    /// Maps everything that the process has mapped at its addresses and lets its user queues run; what is mapped later
    /// is theirs after the next restore (<see cref="Refresh"/>). Nothing while they run.
    /// </summary>
    public void Start()
    {
        _host.AssertHeld();
        if (State == GpuEvictionState.Stopped && !_process.IsClosed)
        {
            Restore();
        }
    }

    /// <summary>
    /// Something was mapped: queues that run stop at the next block, and run again soon, with it. Nothing while they do
    /// not run.
    /// </summary>
    public void Refresh()
    {
        _host.AssertHeld();
        _mustRefresh = State == GpuEvictionState.Restoring; // what it maps has been chosen already
        if (IsRunning)
        {
            StopForUserMemory();
        }
    }

    /// <summary>Goes on with what is due.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        _host.AssertHeld();
        if (NextDeadline is not { } due || now < due)
        {
            return;
        }

        NextDeadline = null;
        if (State == GpuEvictionState.Scheduled)
        {
            Stop();
        }
        else if (State is GpuEvictionState.Evicted or GpuEvictionState.Restoring)
        {
            Restore();
        }
    }

    bool IFenceOperations.EnableSignaling(Fence fence)
    {
        RequestLater();
        return true;
    }

    /// <summary>As <see cref="Request"/>, after the host lock: who asks is in the middle of something.</summary>
    internal void RequestLater()
    {
        if (State == GpuEvictionState.Running)
        {
            _host.Defer(() => Enter(Request));
        }
    }

    /// <summary>Somebody wants a buffer of the process: its queues stop, soon.</summary>
    internal void Request()
    {
        if (State != GpuEvictionState.Running)
        {
            return;
        }

        (State, _restoreDelay) = (GpuEvictionState.Scheduled, RestoreDelay);
        TimeSpan due = _restoredAt + ActiveTimeMin;
        if (due <= _host.Now)
        {
            Stop();
        }
        else
        {
            NextDeadline = due;
        }
    }

    /// <summary>
    /// Pages of the process itself go: the queues stop now, whenever they were restored, and are restored soon
    /// (<c>amdgpu_amdkfd_evict_userptr</c>). No job is waited for.
    /// </summary>
    /// <returns>Completed when the engine has left them; null when it has.</returns>
    internal MirrorDrain? StopForUserMemory()
    {
        if (IsRunning)
        {
            _restoreDelay = UserRestoreDelay;
            NextDeadline = null;
            _left = new MirrorDrain(_host);
            Stop();
        }

        return State == GpuEvictionState.Stopping ? _left ??= new MirrorDrain(_host) : null;
    }

    /// <summary>The process ends: the queues stop for good.</summary>
    internal void End()
    {
        NextDeadline = null;
        if (IsRunning)
        {
            Stop();
        }
    }

    /// <summary>
    /// An engine runs no queue of the process and will not: the token's holder says so. The queues have stopped when
    /// all engines have said it.
    /// </summary>
    internal void HandleLeft(QueueEngine engine)
    {
        if (State == GpuEvictionState.Stopping && _inside.Remove(engine))
        {
            engine.Hangs.HandleLeft(Fence!, engine);
            if (_inside.Count == 0 || !_process.Device.AwaitsEveryEngine)
            {
                HandleStopped();
            }
        }
    }

    private void HandleStopped()
    {
        _inside.Clear();
        using SignalingSection section = new(_process.Name, "eviction");
        State = _process.IsClosed ? GpuEvictionState.Stopped : GpuEvictionState.Evicted;
        NextDeadline = _process.IsClosed ? null : _host.Now + _restoreDelay;
        Fence!.Signal();
        (MirrorDrain? left, _left) = (_left, null);
        foreach (GpuBinding binding in _held)
        {
            binding.EndJob();
        }

        _held.Clear();
        left?.Complete();
    }

    private void Stop()
    {
        State = GpuEvictionState.Stopping;
        _table = _process.Device.StopsQueues ? null : _table;
        EvictionCount++;
        _host.Trace("compute.evict", _process.Name, EvictionCount);
        foreach (QueueEngine engine in _process.Device.QueueEngines)
        {
            if (!engine.TryLeave(_process))
            {
                _inside.Add(engine);
            }
        }

        if (_inside.Count == 0)
        {
            HandleStopped();
            return;
        }

        _process.Device.ComputeEngine.Hangs.Add(Fence!, [.. _inside]);
    }

    private void Restore()
    {
        State = GpuEvictionState.Restoring;
        GpuBinding[] bindings =
        [
            .. _process.Memory.Mappings.Select(m => m.Binding).Distinct()
                .Where(b => !b.IsGone && !_unreachable.Contains(b)),
        ];
        foreach (GpuBinding binding in bindings)
        {
            if (!binding.TryPrepare(errno => HandlePrepared(binding, errno)))
            {
                return;
            }
        }

        AcquireTicket ticket = new(_host, $"restore of {_process.Name}");
        _locks = LockOperation.Start(
            _host, ticket, [.. bindings.Select(b => b.Reservation!)], fenceSlots: 1);
        if (!_locks.TryAddCompletion(() => Enter(() => HandleLocked(bindings))))
        {
            HandleLocked(bindings);
        }
    }

    // As restore_userptr_worker: what the program has unmapped meanwhile is left out, and a queue that names it faults.
    private void HandlePrepared(GpuBinding binding, Errno errno)
    {
        if (State != GpuEvictionState.Restoring || _process.IsClosed)
        {
            State = State == GpuEvictionState.Restoring ? GpuEvictionState.Stopped : State;
            return;
        }

        if (errno is Errno.EFAULT or Errno.EPERM)
        {
            _unreachable.Add(binding);
        }
        else if (errno != Errno.Success)
        {
            NextDeadline = _host.Now + UserRestoreDelay;
            return;
        }

        Restore();
    }

    private void HandleLocked(GpuBinding[] bindings)
    {
        bool mustWait = _locks!.Errno != Errno.Success || !TryMap(_locks.Ticket, bindings);
        if (!mustWait && !_process.IsClosed)
        {
            Run(_locks.Ticket, bindings);
        }

        _locks.UnlockAll();
        if (_process.IsClosed)
        {
            State = State == GpuEvictionState.Restoring ? GpuEvictionState.Stopped : State;
        }
        else if (mustWait)
        {
            // restore_process_bos retries: a mover is at work, or there is no room now.
            NextDeadline = _host.Now + _restoreDelay;
        }
    }

    private static bool TryMap(AcquireTicket ticket, GpuBinding[] bindings)
    {
        foreach (GpuBinding binding in bindings)
        {
            if (binding.MapLocked(ticket).Kind != MapOutcomeKind.Mapped
                || !binding.Reservation!.TestSignaled(ReservationUsage.Kernel))
            {
                return false;
            }
        }

        return true;
    }

    private void Run(AcquireTicket ticket, GpuBinding[] bindings)
    {
        using SignalingSection section = new(_process.Name, "restore");
        Fence = new Fence(_host, _context, ++_seqno, $"eviction of {_process.Name}", this);
        GpuMapping[] mappings = [.. _process.Memory.Mappings.Where(m => bindings.Contains(m.Binding))];
        foreach (GpuBinding binding in bindings)
        {
            binding.Reservation!.AddFence(ticket, Fence, ReservationUsage.Bookkeep);
            binding.BeginJob();
            _held.Add(binding);
        }

        _table = new GpuPageTable(mappings, [.. mappings.Select(m => m.Binding.Addresses!)]);
        (State, _restoredAt) = (GpuEvictionState.Running, _host.Now);
        _unreachable.Clear();
        _host.Trace("compute.restore", _process.Name, (long)_seqno);
        foreach (QueueEngine engine in _process.Device.QueueEngines)
        {
            _host.Defer(engine.HandleRestored);
        }

        if (_mustRefresh)
        {
            _host.Defer(() => Enter(Refresh));
        }
    }

    private void Enter(Action action)
    {
        using (_host.Enter())
        {
            action();
        }
    }
}
