using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Connections;

// A process that is killed says no good-bye, and a side that only waits has nothing on its way that could run out of
// retries. So after a silence the peer is asked, by a WRITE of no bytes: that needs no key, consumes no receive, and is
// answered by the connection however long its application thinks (a queue pair of rdma_cm grants WRITE, whatever else
// it grants). One that does not answer runs out of retries.

/// <summary>
/// Waits for completions of one connected queue pair, and asks its peer whether it is there while none come. One task
/// at a time waits.
/// </summary>
internal sealed class PeerWait(CompletionWait completions, QueuePair pair)
{
    private const ulong QuestionId = ulong.MaxValue - 1;

    // Longer than a peer that runs takes for a step.
    private static readonly TimeSpan s_silence = TimeSpan.FromSeconds(1);

    private bool _asks; // a question is on its way

    /// <summary>
    /// The next completion of the caller's own. A peer that has gone completes what is first in the queue with
    /// <see cref="WorkCompletionStatus.RetryExceeded"/>, the question if nothing else is there.
    /// </summary>
    /// <param name="ended">When this has completed and the queue is empty, there will be no more; or null.</param>
    /// <param name="cancellation">Ends the wait; no completion is lost.</param>
    /// <returns>Null after <paramref name="ended"/>.</returns>
    public async ValueTask<WorkCompletion?> NextAsync(Task? ended, CancellationToken cancellation)
    {
        while (true)
        {
            using CancellationTokenSource silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
            silence.CancelAfter(s_silence);
            try
            {
                WorkCompletion? next = await completions.NextAsync(ended, silence.Token).ConfigureAwait(false);
                if (next is not { WrId: QuestionId, Status: WorkCompletionStatus.Success })
                {
                    return next;
                }

                _asks = false;
            }
            catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
            {
                Ask();
            }
        }
    }

    private void Ask()
    {
        if (!_asks)
        {
            // A queue pair that is not in RTS any more takes it and flushes it, or its end is about to be told.
            _asks = pair.PostSend(
                new SendWorkRequest
                {
                    WrId = QuestionId,
                    Opcode = WorkRequestOpcode.RdmaWrite,
                    Flags = SendFlags.Signaled,
                },
                []) == Errno.Success;
        }
    }
}
