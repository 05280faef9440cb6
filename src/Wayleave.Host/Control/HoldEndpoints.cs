using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Audits;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Control;

// POST   /v1/objects/ID/leases               LeaseRequestDocument -> a stream of LeaseEventDocument
// POST   /v1/objects/DEVICE/NAME/audits      StartAuditDocument -> a stream of AuditEventDocument
// POST   /v1/objects/DEVICE/NAME/transfers   OpenTransferDocument -> a stream of TransferEventDocument
// POST   /v1/transfers/ID/start              StartTransferDocument -> TransferDocument
// POST   /v1/leases/ID/connections           ReconnectDocument -> ConnectionEndDocument
// GET    /v1/audits/ID                       AuditFindingsDocument
// DELETE /v1/audits/ID                       AuditFindingsDocument, the last look
//
// A stream has one document per line, until either end leaves. What a client holds is tied to something that ends with
// the client: a lease, an audit and a transfer to their streams.

/// <summary>What the control server keeps for a client for as long as its stream lives.</summary>
internal sealed class HoldEndpoints(
    WayleaveHost host, ControlListenerOptions options, UnleasedObjects unleased, CancellationToken stopping)
{
    private const int StallTimeoutMsMax = 86_400_000;

    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        StartsWork.Mark(routes.MapPost("/v1/objects/{id}/leases", LeaseAsync));
        routes.MapPost("/v1/leases/{id}/connections", ReconnectAsync);
        StartsWork.Mark(routes.MapPost("/v1/objects/{device}/{name}/audits", StartAuditAsync));
        StartsWork.Mark(routes.MapPost("/v1/objects/{device}/{name}/transfers", OpenTransferAsync));
        routes.MapPost("/v1/transfers/{id}/start", StartTransferAsync);
        routes.MapGet("/v1/audits/{id}", InspectAuditAsync);
        routes.MapDelete("/v1/audits/{id}", EndAuditAsync);
    }

    internal static void CheckStallTimeout(string operation, int stallTimeoutMs)
    {
        if (stallTimeoutMs is not -1 and (<= 0 or > StallTimeoutMsMax))
        {
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"stall_timeout_ms is {stallTimeoutMs}; 1 to {StallTimeoutMsMax} are allowed, and -1 for none");
        }
    }

    private async Task LeaseAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindById(host, context);
        LeaseRequestDocument request = await ControlRequest
            .ReadAsync(context, Json.LeaseRequestDocument).ConfigureAwait(false);
        bool isWriter = request.Access != LeaseAccess.Read;
        if (!isWriter && IsBeingWritten(o))
        {
            throw new WayleaveException(
                Errno.EBUSY, $"lease {o} for reading", "it is being written", "wait until it is committed");
        }

        unleased.Forget(o);
        try
        {
            LeaseRequest asked = new(request.Access, request.Region, request.Peer.ToEnd()) { Port = request.Port };
            Lease lease = await host.Leases.LendAsync(o, asked).ConfigureAwait(false);
            try
            {
                using CancellationTokenSource over = UntilOver(context);
                EventStream stream = new(context.Response);
                await new LeaseFeed(host, lease, options, stream).RunAsync(over.Token).ConfigureAwait(false);
            }
            finally
            {
                await host.Leases.EndAsync(lease).ConfigureAwait(false);
            }
        }
        finally
        {
            // However the stream ended: nothing half-written stays, and a commit that came first makes this do nothing.
            if (isWriter)
            {
                await host.Objects.AbortAsync(o, "its writer left before the commit").ConfigureAwait(false);
                host.Files.Drop(o);
            }
        }
    }

    private bool IsBeingWritten(DeviceObject o)
    {
        using (host.Context.Enter())
        {
            return o.State == ObjectState.Writing;
        }
    }

    private async Task ReconnectAsync(HttpContext context)
    {
        ulong id = ControlRequest.ReadId(context);
        ReconnectDocument request = await ControlRequest
            .ReadAsync(context, Json.ReconnectDocument).ConfigureAwait(false);
        Lease lease = host.Leases.Find(id)
            ?? throw new WayleaveException(Errno.ENOENT, $"reconnect lease {id}", "it has ended", "ask for a new one");
        ConnectionEnd local = host.Leases.Reconnect(lease, request.Peer.ToEnd());
        await ControlRequest
            .WriteAsync(context, ConnectionEndDocument.From(local), Json.ConnectionEndDocument).ConfigureAwait(false);
    }

    private async Task StartAuditAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindByName(host, context);
        StartAuditDocument start = await ControlRequest
            .ReadAsync(context, Json.StartAuditDocument).ConfigureAwait(false);
        int timeoutMs = Math.Clamp(start.TimeoutMs, 0, ControlEndpoints.RevokeTimeoutMsMax);
        RevokePolicy policy = new() { Timeout = TimeSpan.FromMilliseconds(timeoutMs) };
        policy = start.Reason is { } reason ? policy with { Reason = reason } : policy;
        using CancellationTokenSource over = UntilOver(context);
        TakeBackAudit audit = await host.Audits.StartAsync(o, policy, start.Seed, over.Token).ConfigureAwait(false);
        try
        {
            EventStream stream = new(context.Response);
            await new AuditFeed(host, audit, options, stream).RunAsync(over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Audits.EndAsync(audit).ConfigureAwait(false);
        }
    }

    private async Task InspectAuditAsync(HttpContext context)
    {
        TakeBackAudit audit = host.Audits.Find(ControlRequest.ReadId(context));
        AuditFindings seen = await audit.InspectAsync().ConfigureAwait(false);
        AuditFindingsDocument findings = AuditFindingsDocument.From(seen, audit.Regions);
        await ControlRequest.WriteAsync(context, findings, Json.AuditFindingsDocument).ConfigureAwait(false);
    }

    private async Task EndAuditAsync(HttpContext context)
    {
        TakeBackAudit audit = host.Audits.Find(ControlRequest.ReadId(context));
        AuditFindings seen = await audit.InspectAsync().ConfigureAwait(false);
        AuditFindingsDocument findings = AuditFindingsDocument.From(seen, audit.Regions);
        await host.Audits.EndAsync(audit).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, findings, Json.AuditFindingsDocument).ConfigureAwait(false);
    }

    private async Task OpenTransferAsync(HttpContext context)
    {
        DeviceObject o = ControlRequest.FindByName(host, context);
        OpenTransferDocument open = await ControlRequest
            .ReadAsync(context, Json.OpenTransferDocument).ConfigureAwait(false);
        if (open.ObjectId != o.Id)
        {
            throw new WayleaveException(
                Errno.ENODEV, $"send {o}", $"it is object {o.Id} and not {open.ObjectId} any more", "start again");
        }

        using CancellationTokenSource over = UntilOver(context);
        OutgoingTransfer transfer = await host.Transfers.OpenAsync(o, open.Port).ConfigureAwait(false);
        try
        {
            EventStream stream = new(context.Response);
            await new TransferFeed(host, transfer, options, stream).RunAsync(over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Transfers.EndAsync(transfer).ConfigureAwait(false);
        }
    }

    private async Task StartTransferAsync(HttpContext context)
    {
        OutgoingTransfer transfer = host.Transfers.Find(ControlRequest.ReadId(context));
        StartTransferDocument start = await ControlRequest
            .ReadAsync(context, Json.StartTransferDocument).ConfigureAwait(false);
        string operation = $"start transfer {transfer.Id} of {transfer.Source}";
        if (start.LengthBytes < transfer.Source.SizeBytes)
        {
            throw new WayleaveException(
                Errno.ERANGE, operation, $"{start.LengthBytes} bytes do not hold {transfer.Source.SizeBytes}");
        }

        CheckStallTimeout(operation, start.StallTimeoutMs);
        TransferTarget target = new(start.Peer.ToEnd(), start.Rkey, start.Va);
        transfer.Start(target, TimeSpan.FromMilliseconds(start.StallTimeoutMs));
        await ControlRequest
            .WriteAsync(context, TransferDocument.From(transfer), Json.TransferDocument).ConfigureAwait(false);
    }

    /// <summary>Cancelled when the client leaves or the host stops; the caller disposes it.</summary>
    private CancellationTokenSource UntilOver(HttpContext context) =>
        CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
}
