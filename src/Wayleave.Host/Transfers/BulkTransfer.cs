using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ports;

namespace Wayleave.Host.Transfers;

/// <summary>Which way the bytes go, seen from the side that posts.</summary>
public enum BulkDirection
{
    /// <summary>RDMA WRITE: local memory is the source.</summary>
    Write,

    /// <summary>RDMA READ: local memory is the target.</summary>
    Read,
}

/// <summary>The two ends of a transfer: a range of a local region and a range of the peer's.</summary>
/// <param name="LocalAddress">Within the region of <paramref name="LKey"/>.</param>
/// <param name="LKey">The local key.</param>
/// <param name="RemoteAddress">Within the peer's region.</param>
/// <param name="RKey">The peer's key.</param>
/// <param name="LengthBytes">Any length.</param>
public readonly record struct BulkRange(
    ulong LocalAddress, uint LKey, ulong RemoteAddress, uint RKey, ulong LengthBytes);

/// <summary>
/// Moves a long range through one queue pair in messages of fixed size, several in flight, polling on the calling
/// thread. The memory at both ends belongs to the transfer until <see cref="Run"/> returns: after a cancellation it
/// first waits for what is in flight, because a cancelled wait does not cancel DMA.
/// </summary>
public sealed class BulkTransfer(PortDriver driver, QueuePair queuePair, CompletionQueue completions, HostContext host)
{
    /// <summary>
    /// The limit when nothing else is said: longer than the owner of a large object needs to move it, shorter than a
    /// person waits for a copy that stands still.
    /// </summary>
    public static readonly TimeSpan DefaultStallMax = TimeSpan.FromSeconds(30);

    private const int PollBatch = 16;

    /// <summary>Bytes of one work request.</summary>
    public uint MessageBytes { get; init; } = 1 << 20;

    /// <summary>Work requests in flight at most; the send queue holds them.</summary>
    public int Depth { get; init; } = 16;

    /// <summary>
    /// How many bytes may be posted so far, or null for no limit. Asked before each post: a caller can hold the last
    /// message back.
    /// </summary>
    public Func<ulong>? PostLimit { get; init; }

    /// <summary>
    /// How long the peer may acknowledge nothing while something is in flight. A silent peer is given up by the retry
    /// counter of the queue pair, long before; one that answers RNR for ever would never be.
    /// <see cref="Timeout.InfiniteTimeSpan"/> for no limit.
    /// </summary>
    public TimeSpan StallMax { get; init; } = DefaultStallMax;

    /// <summary>Called with the bytes completed so far, on the calling thread, after every completion.</summary>
    public Action<ulong>? Progress { get; init; }

    /// <summary>Transfers the range.</summary>
    /// <returns>Success, or the status of the first request that failed; the queue pair is in ERR then.</returns>
    /// <exception cref="OperationCanceledException">Cancelled; nothing is in flight any more.</exception>
    /// <exception cref="TransferStalledException">
    /// Nothing was acknowledged for <see cref="StallMax"/>; the queue pair is in ERR and nothing is in flight any more.
    /// </exception>
    public WorkCompletionStatus Run(BulkDirection direction, BulkRange range, CancellationToken cancellation = default)
    {
        Span<WorkCompletion> batch = stackalloc WorkCompletion[PollBatch];
        ulong posted = 0, completed = 0;
        int inFlight = 0;
        WorkCompletionStatus failure = WorkCompletionStatus.Success;
        SpinWait spin = default;
        StallWatch stall = new(StallMax);
        bool isStalled = false;
        Gid peer = queuePair.Attributes.AddressVector.Destination; // in ERR a queue pair has no peer any more
        while (completed < range.LengthBytes)
        {
            bool stopping = cancellation.IsCancellationRequested || failure != WorkCompletionStatus.Success;
            if (stopping && inFlight == 0)
            {
                break;
            }

            bool worked = false;
            ulong limit = Math.Min(range.LengthBytes, PostLimit?.Invoke() ?? ulong.MaxValue);
            while (!stopping && inFlight < Depth && posted < limit)
            {
                uint length = (uint)Math.Min(MessageBytes, limit - posted);
                if (!Post(direction, range, posted, length))
                {
                    break;
                }

                posted += length;
                inFlight++;
                worked = true;
            }

            worked |= driver.TryProgress();
            int count = completions.Poll(batch);
            foreach (WorkCompletion completion in batch[..count])
            {
                inFlight--;
                if (completion.Status == WorkCompletionStatus.Success)
                {
                    completed += completion.WrId; // the id of each request is its length
                }
                else if (failure == WorkCompletionStatus.Success)
                {
                    failure = completion.Status;
                }
            }

            if (count > 0)
            {
                Progress?.Invoke(completed);
            }

            if (!isStalled && stall.Observe(queuePair.OldestUnansweredPsn, inFlight, host.Now))
            {
                isStalled = true;
                driver.WithToken(Abort); // what is in flight completes flushed, and ends the loop
            }

            // Retries, timers and fences take micro- to milliseconds: yield the processor to the peer when there is
            // nothing to do.
            if (worked || count > 0)
            {
                spin = default;
            }
            else
            {
                spin.SpinOnce(sleep1Threshold: -1);
            }
        }

        if (isStalled && completed < range.LengthBytes)
        {
            throw new TransferStalledException(peer, range.RKey, StallMax);
        }

        if (failure == WorkCompletionStatus.Success)
        {
            cancellation.ThrowIfCancellationRequested();
        }

        return failure;
    }

    private void Abort() => queuePair
        .Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State)
        .ThrowIfFailed($"stop {queuePair.Name}");

    private bool Post(BulkDirection direction, in BulkRange range, ulong offset, uint length)
    {
        SendWorkRequest request = new()
        {
            WrId = length,
            Opcode = direction == BulkDirection.Write ? WorkRequestOpcode.RdmaWrite : WorkRequestOpcode.RdmaRead,
            Flags = SendFlags.Signaled,
            RemoteAddress = range.RemoteAddress + offset,
            RKey = range.RKey,
        };
        Errno errno = queuePair.PostSend(request, new Sge(range.LocalAddress + offset, length, range.LKey));
        if (errno is not (Errno.Success or Errno.ENOMEM))
        {
            throw ErrnoMap.ToException(errno, $"post to {queuePair.Name} at {host.Now}");
        }

        return errno == Errno.Success;
    }
}
