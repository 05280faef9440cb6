using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// An audit that a host started, and the stream that keeps it: the reclaimed memory belongs to its new owner for as
/// long as this object lives, and is given up when it is disposed, when this process dies, or after
/// <see cref="ControlClient.EndAuditAsync"/>.
/// </summary>
public sealed class HeldAudit : IAsyncDisposable
{
    private readonly LineReader _lines;

    private HeldAudit(LineReader lines, AuditDocument audit)
    {
        (_lines, Audit) = (lines, audit);
        Completion = WatchAsync();
    }

    public AuditDocument Audit { get; }

    /// <summary>
    /// Ends with the audit: normally when somebody ended it, this object included; with a
    /// <see cref="WayleaveException"/> when the host stops (ENODEV), died (ECONNRESET) or fell silent (ETIMEDOUT).
    /// </summary>
    public Task Completion { get; }

    internal static async Task<HeldAudit> OpenAsync(LineReader lines, CancellationToken cancellation)
    {
        AuditEventDocument first =
            await lines.ReadAsync(ControlJson.Default.AuditEventDocument, cancellation).ConfigureAwait(false);
        AuditDocument audit = first.Audit ?? throw lines.Fail(Errno.EPROTO, "the answer does not begin with an audit");
        return new HeldAudit(lines, audit);
    }

    /// <summary>Ends the audit. Its end at the host is not waited for. Disposing twice is fine.</summary>
    public ValueTask DisposeAsync() => _lines.CloseAsync(Completion);

    private async Task WatchAsync()
    {
        while (await _lines.ReadNextAsync(ControlJson.Default.AuditEventDocument).ConfigureAwait(false) is { } line)
        {
            switch (line.Event)
            {
                case AuditEventKind.Ended:
                    return;
                case AuditEventKind.HostStops:
                    throw _lines.Fail(Errno.ENODEV, "the host stops");
            }
        }
    }
}
