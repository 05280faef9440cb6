using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Resources;

namespace Wayleave.Host.Control;

// GET    /v1/resources                       ResourcesDocument
// POST   /v1/resources                       AddResourceDocument -> a stream of ResourceEventDocument
// POST   /v1/resources/DEVICE/NAME/remove    RemoveResourceDocument -> ProofDocument
//
// The stream is the handle: whoever holds it may die, and then everybody who uses the resource is told to stop.

/// <summary>Ranges of device memory that are lent by a handle.</summary>
internal sealed class ResourceEndpoints(
    WayleaveHost host, ControlListenerOptions options, CancellationToken stopping)
{
    private const int NamesMax = 64;

    private static ControlJson Json => ControlJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapGet(
            "/v1/resources",
            c => ControlRequest.WriteAsync(c, ResourceReports.Describe(host), Json.ResourcesDocument));
        routes.MapPost("/v1/resources", AddAsync);
        routes.MapPost("/v1/resources/{device}/{name}/remove", RemoveAsync);
    }

    private async Task AddAsync(HttpContext context)
    {
        AddResourceDocument add = await ControlRequest
            .ReadAsync(context, Json.AddResourceDocument).ConfigureAwait(false);
        if (add.Device is null == (add.Near.Count == 0) || add.Near.Count > NamesMax || add.Imports.Count > NamesMax
            || add.SizeBytes is 0 or > long.MaxValue)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                $"lend {add.Name}",
                $"it takes a positive size, a device or those that are to be near, and at most {NamesMax} names");
        }

        ResourceRequest request = new(add.Name, add.SizeBytes, Doorkeeper.Describe(context))
        {
            Device = add.Device,
            Near = add.Near,
            Imports = [.. add.Imports.Select(i => new ResourceImportRequest(i.Nic, i.SizeBytes))],
        };
        ResourceGrant grant = await host.Resources.AddAsync(request).ConfigureAwait(false);
        try
        {
            using CancellationTokenSource over =
                CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, stopping);
            EventStream stream = new(context.Response);
            await new ResourceFeed(host, grant, options, stream).RunAsync(over.Token).ConfigureAwait(false);
        }
        finally
        {
            await host.Resources.EndAsync(grant).ConfigureAwait(false);
        }
    }

    private async Task RemoveAsync(HttpContext context)
    {
        (string device, string name) = ControlRequest.ReadName(context);
        RemoveResourceDocument remove = await ControlRequest
            .ReadAsync(context, Json.RemoveResourceDocument).ConfigureAwait(false);
        if (remove.TimeoutMs is < 0 or > ControlEndpoints.RevokeTimeoutMsMax)
        {
            throw new WayleaveException(
                Errno.EINVAL,
                $"remove {device}/{name}",
                $"timeout_ms is {remove.TimeoutMs}; 0 to {ControlEndpoints.RevokeTimeoutMsMax} are allowed");
        }

        RevokePolicy policy = new()
        {
            Timeout = TimeSpan.FromMilliseconds(remove.TimeoutMs),
            Reason = remove.Reason ?? $"removed by {Doorkeeper.Describe(context)}",
        };
        RetirementProof proof = await host.Resources.RemoveAsync(device, name, policy).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, ProofDocument.From(proof), Json.ProofDocument).ConfigureAwait(false);
    }
}
