using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Linux;

namespace Wayleave.Host.Runners;

/// <summary>
/// The owner's wait for the end of a revoke. The policy decides the tail (docs/adr/0006): a short spin, because most
/// drains are over within one packet's copy, then a futex; and whoever ends the revoke yields after it had to wake
/// somebody.
/// </summary>
public static class OwnerWait
{
    /// <summary>
    /// Takes a buffer back and blocks until there is a proof, good or bad. Not with the host lock held.
    /// </summary>
    public static RetirementProof Revoke(SharedBuffer buffer, RevokePolicy policy)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        HostContext host = buffer.Host;
        WaitWord done = new();
        RevokeOperation operation;
        using (host.Enter())
        {
            operation = RevokeOperation.Start(buffer, policy);
            if (!operation.TryAddCompletion(() => Announce(done)))
            {
                return operation.Proof!;
            }
        }

        while (!done.Wait(Max(operation.Deadline - host.Now, TimeSpan.Zero)))
        {
            using (host.Enter())
            {
                operation.HandleTimeout(host.Now);
            }
        }

        return operation.Proof!;
    }

    /// <summary>
    /// As <see cref="Revoke"/>, for callers that must not block a thread, and for any way to start the operation: a
    /// buffer that is freed is revoked by its exporter.
    /// </summary>
    /// <param name="host">The host whose lock is taken around <paramref name="start"/>.</param>
    /// <param name="start">Starts the revoke; runs once, with the host lock held.</param>
    public static async Task<RetirementProof> AwaitAsync(HostContext host, Func<RevokeOperation> start)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(start);
        TaskCompletionSource done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        RevokeOperation operation;
        using (host.Enter())
        {
            operation = start();
            if (!operation.TryAddCompletion(done.SetResult))
            {
                return operation.Proof!;
            }
        }

        while (!operation.IsCompleted)
        {
            TimeSpan left = Max(operation.Deadline - host.Now, TimeSpan.FromMilliseconds(1));
            using CancellationTokenSource ended = new();
            await Task.WhenAny(done.Task, Task.Delay(left, ended.Token)).ConfigureAwait(false);
            await ended.CancelAsync().ConfigureAwait(false);
            using (host.Enter())
            {
                operation.HandleTimeout(host.Now);
            }
        }

        return operation.Proof!;
    }

    private static void Announce(WaitWord done)
    {
        if (done.Set())
        {
            Thread.Yield();
        }
    }

    private static TimeSpan Max(TimeSpan a, TimeSpan b) => a > b ? a : b;
}
