using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A transfer that a host made ready, and the stream that keeps it: disposing ends it, and so does the death of this
/// process. Nothing of what is sent passes this process.
/// </summary>
public sealed class HeldTransfer : HeldGrant<TransferEventDocument>
{
    private readonly Action<ulong>? _progress;

    private HeldTransfer(LineReader lines, TransferDocument transfer, Action<ulong>? progress)
        : base(lines, ControlJson.Default.TransferEventDocument)
    {
        (Transfer, _progress) = (transfer, progress);
        Completion = AwaitLastAsync();
    }

    public TransferDocument Transfer { get; }

    /// <summary>
    /// The last line: done, or failed with its reason. With a <see cref="WayleaveException"/> when the host stops
    /// (ENODEV), died (ECONNRESET) or fell silent (ETIMEDOUT); cancelled by disposing.
    /// </summary>
    public Task<TransferEventDocument> Completion { get; }

    internal static async Task<HeldTransfer> OpenAsync(
        LineReader lines, Action<ulong>? progress, CancellationToken cancellation)
    {
        TransferEventDocument first =
            await lines.ReadAsync(ControlJson.Default.TransferEventDocument, cancellation).ConfigureAwait(false);
        TransferDocument transfer = first.Transfer
            ?? throw lines.Fail(Errno.EPROTO, "the answer does not begin with a transfer");
        return new HeldTransfer(lines, transfer, progress);
    }

    private protected override bool IsLast(TransferEventDocument line)
    {
        switch (line.Event)
        {
            case TransferEventKind.Progress:
                _progress?.Invoke(line.CompletedBytes);
                return false;
            case TransferEventKind.HostStops:
                throw Lines.Fail(Errno.ENODEV, "the host stops");
            default:
                return line.Event is TransferEventKind.Done or TransferEventKind.Failed;
        }
    }

    private async Task<TransferEventDocument> AwaitLastAsync() =>
        await Reading.ConfigureAwait(false) ?? throw new OperationCanceledException("the transfer was given up");
}
