using System.Diagnostics;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Ethernet;

namespace Wayleave.Host.Connections;

// Who runs what: one task at a time waits. It drives the port itself for a while, since an answer is usually near; then
// it asks for an event and the port's engine drives, whose thread only sets the signal.

/// <summary>A completion queue that is waited for: by polling first, then by its channel.</summary>
internal sealed class CompletionWait
{
    // A look may give the processor away and last as long as others have it: so not a number of looks.
    private static readonly TimeSpan s_pollMax = TimeSpan.FromMilliseconds(1);

    private readonly NicHandle _nic;
    private readonly AsyncSignal _signal = new();
    private readonly CompletionChannel _channel;
    private readonly WorkCompletion[] _polled = new WorkCompletion[1];

    /// <param name="nic">Whose queue pairs complete here.</param>
    /// <param name="depth">Of the queue.</param>
    public CompletionWait(NicHandle nic, int depth)
    {
        _nic = nic;
        _channel = new CompletionChannel(_signal.Set);
        RdmaDevice.TryCreateCompletionQueue(depth, out CompletionQueue? queue, _channel)
            .ThrowIfFailed($"create a completion queue of {depth} on {nic.Name}");
        Queue = queue!;
    }

    public CompletionQueue Queue { get; }

    /// <summary>Lets whoever waits look again, or the next one; any thread.</summary>
    public void Wake() => _signal.Set();

    /// <summary>The next completion.</summary>
    /// <param name="ended">When this has completed and the queue is empty, there will be no more; or null.</param>
    /// <param name="cancellation">Ends the wait; no completion is lost.</param>
    /// <returns>Null after <paramref name="ended"/>.</returns>
    public async ValueTask<WorkCompletion?> NextAsync(Task? ended, CancellationToken cancellation)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            if (Queue.Poll(_polled) == 1)
            {
                return _polled[0];
            }

            if (ended is { IsCompleted: true })
            {
                return null;
            }

            cancellation.ThrowIfCancellationRequested();
            if (_nic.Driver.TryProgress() || Stopwatch.GetElapsedTime(start) < s_pollMax)
            {
                continue;
            }

            // What completed before the request makes no event, so one more look.
            Queue.RequestNotify(solicitedOnly: false);
            _nic.Driver.ExpectWait();
            if (Queue.Poll(_polled) == 1)
            {
                return _polled[0];
            }

            await WaitForEventAsync(ended, cancellation).ConfigureAwait(false);
            start = Stopwatch.GetTimestamp();
        }
    }

    private async ValueTask WaitForEventAsync(Task? ended, CancellationToken cancellation)
    {
        using CancellationTokenSource over = new();
        _ = ended?.ContinueWith(
            (_, state) => ((CompletionWait)state!).Wake(),
            this,
            over.Token,
            TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
        try
        {
            await _signal.WaitAsync(cancellation).ConfigureAwait(false);
        }
        finally
        {
            await over.CancelAsync().ConfigureAwait(false); // or each wait that is given up stays with who ends them
        }

        while (_channel.TryTakeEvent(out _))
        {
        }
    }
}
