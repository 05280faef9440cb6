using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// An audit that a host started, and the stream that keeps it: the reclaimed memory belongs to its new owner for as
/// long as this object lives, and is given up when it is disposed, when this process dies, or after
/// <see cref="ControlClient.EndAuditAsync"/>.
/// </summary>
public sealed class HeldAudit : HeldGrant<AuditEventDocument>
{
    private HeldAudit(LineReader lines, AuditDocument audit)
        : base(lines, ControlJson.Default.AuditEventDocument)
    {
        Audit = audit;
        Completion = Reading;
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

    private protected override bool IsLast(AuditEventDocument line) => line.Event switch
    {
        AuditEventKind.Ended => true,
        AuditEventKind.HostStops => throw Lines.Fail(Errno.ENODEV, "the host stops"),
        _ => false,
    };
}
