using Wayleave.Host.Audits;

namespace Wayleave.Host.Control;

//   audit, heartbeat, heartbeat, ..., ended          somebody ended the audit by its number
//                                   , host_stops     the host stops

/// <summary>Keeps an audit for the client that started it, until the client leaves or it is over.</summary>
internal sealed class AuditFeed(
    WayleaveHost host, TakeBackAudit audit, ControlListenerOptions options, EventStream stream)
{
    /// <summary>Runs until the audit is over. The caller ends the audit.</summary>
    /// <param name="over">The client left, or the host stops.</param>
    public async Task RunAsync(CancellationToken over)
    {
        await WriteAsync(AuditEventKind.Audit, AuditDocument.From(audit)).ConfigureAwait(false);
        using PeriodicTimer timer = new(options.HeartbeatInterval, options.Clock);
        try
        {
            while (await timer.WaitForNextTickAsync(over).ConfigureAwait(false))
            {
                bool isOver = !host.Audits.Contains(audit);
                await WriteAsync(isOver ? AuditEventKind.Ended : AuditEventKind.Heartbeat).ConfigureAwait(false);
                if (isOver)
                {
                    return;
                }
            }
        }
        catch (OperationCanceledException) when (!stream.HasClientLeft)
        {
            await WriteAsync(AuditEventKind.HostStops).ConfigureAwait(false);
        }
    }

    private Task WriteAsync(AuditEventKind kind, AuditDocument? document = null)
    {
        AuditEventDocument line = new()
        {
            Event = kind,
            AtUs = ProofDocument.ToMicroseconds(host.Context.Now),
            Audit = document,
        };
        return stream.WriteAsync(line, ControlJson.Default.AuditEventDocument);
    }
}
