using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

//   transfer, progress, progress, ..., done          every byte has arrived
//                                    , failed        and how
//                                    , host_stops    the host stops

/// <summary>Tells who asked for a transfer how far it is, until that client leaves or it is over.</summary>
internal sealed class TransferFeed(
    WayleaveHost host, OutgoingTransfer transfer, ControlListenerOptions options, EventStream stream)
{
    /// <summary>Runs until the transfer is over. The caller ends the transfer.</summary>
    /// <param name="over">The client left, or the host stops.</param>
    public async Task RunAsync(CancellationToken over)
    {
        TransferEventDocument first = NewLine(TransferEventKind.Transfer);
        await WriteAsync(first with { Transfer = TransferDocument.From(transfer) }).ConfigureAwait(false);
        using PeriodicTimer timer = new(options.ProgressInterval, options.Clock);
        try
        {
            while (!transfer.Completion.IsCompleted)
            {
                Task<bool> tick = timer.WaitForNextTickAsync(over).AsTask();
                if (await Task.WhenAny(tick, transfer.Completion).ConfigureAwait(false) == tick)
                {
                    await tick.ConfigureAwait(false);
                    await WriteAsync(NewLine(TransferEventKind.Progress)).ConfigureAwait(false);
                }
            }

            await WriteAsync(await DescribeEndAsync().ConfigureAwait(false)).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!stream.HasClientLeft)
        {
            await WriteAsync(NewLine(TransferEventKind.HostStops)).ConfigureAwait(false);
        }
    }

    private async Task<TransferEventDocument> DescribeEndAsync()
    {
        try
        {
            WorkCompletionStatus status = await transfer.Completion.ConfigureAwait(false);
            return status == WorkCompletionStatus.Success
                ? NewLine(TransferEventKind.Done) with { ElapsedUs = ProofDocument.ToMicroseconds(transfer.Elapsed) }
                : NewLine(TransferEventKind.Failed) with { Status = status };
        }
        catch (WayleaveException e)
        {
            TransferEventDocument line = NewLine(TransferEventKind.Failed);
            return line with { Errno = e.Errno.ToString(), Reason = e.Reason, Remedy = e.Remedy };
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            options.Log?.WriteLine($"wayleave: transfer {transfer.Id} of {transfer.Source}: {e}");
            TransferEventDocument line = NewLine(TransferEventKind.Failed);
            return line with { Errno = nameof(Errno.EIO), Reason = "the host failed; its log says how" };
        }
    }

    private TransferEventDocument NewLine(TransferEventKind kind) => new()
    {
        Event = kind,
        AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
        CompletedBytes = transfer.CompletedBytes,
    };

    private Task WriteAsync(TransferEventDocument line) =>
        stream.WriteAsync(line, ControlJson.Default.TransferEventDocument);
}
