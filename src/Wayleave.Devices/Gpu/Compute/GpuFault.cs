using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Checking;

namespace Wayleave.Devices.Gpu.Compute;

// The engine only puts a fault down and goes on with another queue: to serve it takes the lock of an address space and
// may reclaim, and the engine's thread is what fences wait for. Whoever takes faults out is not the engine: a thread of
// the edge, an actor of the explorer.
//
//   running --touch without an entry--> faulted --taken--> served by steps --End--> ready again, from the same block
//                                                                |
//                                                                +-- it cannot be had: the queue is lost

/// <summary>
/// Faults of a process's user queues that wait to be served (the retry-fault ring of a GPU). Host lock held by the
/// caller, unless a member says otherwise.
/// </summary>
public sealed class GpuFaults
{
    private readonly Queue<GpuFault> _pending = new();

    internal GpuFaults()
    {
    }

    /// <summary>
    /// Called without any lock, on any thread, when there is one to take: sets a flag or wakes a thread, and returns.
    /// Set by the edge before the first queue runs.
    /// </summary>
    public Action? Available { get; set; }

    /// <summary>Faults that wait for <see cref="TryTake"/>.</summary>
    public int PendingCount => _pending.Count;

    /// <summary>Faults that queues have taken since the process was opened.</summary>
    public long Count { get; private set; }

    /// <summary>The oldest fault that nobody serves yet; false when there is none. The caller serves it.</summary>
    public bool TryTake(out GpuFault? fault) => _pending.TryDequeue(out fault);

    /// <summary>
    /// Serves all that wait, and those that wait for others go on by themselves. For an edge without a thread of its
    /// own for faults. Not inside a <see cref="SignalingSection"/>.
    /// </summary>
    /// <returns>How many were taken.</returns>
    public int ServeAll()
    {
        int taken = 0;
        while (TryTake(out GpuFault? fault))
        {
            taken++;
            fault!.Serve();
        }

        return taken;
    }

    internal void Add(GpuFault fault)
    {
        Count++;
        _pending.Enqueue(fault);
        if (Available is { } available)
        {
            fault.Queue.Process.Device.Host.Defer(available);
        }
    }
}

/// <summary>A touch by a user queue of a page that the GPU has no entry for. Host lock held by the caller.</summary>
public sealed class GpuFault
{
    private readonly MirrorBinding _mirror;
    private readonly ulong _offset;
    private readonly HostContext _host;
    private bool _isUnreachable;

    internal GpuFault(UserQueue queue, MirrorBinding mirror, ulong offset, bool isWrite)
    {
        (Queue, _mirror, _offset, IsWrite) = (queue, mirror, offset, isWrite);
        _host = queue.Process.Device.Host;
    }

    /// <summary>It runs nothing until the fault has ended; other queues go on.</summary>
    public UserQueue Queue { get; }

    /// <summary>For writing.</summary>
    public bool IsWrite { get; }

    /// <summary>
    /// Starts to serve it: the caller drives the operation to its end (<see cref="MirrorRange.Update"/>: it begins
    /// again while invalidations come between) and then calls <see cref="End"/>.
    /// </summary>
    /// <returns>Null when there is nothing to be done any more; <see cref="End"/> is called all the same.</returns>
    public SpaceOperation? Start() =>
        Queue.IsLost ? null
        : _mirror.Fault(
            _offset, IsWrite,
            new Activity(_host, ActivityKind.Thread, $"fault of {Queue.Name}"),
            () => _isUnreachable = true);

    /// <summary>
    /// The queue goes on from the block that faulted. It is lost where the page cannot be had: EFAULT, EPERM, ENOMEM,
    /// EDEADLK. After EBUSY it faults again.
    /// </summary>
    /// <param name="operation">What <see cref="Start"/> returned, completed.</param>
    public void End(SpaceOperation? operation)
    {
        _host.AssertHeld();
        Errno errno = _isUnreachable ? Errno.EFAULT : operation?.Errno ?? Errno.EFAULT;
        Queue.EndFault(errno is Errno.EBUSY or Errno.EINTR ? Errno.Success : errno);
    }

    internal void Serve()
    {
        if (Start() is { } operation)
        {
            Proceed(operation);
        }
        else
        {
            End(null);
        }
    }

    private void Proceed(SpaceOperation operation)
    {
        while (!operation.Proceed())
        {
            bool waits = operation.TryAddReadyCallback(() =>
            {
                using (_host.Enter())
                {
                    Proceed(operation);
                }
            });
            if (waits)
            {
                return;
            }
        }

        End(operation);
    }
}
