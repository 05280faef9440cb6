using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Compute;

// A job is driven by the compute engine's own thread (EngineRunner), which takes the engine token, and the host lock
// only to choose a job and to end one. Hangs are noticed by the GPU's watchdog, on a thread of the pool.

/// <summary>
/// Jobs of clients on their queues, and the names by which jobs wait for each other. Members are called by threads of
/// requests, take the host lock themselves for a moment, and hold none while they wait.
/// </summary>
public sealed class JobService
{
    private readonly HostContext _host;
    private readonly OwnerAccess _access;
    private readonly SyncPointTable _points; // host lock

    internal JobService(WayleaveHost host)
    {
        _host = host.Context;
        _access = new OwnerAccess(host.Context, host.Fabric);
        _points = new SyncPointTable(host.Context);
    }

    /// <summary>Names by which jobs wait. Host lock held by the caller.</summary>
    internal IEnumerable<(string Name, Fence? Fence, ContextJob? Producer)> ListPointsLocked() => _points.List();

    /// <summary>
    /// Submits commands, once everything that they are to run after has been submitted; returns when they are in their
    /// queue.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// EINVAL, ENOENT, EACCES: the commands are refused; says which and why. ETIME: nobody has submitted what they are
    /// to run after. EDEADLK: they would wait for themselves. EAGAIN: the queue is full. ECANCELED: the queue is lost,
    /// or the context has ended. EBUSY: somebody else is about to signal the name.
    /// </exception>
    public async Task<ContextJob> SubmitAsync(ComputeContext context, ContextQueue queue, JobRequest request)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(queue);
        ArgumentNullException.ThrowIfNull(request);
        string operation = $"submit to {queue.Name} of {context}";
        Check(queue, request, operation);
        ContextJob job;
        IReadOnlyList<Task> missing;
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            job = new ContextJob(_host.AllocateId(), queue, request, _host.Now);
            missing = _points.Enter(job, operation);
            if (missing.Count > 0 && context.Jobs.Count(j => j.Missing.Count > 0) >= ComputeContext.HeldJobsMax)
            {
                _points.GiveUp(job);
                throw new WayleaveException(
                    Errno.EAGAIN, operation, "too many jobs wait for what nobody has submitted", "submit that first");
            }

            context.Add(job);
        }

        try
        {
            await HoldAsync(context, job, missing, operation).ConfigureAwait(false);
            await SubmitNowAsync(context, job, operation).ConfigureAwait(false);
            return job;
        }
        catch
        {
            using (_host.Enter())
            {
                _points.GiveUp(job);
                context.Remove(job);
            }

            throw;
        }
    }

    /// <summary>A job of a context by its number.</summary>
    /// <exception cref="WayleaveException">ENOENT: it is none of the context's, or ended long ago.</exception>
    public ContextJob FindJob(ComputeContext context, ulong id)
    {
        ArgumentNullException.ThrowIfNull(context);
        using (_host.Enter())
        {
            return context.Jobs.FirstOrDefault(j => j.Id == id)
                ?? throw new WayleaveException(Errno.ENOENT, $"find job {id}", $"it is none of {context}");
        }
    }

    /// <summary>The first words that jobs of the context have left for their client.</summary>
    public async Task<uint[]> ReadResultsAsync(ComputeContext context, int count, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(context);
        ObjectMemory? results;
        using (_host.Enter())
        {
            context.ThrowIfEnded($"read results of {context}");
            results = context.Results!;
        }

        byte[] bytes = new byte[sizeof(uint) * count];
        Task reading = _access.ForEachPieceAsync(
            results, 0, (ulong)bytes.Length, (offset, piece) => piece.CopyTo(bytes.AsSpan((int)offset)), cancellation);
        await context.Gpu.Presence.WatchAsync($"read results of {context}", reading).ConfigureAwait(false);
        return [.. bytes.Chunk(sizeof(uint)).Select(w => BinaryPrimitives.ReadUInt32LittleEndian(w))];
    }

    private static void Check(ContextQueue queue, JobRequest request, string operation)
    {
        // A list from outside may hold nothing where it should hold a name.
        foreach (string? name in request.After.Append(request.Signal ?? "none"))
        {
            if (WlUrl.DescribeProblemOfName(name ?? "", "sync point") is { } problem)
            {
                throw new WayleaveException(Errno.EINVAL, operation, problem);
            }
        }

        if (queue.Jobs is null)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP, operation, "its commands are read from a ring", "write them there and ring its bell");
        }

        if (request.Results is < 0 or > ComputeContext.ResultsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"results is {request.Results}; 0 to {ComputeContext.ResultsMax} are allowed");
        }
    }

    private async Task HoldAsync(ComputeContext context, ContextJob job, IReadOnlyList<Task> missing, string operation)
    {
        if (missing.Count == 0)
        {
            return;
        }

        try
        {
            await Task.WhenAll(missing)
                .WaitAsync(job.Request.SubmitTimeout, context.Closing.Token).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            string[] names;
            using (_host.Enter())
            {
                HashSet<string> known = [.. _points.List().Where(p => p.Fence is not null).Select(p => p.Name)];
                names = [.. job.Missing.Where(n => !known.Contains(n)).Select(n => $"'{n}'")];
            }

            throw new WayleaveException(
                Errno.ETIME,
                operation,
                $"nobody has submitted work that signals {string.Join(" and ", names)}",
                "submit it first, or give more time");
        }
        catch (OperationCanceledException)
        {
            throw new WayleaveException(Errno.ECANCELED, operation, context.Ended ?? "the context ends");
        }
    }

    private async Task SubmitNowAsync(ComputeContext context, ContextJob job, string operation)
    {
        TaskCompletionSource completed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        SubmitOperation submit;
        using (_host.Enter())
        {
            context.ThrowIfEnded(operation);
            IReadOnlyList<Fence> waits = [.. _points.FencesFor(job), .. job.Request.Waits];
            _points.LeaveWaiting(job);
            submit = SubmitOperation.Start(
                job.Queue.Jobs!, new GpuSubmission(context.Gpu.Compute.Mode, job.Request.Commands, waits));
            if (!submit.TryAddCompletion(completed.SetResult))
            {
                completed.SetResult();
            }
        }

        await completed.Task.ConfigureAwait(false);
        using (_host.Enter())
        {
            if (submit.Fence is not { } fence)
            {
                string? limit = context.Memory?.DescribeLimit(submit.Error);
                throw new WayleaveException(
                    submit.Error, operation, submit.Problem ?? limit ?? Describe(submit.Error, job.Queue));
            }

            job.Start(fence);
            _points.Submit(job);
        }
    }

    private static string Describe(Errno errno, ContextQueue queue) => errno switch
    {
        Errno.EAGAIN => $"the queue is full, or its engine is given up as hung: {queue.Queue.Name}",
        Errno.ECANCELED => "the queue is lost: work of it faulted or hung before",
        _ => ErrnoMap.Describe(errno),
    };
}
