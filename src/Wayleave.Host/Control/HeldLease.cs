using Wayleave.Core;

namespace Wayleave.Host.Control;

/// <summary>
/// A lease that a host granted, and the stream that keeps it. As long as this object lives the host keeps the lease;
/// disposing ends it, and so does the death of this process.
/// </summary>
public sealed class HeldLease : HeldGrant<LeaseEventDocument>
{
    private HeldLease(LineReader lines, LeaseDocument lease)
        : base(lines, ControlJson.Default.LeaseEventDocument)
    {
        Lease = lease;
        Completion = Reading;
    }

    public LeaseDocument Lease { get; }

    /// <summary>
    /// Ends when the lease is of no more use: normally after a commit or <see cref="HeldGrant{T}.DisposeAsync"/>, with
    /// a <see cref="WayleaveException"/> when the owner took the memory back or ended the lease (ENODEV), when the host
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

    private protected override bool IsLast(LeaseEventDocument line) => line.Event switch
    {
        LeaseEventKind.Committed => true,
        LeaseEventKind.Revoked or LeaseEventKind.Ended =>
            throw Lines.Fail(Errno.ENODEV, line.Reason ?? "the owner ended the lease"),
        _ => false,
    };
}
