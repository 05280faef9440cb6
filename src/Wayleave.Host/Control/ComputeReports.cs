using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;
using Wayleave.Host.Removal;

namespace Wayleave.Host.Control;

/// <summary>What the compute engines of a host say about themselves.</summary>
internal static class ComputeReports
{
    public static ComputeDocument Describe(WayleaveHost host)
    {
        IReadOnlyList<ComputeContext> contexts = host.Compute.List();
        using (host.Context.Enter())
        {
            return new ComputeDocument
            {
                Host = host.Config.Name,
                Gpus =
                [
                    .. host.Gpus.Where(g => g.Presence.State != DevicePresenceState.Gone)
                        .Select(g => DescribeLocked(g, contexts.Where(c => ReferenceEquals(c.Gpu, g)))),
                ],
                Points = [.. host.Compute.Jobs.ListPointsLocked().Select(p => DescribeLocked(p.Name, p.Fence))],
            };
        }
    }

    /// <summary>Host lock held by the caller.</summary>
    public static QueueDocument DescribeLocked(ContextQueue queue) => new()
    {
        Id = queue.Id,
        Name = queue.Name,
        IsRing = queue.Ring is not null,
        Priority = queue.Queue.Priority,
        Engine = queue.Queue.Engine.Kind,
        State = queue.Queue.IsLost ? QueueState.Lost
            : queue.Jobs?.Count > 0 || queue.Ring?.IsIdle == false ? QueueState.Busy
            : QueueState.Idle,
        Jobs = queue.Jobs?.Count ?? 0,
        Done = queue.Ring?.Done,
        Error = ToWord(queue.Ring?.Error ?? Errno.Success),
    };

    /// <summary>Host lock held by the caller.</summary>
    public static JobDocument DescribeLocked(ContextJob job, IReadOnlyList<uint>? results = null) => new()
    {
        Id = job.Id,
        Queue = job.Queue.Name,
        State = StateOf(job),
        Commands = job.Request.Commands.Length / GpuCommand.SizeBytes,
        After = job.Request.After.Count > 0 ? job.Request.After : null,
        Missing = job.Missing.Count > 0 ? job.Missing : null,
        Signal = job.Request.Signal,
        SubmittedAtUs = (long)job.SubmittedAt.TotalMicroseconds,
        EndedAtUs = (long?)job.EndedAt?.TotalMicroseconds,
        Error = ToWord(job.Error),
        Results = results,
    };

    private static ComputeGpuDocument DescribeLocked(GpuHandle gpu, IEnumerable<ComputeContext> contexts)
    {
        QueueEngine compute = gpu.Device.ComputeEngine, copy = gpu.Device.CopyQueueEngine;
        return new ComputeGpuDocument
        {
            Name = gpu.Name,
            Mode = gpu.Compute.Mode,
            PinPolicy = gpu.PinPolicy,
            HangLimitMs = (long)gpu.Compute.HangLimit.TotalMilliseconds,
            UserMemory = gpu.Compute.UserMemory,
            UserMemoryFreeBytes = (ulong)gpu.UserMemory.FreePages * PageFrame.SizeBytes,
            UserMemoryReclaims = gpu.UserMemory.Stats.Reclaimed,
            UserVramBytes = (ulong)(gpu.Device.ProcessMemory?.Pages.PageCount ?? 0) * PageFrame.SizeBytes,
            UserVramFreeBytes = (ulong)(gpu.Device.ProcessMemory?.Pages.FreePages ?? 0) * PageFrame.SizeBytes,
            PagesMigratedToVram = gpu.UserMemory.Stats.MigratedToDevice,
            PagesMigratedHome = gpu.UserMemory.Stats.MigratedHome,
            QueuesMax = gpu.Compute.QueuesMax,
            Preemptions = compute.PreemptionCount + copy.PreemptionCount,
            Hangs =
            [
                .. compute.Hangs.Hangs.Select(h => h.WasStopped ? h.Fence : $"{h.Fence}, which did not stop in time"),
            ],
            Contexts = [.. contexts.Select(DescribeLocked)],
            Failure = gpu.Failure?.Message,
        };
    }

    private static ComputeContextDocument DescribeLocked(ComputeContext context) => new()
    {
        Id = context.Id,
        Name = context.Name,
        Buffers = [.. context.Buffers.Where(b => b.Target is not null).Select(b => b.Target!.ToString())],
        Queues = [.. context.Queues.Select(DescribeLocked)],
        Jobs = [.. context.Jobs.Select(j => DescribeLocked(j))],
        Regions = [.. context.Regions.Select(RegionDocument.From)],
        Connections = context.Pairs.Count,
        Faults = context.Process.Faults.Count,
        Evictions = context.Process.Eviction.EvictionCount,
        Ending = context.Ended,
    };

    private static SyncPointDocument DescribeLocked(string name, Fence? fence) => new()
    {
        Name = name,
        State = fence is null ? SyncPointState.Unknown
            : fence.IsSignaled ? SyncPointState.Signaled
            : SyncPointState.Pending,
        Error = fence is { IsSignaled: true } ended ? ToWord(ended.Error) : null,
    };

    // The first of its queue that has not ended is the one that the engine may be in.
    private static ContextJobState StateOf(ContextJob job) =>
        job.State == ContextJobState.Queued && job.Queue.Jobs is { } queue && queue.IsFirst(job.Fence!)
            && ReferenceEquals(queue.Engine.RunningQueue, queue)
            ? ContextJobState.Running
            : job.State;

    private static string? ToWord(Errno errno) => errno == Errno.Success ? null : errno.ToString();
}
