using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host.Compute;

// Who runs what. Members are called by threads of requests, and take the host lock for a moment; none is held while
// they wait.

/// <summary>
/// Lets clients run commands on the GPUs of a host: contexts, their buffers and queues. Members take the host lock
/// themselves.
/// </summary>
public sealed class ComputeService
{
    /// <summary>Contexts of one GPU at a time.</summary>
    public const int ContextsMax = 64;

    private readonly HostContext _host;
    private readonly Dictionary<ulong, ComputeContext> _contexts = []; // host lock

    internal ComputeService(WayleaveHost host)
    {
        _host = host.Context;
        Jobs = new JobService(host);
        Regions = new RegionService(host, EndClient);
        Memory = new MemoryService(host, EndClient);
    }

    /// <summary>What runs on the queues.</summary>
    public JobService Jobs { get; }

    /// <summary>Memory of clients that is no object.</summary>
    public MemoryService Memory { get; }

    /// <summary>Memory of clients that peers reach.</summary>
    public RegionService Regions { get; }

    /// <summary>Opens a GPU for a client. The caller closes it when the client leaves.</summary>
    /// <param name="gpu">Of this host.</param>
    /// <param name="name">For people.</param>
    /// <param name="client">
    /// The process that it is for, which a policy may kill; null for one of another machine. Owned by the context.
    /// </param>
    /// <param name="cancellation">Ends the wait for memory.</param>
    /// <exception cref="WayleaveException">ENODEV: the GPU leaves. EMFILE: too many. ENOSPC: no memory.</exception>
    public async Task<ComputeContext> OpenAsync(
        GpuHandle gpu, string name, PidFd? client = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(gpu);
        string operation = $"open {gpu.Name} for compute";
        if (WlUrl.DescribeProblemOfName(name, "context") is { } problem)
        {
            client?.Dispose();
            throw new WayleaveException(Errno.EINVAL, operation, problem);
        }

        IDisposable use = gpu.Presence.Use(operation);
        ComputeContext? context = null;
        try
        {
            ObjectRequest request = new("results", sizeof(uint) * ComputeContext.ResultsMax, StorageKind.Movable);
            ObjectMemory results = await gpu.TakeAsync(request, operation, cancellation).ConfigureAwait(false);
            using (_host.Enter())
            {
                ulong id = _host.AllocateId();
                GpuProcess process = gpu.OpenProcess($"context {id} ({name})");
                context = new ComputeContext(id, gpu, name, process, use, client) { Results = results };
                _contexts.Add(id, context);
                if (_contexts.Values.Count(c => ReferenceEquals(c.Gpu, gpu)) > ContextsMax)
                {
                    throw new WayleaveException(
                        Errno.EMFILE, operation, $"{ContextsMax} clients use it already", "wayleave gpu ls shows who");
                }

                OpenLocked(context, results.Shared, null, GpuAccess.ReadWrite).ThrowIfFailed(operation);
            }

            return context;
        }
        catch
        {
            if (context is not null)
            {
                await CloseAsync(context, "it could not be opened").ConfigureAwait(false);
            }
            else
            {
                use.Dispose();
                client?.Dispose();
            }

            throw;
        }
    }

    /// <summary>A context by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: there is none, or it has ended.</exception>
    public ComputeContext Find(ulong id)
    {
        using (_host.Enter())
        {
            return _contexts.TryGetValue(id, out ComputeContext? context) && context.Ended is null
                ? context
                : throw new WayleaveException(
                    Errno.ENOENT, $"find context {id}", "it has ended", "open the GPU again");
        }
    }

    /// <summary>By number; those that are ending are among them.</summary>
    public IReadOnlyList<ComputeContext> List()
    {
        using (_host.Enter())
        {
            return [.. _contexts.Values.OrderBy(c => c.Id)];
        }
    }

    /// <summary>Makes an object usable by the context's commands.</summary>
    /// <exception cref="WayleaveException">
    /// EMFILE: too many. ENODEV: it is being taken back. Or why the memory cannot be reached.
    /// </exception>
    public ContextBuffer OpenBuffer(ComputeContext context, DeviceObject o, GpuAccess access)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(o);
        string operation = $"open {o} in {context}";
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            if (context.Buffers.Count >= ComputeContext.BuffersMax)
            {
                throw new WayleaveException(Errno.EMFILE, operation, "too many buffers are open", "close some");
            }

            if (o.State != ObjectState.Ready)
            {
                throw new WayleaveException(Errno.ENODEV, operation, $"it is {o.State}");
            }

            OpenLocked(context, o.Buffer, o, access).ThrowIfFailed(operation);
            if ((access & GpuAccess.Write) != 0)
            {
                o.Sha256 = null; // from here on it says nothing about the content
            }

            return context.Buffers[^1];
        }
    }

    /// <summary>As the other, for a buffer that is no object. The caller lets it live meanwhile.</summary>
    /// <exception cref="WayleaveException">
    /// EMFILE: too many. ENODEV: it was taken back. Or why the memory cannot be reached.
    /// </exception>
    internal ContextBuffer OpenBuffer(ComputeContext context, SharedBuffer buffer, GpuAccess access)
    {
        string operation = $"open {buffer.Name} in {context}";
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            if (context.Buffers.Count >= ComputeContext.BuffersMax)
            {
                throw new WayleaveException(Errno.EMFILE, operation, "too many buffers are open", "close some");
            }

            OpenLocked(context, buffer, null, access).ThrowIfFailed(operation);
            return context.Buffers[^1];
        }
    }

    /// <summary>
    /// Ends a handle; jobs that were submitted with it go on, and so do its regions. The client's own memory is
    /// unmapped first, for which a NIC's <see cref="Configuration.NicConfig.PinnedMemory"/> may end the client.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENOENT: it is none of the context's. EBUSY: a NIC holds it for peers, and says that it may not go.
    /// </exception>
    public async Task CloseBufferAsync(ComputeContext context, uint handle)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"close handle {handle} of {context}";
        ContextBuffer buffer = FindBuffer(context, handle, operation);
        if (buffer.Memory is { } range)
        {
            Errno errno = await context.Memory!.UnmapAsync(range).ConfigureAwait(false);
            errno.ThrowIfFailed(operation, errno == Errno.EBUSY
                ? "a NIC holds its pages for peers, and unmaps are refused; deregister the region first"
                : null);
        }

        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            if (!context.Buffers.Contains(buffer))
            {
                return; // somebody else has closed it meanwhile
            }

            if (buffer.Address != 0)
            {
                context.Process.Memory.TryUnmap(buffer.Address).ThrowIfFailed(operation);
            }

            context.Process.TryClose(handle).ThrowIfFailed(operation);
            context.Remove(buffer);
        }
    }

    /// <summary>Makes a queue of jobs.</summary>
    /// <exception cref="WayleaveException">EMFILE: the GPU has as many as its configuration allows.</exception>
    public ContextQueue CreateQueue(
        ComputeContext context, string name, GpuPriority priority, GpuEngineKind engine = GpuEngineKind.Compute)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"make a queue in {context}";
        using (_host.Enter())
        {
            CheckNewQueue(context, name, operation);
            ContextQueue queue = new(_host.AllocateId(), name, context.Process.CreateQueue(name, priority, engine));
            context.Add(queue);
            return queue;
        }
    }

    /// <summary>
    /// Makes a queue that reads commands from memory of the context, and lets it run: the eviction fence of the context
    /// stands in its buffers from then on.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP: commands are parsed here. EMFILE: too many queues. EINVAL: no place for a ring.
    /// </exception>
    public ContextQueue CreateUserQueue(
        ComputeContext context,
        string name,
        GpuPriority priority,
        ulong ringAddress,
        uint ringCommands,
        GpuEngineKind engine = GpuEngineKind.Compute)
    {
        ArgumentNullException.ThrowIfNull(context);
        string operation = $"make a user queue in {context}";
        using (_host.Enter())
        {
            CheckNewQueue(context, name, operation);
            if (context.Gpu.Compute.Mode != GpuCommandMode.Paged)
            {
                throw new WayleaveException(
                    Errno.EOPNOTSUPP,
                    operation,
                    $"nobody would check the commands of a ring on {context.Gpu.Name}, which parses them",
                    "give it \"compute\": { \"mode\": \"paged\" }");
            }

            Errno errno = context.Process
                .TryCreateUserQueue(name, ringAddress, ringCommands, out UserQueue? made, priority, engine);
            errno.ThrowIfFailed(operation, "a ring begins at a multiple of 64 and holds a power of two of commands");
            ContextQueue queue = new(_host.AllocateId(), name, made!);
            context.Add(queue);
            context.Gpu.WatchUserQueues();
            context.Process.Eviction.Start();
            return queue;
        }
    }

    /// <summary>Ends a queue of jobs: what was submitted goes on. Nothing the second time.</summary>
    internal void CloseQueue(ComputeContext context, ContextQueue queue)
    {
        using (_host.Enter())
        {
            context.Process.CloseQueue(queue.Jobs!);
            context.Remove(queue);
        }
    }

    /// <summary>A queue of a context by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: it is none of the context's.</exception>
    public ContextQueue FindQueue(ComputeContext context, ulong id)
    {
        ArgumentNullException.ThrowIfNull(context);
        using (_host.Enter())
        {
            return context.Queues.FirstOrDefault(q => q.Id == id)
                ?? throw new WayleaveException(Errno.ENOENT, $"find queue {id}", $"it is none of {context}");
        }
    }

    /// <summary>
    /// Ends a context: its jobs stop at the next block and end with ECANCELED, and its memory is let go of when they
    /// have. Returns when that is so, to everybody who asks.
    /// </summary>
    public Task CloseAsync(ComputeContext context, string reason)
    {
        ArgumentNullException.ThrowIfNull(context);
        TaskCompletionSource ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_host.Enter())
        {
            if (context.Ending is { } ending)
            {
                return ending;
            }

            (context.Ending, context.Ended) = (ended.Task, reason);
            context.Process.Close();
        }

        _ = EndAsync(context, reason, ended); // reports by the completion source alone
        return ended.Task;
    }

    /// <summary>Ends the contexts that use an object, or run on a GPU that leaves.</summary>
    internal async Task CloseAllAsync(Func<ComputeContext, bool> condition, string reason)
    {
        foreach (ComputeContext context in List().Where(condition))
        {
            await CloseAsync(context, reason).ConfigureAwait(false);
        }
    }

    /// <summary>Memory that its owner cannot take from its users is let go of by those of this host.</summary>
    internal Task EndUsesAsync(DeviceObject o)
    {
        HashSet<ulong> users;
        using (_host.Enter())
        {
            IEnumerable<ComputeContext> found = _contexts.Values
                .Where(c => c.Buffers.Concat(c.Regions.Select(r => r.Buffer)).Any(b => ReferenceEquals(b.Target, o)));
            users = [.. found.Select(c => c.Id)];
        }

        return CloseAllAsync(c => users.Contains(c.Id), $"{o} was taken back");
    }

    // A policy says that the client is to go: its process, where that is one of this machine, and in any case all that
    // it has here. On a thread that is in the middle of something, without the host lock.
    private void EndClient(ComputeContext context, string reason)
    {
        _host.Trace("compute.client_ended", reason, context.Client?.ProcessId ?? 0);
        try
        {
            if (context.Client is { } client && client.ProcessId != Environment.ProcessId) // it may be embedded
            {
                client.Kill();
            }
        }
        catch (LinuxException e)
        {
            _host.Trace("compute.client_not_killed", e.Message); // another user's: it finds its context ended
        }

        _ = CloseAsync(context, reason); // whoever else closes it waits for the same end
    }

    private ContextBuffer FindBuffer(ComputeContext context, uint handle, string operation)
    {
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            return context.Buffers.Skip(1).FirstOrDefault(b => b.Handle == handle) // the first has its results
                ?? throw new WayleaveException(Errno.ENOENT, operation, "it is none that the client opened");
        }
    }

    private void CheckNewQueue(ComputeContext context, string name, string operation)
    {
        context.ThrowIfEnded(operation);
        if (WlUrl.DescribeProblemOfName(name, "queue") is { } problem)
        {
            throw new WayleaveException(Errno.EINVAL, operation, problem);
        }

        int there = _contexts.Values.Where(c => ReferenceEquals(c.Gpu, context.Gpu)).Sum(c => c.Queues.Count);
        if (there >= context.Gpu.Compute.QueuesMax)
        {
            throw new WayleaveException(
                Errno.EMFILE,
                operation,
                $"{context.Gpu.Name} has {context.Gpu.Compute.QueuesMax} queues already",
                "wayleave gpu ls shows whose; \"queues_max\" in the host's configuration allows more");
        }
    }

    private static Errno OpenLocked(ComputeContext context, SharedBuffer buffer, DeviceObject? o, GpuAccess access)
    {
        Errno errno = context.Process.TryOpen(buffer, access, out uint handle);
        if (errno != Errno.Success)
        {
            return errno;
        }

        ulong sizeBytes = o?.SizeBytes ?? buffer.SizeBytes;
        ulong address = 0;
        ulong reached = sizeBytes & ~3UL; // commands go by words
        if (context.Gpu.Compute.Mode == GpuCommandMode.Paged && reached > 0)
        {
            address = context.TakeAddress(sizeBytes);
            ulong mapped = buffer.SizeBytes == sizeBytes
                ? reached
                : (sizeBytes + GpuAddressSpace.PageBytes - 1) & ~(GpuAddressSpace.PageBytes - 1);
            errno = context.Process.Memory.TryMap(address, handle, 0, mapped, access);
            if (errno != Errno.Success)
            {
                _ = context.Process.TryClose(handle); // it is not mapped, so that nothing can hold it
                return errno;
            }
        }

        context.Add(new ContextBuffer(handle, address, sizeBytes, access, o));
        context.Process.Eviction.Refresh(); // or rings that run would not reach it
        return Errno.Success;
    }

    private async Task EndAsync(ComputeContext context, string reason, TaskCompletionSource ended)
    {
        try
        {
            await context.Closing.CancelAsync().ConfigureAwait(false);
            if (Regions.EndsWithClient)
            {
                await Regions.EndAllAsync(context).ConfigureAwait(false);
            }

            if (context.Results is { } results)
            {
                // Waits for the jobs, whose fences stand in it as in every buffer that a page table leads to.
                RevokePolicy policy = new() { Reason = reason };
                await OwnerWait.AwaitAsync(_host, () => results.Free(policy)).ConfigureAwait(false);
            }

            Task[] jobs;
            using (_host.Enter())
            {
                jobs = [.. context.Jobs.Where(j => j.Fence is not null).Select(j => j.Ended)];
            }

            await Task.WhenAll(jobs).ConfigureAwait(false);
            if (context.Memory is { } memory)
            {
                await memory.ExitAsync().ConfigureAwait(false);
                context.Watched.ForEach(w => w.Dispose()); // no device has it any more
            }

            using (_host.Enter())
            {
                _contexts.Remove(context.Id);
            }

            _host.Trace("compute.context_end", context.ToString(), jobs.Length);
            ended.SetResult();
        }
        catch (Exception e)
        {
            ended.SetException(e);
        }
        finally
        {
            context.Use.Dispose();
            context.Client?.Dispose();
        }
    }
}
