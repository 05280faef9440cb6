using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A transfer that a host made ready, and the stream that keeps it: disposing ends it, and so does the death of this
/// process. Nothing of what is sent passes this process.
/// </summary>
public sealed class HeldTransfer : IAsyncDisposable
{
    private readonly LineReader _lines;
    private readonly Action<ulong>? _progress;

    private HeldTransfer(LineReader lines, TransferDocument transfer, Action<ulong>? progress)
    {
        (_lines, Transfer, _progress) = (lines, transfer, progress);
        Completion = WatchAsync();
    }

    public TransferDocument Transfer { get; }

    /// <summary>
    /// The last line: done, or failed with its reason. With a <see cref="WayleaveException"/> when the host stops
    /// (ENODEV), died (ECONNRESET) or fell silent (ETIMEDOUT); cancelled by <see cref="DisposeAsync"/>.
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

    /// <summary>Ends the transfer. Its end at the host is not waited for. Disposing twice is fine.</summary>
    public ValueTask DisposeAsync() => _lines.CloseAsync(Completion);

    private async Task<TransferEventDocument> WatchAsync()
    {
        while (await _lines.ReadNextAsync(ControlJson.Default.TransferEventDocument).ConfigureAwait(false) is { } line)
        {
            switch (line.Event)
            {
                case TransferEventKind.Progress:
                    _progress?.Invoke(line.CompletedBytes);
                    break;
                case TransferEventKind.Done or TransferEventKind.Failed:
                    return line;
                case TransferEventKind.HostStops:
                    throw _lines.Fail(Errno.ENODEV, "the host stops");
            }
        }

        throw new OperationCanceledException("the transfer was given up");
    }
}
