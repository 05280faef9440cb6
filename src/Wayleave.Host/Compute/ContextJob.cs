using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Host.Compute;

/// <summary>Where a job of a client is.</summary>
public enum ContextJobState
{
    /// <summary>
    /// Nobody has submitted yet what it is to run after: it has no fence, no place in a queue and holds nothing.
    /// </summary>
    Held,

    /// <summary>Its buffers are being locked and mapped.</summary>
    Submitting,

    /// <summary>In its queue, with a fence.</summary>
    Queued,

    /// <summary>It has the engine.</summary>
    Running,

    Done,

    /// <summary>It ended with an error: see <see cref="ContextJob.Error"/>.</summary>
    Failed,
}

/// <summary>What a client submitted, until some time after its end. Host lock held by whoever looks at it.</summary>
public sealed class ContextJob
{
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    internal ContextJob(ulong id, ContextQueue queue, JobRequest request, TimeSpan at) =>
        (Id, Queue, Request, SubmittedAt) = (id, queue, request, at);

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    public ContextQueue Queue { get; }

    public JobRequest Request { get; }

    /// <summary>On the host's clock.</summary>
    public TimeSpan SubmittedAt { get; }

    /// <summary>Null while it runs and before.</summary>
    public TimeSpan? EndedAt => Fence is { IsSignaled: true } fence ? fence.Timestamp : null;

    /// <summary>Names in <see cref="JobRequest.After"/> that nobody had submitted anything for.</summary>
    public IReadOnlyList<string> Missing { get; internal set; } = [];

    /// <summary>Its out-fence; null until it is in its queue.</summary>
    public Fence? Fence { get; private set; }

    /// <summary>Of the fence, once it has ended.</summary>
    public Errno Error => Fence is { IsSignaled: true } fence ? fence.Error : Errno.Success;

    /// <summary>Ends with its fence.</summary>
    internal Task Ended => _ended.Task;

    /// <summary>As far as the fence says; <see cref="ContextJobState.Running"/> is the engine's to tell.</summary>
    public ContextJobState State =>
        Fence is null ? Missing.Count > 0 ? ContextJobState.Held : ContextJobState.Submitting
        : !Fence.IsSignaled ? ContextJobState.Queued
        : Error == Errno.Success ? ContextJobState.Done
        : ContextJobState.Failed;

    /// <summary>Waits until it has ended, or the time is over. Host lock not held.</summary>
    public async Task WaitAsync(TimeSpan timeout, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        await Task.WhenAny(Ended, Task.Delay(timeout, over.Token)).ConfigureAwait(false);
        await over.CancelAsync().ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
    }

    internal void Start(Fence fence)
    {
        Fence = fence;
        if (fence.TryAddCallback(_ => _ended.SetResult()) != Errno.Success)
        {
            _ended.SetResult();
        }
    }
}

/// <summary>What a client asks for.</summary>
/// <param name="Commands">As in a ring: 64 bytes each, little-endian.</param>
/// <param name="After">Names of work that has to end before; whose it is does not matter.</param>
/// <param name="Signal">The name by which others wait for this; null for none.</param>
/// <param name="SubmitTimeout">How long the names may be unknown.</param>
/// <param name="Results">Words to read from the context's results when it has ended well.</param>
public sealed record JobRequest(
    ReadOnlyMemory<byte> Commands,
    IReadOnlyList<string> After,
    string? Signal,
    TimeSpan SubmitTimeout,
    int Results)
{
    /// <summary>Fences that have to signal before, beside the names; those of a program's own are refused.</summary>
    public IReadOnlyList<Fence> Waits { get; init; } = [];
}
