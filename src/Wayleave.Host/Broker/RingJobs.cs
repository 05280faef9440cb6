using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Host.Broker;

// A job's commands come in the ring behind the command that announces them. They go the way of those that come by
// message: parsed against the bindings of the connection, or held to its page table, so that a ring reaches nothing
// that the connection does not.
//
// A job is its queue's and not its ring's: who closes the ring does not wait for it, and nobody is told of its end
// then.

/// <summary>
/// The queues of compute engines that the commands of a ring may name. The connection's thread attaches and detaches,
/// the ring's submits; both take the host lock themselves.
/// </summary>
internal sealed class RingJobs(HostContext context, RingFences fences) : IDisposable
{
    /// <summary>Queues in the table.</summary>
    public const int QueuesMax = 16;

    private readonly BrokerQueue?[] _queues = new BrokerQueue?[QueuesMax]; // host lock
    private readonly Lock _ending = new();
    private bool _isEnded; // under it

    /// <summary>Puts a queue into the table.</summary>
    /// <returns>By which number commands name it.</returns>
    /// <exception cref="WayleaveException">EMFILE: the table is full.</exception>
    public uint Attach(BrokerQueue queue)
    {
        using (context.Enter())
        {
            int slot = Array.IndexOf(_queues, null);
            if (slot < 0)
            {
                throw new WayleaveException(
                    Errno.EMFILE, "attach a queue to a ring", $"the ring has {QueuesMax} queues already");
            }

            _queues[slot] = queue;
            return (uint)slot;
        }
    }

    /// <summary>Takes a queue out of the table; its jobs go on, and their completions come.</summary>
    /// <exception cref="WayleaveException">EBADF: none is there.</exception>
    public void Detach(uint slot)
    {
        using (context.Enter())
        {
            if (Find(slot) is null)
            {
                throw new WayleaveException(Errno.EBADF, "detach from a ring", $"no queue is in slot {slot}");
            }

            _queues[slot] = null;
        }
    }

    /// <summary>Submits commands. Waits for reservations of buffers and for moves; for no job.</summary>
    /// <param name="slot">Of the queue.</param>
    /// <param name="commands">A copy that nobody else writes to; of 64 bytes each.</param>
    /// <param name="tag">By which the program asks for the job's fence.</param>
    /// <param name="ended">After success: called once at its end, on any thread, without the host lock.</param>
    /// <returns>
    /// EBADF: no such queue. EINVAL, ENOENT, EACCES: a command is refused. EAGAIN: the queue is full. ECANCELED: it is
    /// lost, or closed. EDQUOT.
    /// </returns>
    public Errno Submit(uint slot, ReadOnlyMemory<byte> commands, ulong tag, Action<Errno> ended)
    {
        BrokerQueue? queue;
        using (context.Enter())
        {
            queue = Find(slot);
        }

        if (queue is null)
        {
            return Errno.EBADF;
        }

        Fence fence;
        try
        {
            fence = queue.Context.Submit(queue.Queue, commands, []);
        }
        catch (WayleaveException e)
        {
            context.Trace("broker.ring_job_refused", e.Message);
            return e.Errno;
        }

        using (context.Enter())
        {
            fences.AddLocked(tag, fence);
            if (fence.TryAddEndCallback(f => HandleEnded(tag, f, ended)) != Errno.Success)
            {
                context.Defer(() => HandleEnded(tag, fence, ended));
            }
        }

        return Errno.Success;
    }

    /// <summary>Nobody is told of the end of a job any more. Jobs go on.</summary>
    public void Dispose()
    {
        lock (_ending)
        {
            _isEnded = true;
        }
    }

    private void HandleEnded(ulong tag, Fence fence, Action<Errno> ended)
    {
        fences.Remove(tag, fence);
        lock (_ending)
        {
            if (!_isEnded)
            {
                ended(fence.Error);
            }
        }
    }

    private BrokerQueue? Find(uint slot) => slot < QueuesMax ? _queues[slot] : null;
}
