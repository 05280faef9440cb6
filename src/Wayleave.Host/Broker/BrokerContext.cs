using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;

namespace Wayleave.Host.Broker;

/// <summary>
/// A connection's use of the engines of a GPU: the buffers that its commands may name, and its queues. It ends
/// with the connection; what runs then stops at the next block and ends with ECANCELED. Of the connection's thread,
/// except where a member says otherwise.
/// </summary>
internal sealed class BrokerContext
{
    private readonly BrokerSession _session;
    private readonly ComputeContext _context;
    private readonly Dictionary<uint, BrokerBuffer> _bound = []; // by handle
    private readonly List<Fence> _pending = []; // of its jobs; host lock

    // Held while a job is submitted, by the connection's thread or a ring's, and while a binding ends: which jobs use
    // it is known then. Nothing that waits for the connection's thread is waited for under it.
    private readonly Lock _submitting = new();

    private BrokerContext(BrokerSession session, ComputeContext context) => (_session, _context) = (session, context);

    public GpuCommandMode Mode => _context.Gpu.Compute.Mode;

    private HostContext Host => _session.Host.Context;

    private BrokerLedger Ledger => _session.Program.Ledger;

    /// <exception cref="WayleaveException">EDQUOT, EMFILE, ENOSPC, ENODEV.</exception>
    public static BrokerContext Open(BrokerSession session, GpuHandle gpu)
    {
        string operation = $"open {gpu.Name} for compute";
        using (session.Host.Context.Enter())
        {
            session.Program.Ledger.Take(BrokerAccount.Queues, operation);
        }

        try
        {
            Task<ComputeContext> opened = session.Host.Compute.OpenAsync(gpu, $"process-{session.Program.ProcessId}");
            return new BrokerContext(session, opened.GetAwaiter().GetResult());
        }
        catch
        {
            using (session.Host.Context.Enter())
            {
                session.Program.Ledger.Give(BrokerAccount.Queues);
            }

            throw;
        }
    }

    /// <summary>Lets commands use a buffer, which stays for as long.</summary>
    /// <exception cref="WayleaveException">EMFILE, ENODEV, EINVAL, or why the memory cannot be reached.</exception>
    public ContextBuffer Bind(BrokerBuffer buffer, GpuAccess access)
    {
        ContextBuffer made = _session.Host.Compute.OpenBuffer(_context, buffer.Shared, access);
        using (Host.Enter())
        {
            _session.Store.Buffers.HoldLocked(buffer);
        }

        _bound.Add(made.Handle, buffer);
        return made;
    }

    /// <summary>Jobs that were submitted go on, and keep the buffer until they have ended.</summary>
    /// <exception cref="WayleaveException">EBADF: nothing is bound by that handle.</exception>
    public void Unbind(uint handle)
    {
        if (!_bound.Remove(handle, out BrokerBuffer? buffer))
        {
            throw new WayleaveException(Errno.EBADF, "unbind", $"handle {handle} is none of this connection");
        }

        lock (_submitting)
        {
            Unbind(handle, buffer);
        }
    }

    private void Unbind(uint handle, BrokerBuffer buffer)
    {
        _session.Host.Compute.CloseBufferAsync(_context, handle).GetAwaiter().GetResult();
        using (Host.Enter())
        {
            Fence last = FenceUnwrap.Merge(Host, [.. _pending]);
            if (last.TryAddEndCallback(_ => Drop(buffer)) != Errno.Success)
            {
                _session.Store.Buffers.DropLocked(buffer);
            }
        }
    }

    /// <exception cref="WayleaveException">EDQUOT. EMFILE: the GPU has as many as it may. EINVAL: the name.</exception>
    public BrokerQueue OpenQueue(string name, GpuPriority priority, GpuEngineKind engine)
    {
        string operation = $"open queue {name}";
        using (Host.Enter())
        {
            Ledger.Take(BrokerAccount.Queues, operation);
        }

        try
        {
            return new BrokerQueue(this, _session.Host.Compute.CreateQueue(_context, name, priority, engine));
        }
        catch
        {
            using (Host.Enter())
            {
                Ledger.Give(BrokerAccount.Queues);
            }

            throw;
        }
    }

    /// <summary>
    /// Submits commands; the fence signals at their end. Of the connection's thread or a ring's: they wait for each
    /// other.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EINVAL, ENOENT, EACCES: the commands are refused; says which and why. EAGAIN, ECANCELED, EDQUOT.
    /// </exception>
    public Fence Submit(ContextQueue queue, ReadOnlyMemory<byte> commands, IReadOnlyList<Fence> waits)
    {
        lock (_submitting)
        {
            return SubmitAlone(queue, commands, waits);
        }
    }

    private Fence SubmitAlone(ContextQueue queue, ReadOnlyMemory<byte> commands, IReadOnlyList<Fence> waits)
    {
        using (Host.Enter())
        {
            Ledger.Take(BrokerAccount.Jobs, $"submit to {queue.Name}");
        }

        Fence fence;
        try
        {
            JobRequest request = new(commands, [], null, TimeSpan.Zero, Results: 0) { Waits = waits };
            ContextJob job = _session.Host.Compute.Jobs.SubmitAsync(_context, queue, request).GetAwaiter().GetResult();
            fence = job.Fence!;
        }
        catch
        {
            using (Host.Enter())
            {
                Ledger.Give(BrokerAccount.Jobs);
            }

            throw;
        }

        using (Host.Enter())
        {
            if (fence.TryAddEndCallback(HandleEnded) == Errno.Success)
            {
                _pending.Add(fence);
            }
            else
            {
                Ledger.Give(BrokerAccount.Jobs);
            }
        }

        return fence;
    }

    /// <summary>Ends it with all that runs; returns when nothing of it touches memory any more.</summary>
    public void End(string reason)
    {
        _session.Host.Compute.CloseAsync(_context, reason).GetAwaiter().GetResult();
        using (Host.Enter())
        {
            foreach (BrokerBuffer buffer in _bound.Values)
            {
                _session.Store.Buffers.DropLocked(buffer);
            }

            Ledger.Give(BrokerAccount.Queues);
        }

        _bound.Clear();
    }

    /// <summary>It takes nothing more; what was submitted goes on.</summary>
    public void Close(ContextQueue queue)
    {
        _session.Host.Compute.CloseQueue(_context, queue);
        using (Host.Enter())
        {
            Ledger.Give(BrokerAccount.Queues);
        }
    }

    // On whatever thread ended the job.
    private void HandleEnded(Fence fence)
    {
        using (Host.Enter())
        {
            _pending.Remove(fence);
            Ledger.Give(BrokerAccount.Jobs);
            _session.Store.Programs.ForgetLocked(_session.Program);
        }
    }

    private void Drop(BrokerBuffer buffer)
    {
        using (Host.Enter())
        {
            _session.Store.Buffers.DropLocked(buffer);
        }
    }
}

/// <summary>A queue that a connection has by number.</summary>
/// <param name="Context">Of the same connection.</param>
/// <param name="Queue">Of the engine.</param>
internal sealed record BrokerQueue(BrokerContext Context, ContextQueue Queue) : IBrokerUse
{
    public void End() => Context.Close(Queue);
}
