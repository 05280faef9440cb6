using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A lease that a host granted, and the stream that keeps it. As long as this object lives the host keeps the lease;
/// disposing ends it, and so does the death of this process.
/// </summary>
public sealed class HeldLease : IAsyncDisposable
{
    private readonly LineReader _lines;

    private HeldLease(LineReader lines, LeaseDocument lease)
    {
        (_lines, Lease) = (lines, lease);
        Completion = WatchAsync();
    }

    public LeaseDocument Lease { get; }

    /// <summary>
    /// Ends when the lease is of no more use: normally after a commit or <see cref="DisposeAsync"/>, with a
    /// <see cref="WayleaveException"/> when the owner took the memory back or ended the lease (ENODEV), when the host
    /// died (ECONNRESET) or when it fell silent (ETIMEDOUT).
    /// </summary>
    public Task Completion { get; }

    internal static async Task<HeldLease> OpenAsync(LineReader lines, CancellationToken cancellation)
    {
        LeaseEventDocument first =
            await lines.ReadAsync(ControlJson.Default.LeaseEventDocument, cancellation).ConfigureAwait(false);
        LeaseDocument lease = first.Lease ?? throw lines.Fail(Errno.EPROTO, "the answer does not begin with a lease");
        return new HeldLease(lines, lease);
    }

    /// <summary>Ends the lease. Its end at the host is not waited for. Disposing twice is fine.</summary>
    public ValueTask DisposeAsync() => _lines.CloseAsync(Completion);

    private async Task WatchAsync()
    {
        while (await _lines.ReadNextAsync(ControlJson.Default.LeaseEventDocument).ConfigureAwait(false) is { } line)
        {
            switch (line.Event)
            {
                case LeaseEventKind.Committed:
                    return;
                case LeaseEventKind.Revoked or LeaseEventKind.Ended:
                    throw _lines.Fail(Errno.ENODEV, line.Reason ?? "the owner ended the lease");
            }
        }
    }
}
