using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Host.Compute;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Control;

// POST   /v1/contexts/ID/regions                     RegisterRegionDocument -> RegionDocument
// GET    /v1/contexts/ID/regions/REGION              RegionDocument
// DELETE /v1/contexts/ID/regions/REGION              RegionDocument, as it was
// POST   /v1/contexts/ID/regions/REGION/reregister   ReregisterRegionDocument -> RegionDocument
// POST   /v1/contexts/ID/regions/REGION/prefetch     PrefetchDocument -> RegionDocument
// POST   /v1/contexts/ID/connections                 ConnectContextDocument -> ConnectionEndDocument
// DELETE /v1/contexts/ID/connections/NUMBER?nic=NAME ContextDocument; by the number of the host's end
//
// Regions and connections are tied to the stream of their context.

/// <summary>Memory of clients that peers reach.</summary>
internal sealed class RegionEndpoints(WayleaveHost host)
{
    private static ControlJson Json => ControlJson.Default;

    private RegionService Regions => host.Compute.Regions;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapPost("/v1/contexts/{id}/regions", RegisterAsync);
        routes.MapGet("/v1/contexts/{id}/regions/{region}", GetAsync);
        routes.MapDelete("/v1/contexts/{id}/regions/{region}", DeregisterAsync);
        routes.MapPost("/v1/contexts/{id}/regions/{region}/reregister", ReregisterAsync);
        routes.MapPost("/v1/contexts/{id}/regions/{region}/prefetch", PrefetchAsync);
        routes.MapPost("/v1/contexts/{id}/connections", ConnectAsync);
        routes.MapDelete("/v1/contexts/{id}/connections/{number}", DisconnectAsync);
    }

    private async Task RegisterAsync(HttpContext http)
    {
        ComputeContext context = FindContext(http);
        RegisterRegionDocument register = await ControlRequest
            .ReadAsync(http, Json.RegisterRegionDocument).ConfigureAwait(false);
        ContextRegionRequest request = new(
            register.Nic, register.Kind, register.Handle, register.Access, register.OffsetBytes, register.LengthBytes)
        {
            Domain = register.Domain,
            IsCached = register.Cached,
        };
        await WriteAsync(http, await Regions.RegisterAsync(context, request).ConfigureAwait(false))
            .ConfigureAwait(false);
    }

    private Task GetAsync(HttpContext http) => WriteAsync(http, FindRegion(http));

    private async Task DeregisterAsync(HttpContext http)
    {
        ContextRegion region = FindRegion(http);
        RegionDocument last = Describe(region);
        await Regions.EndAsync(region).ConfigureAwait(false);
        await ControlRequest.WriteAsync(http, last, Json.RegionDocument).ConfigureAwait(false);
    }

    private async Task ReregisterAsync(HttpContext http)
    {
        ContextRegion region = FindRegion(http);
        ReregisterRegionDocument change = await ControlRequest
            .ReadAsync(http, Json.ReregisterRegionDocument).ConfigureAwait(false);
        await Regions.ReregisterAsync(region, new ContextRegionChange(
            (RegionChange)change.Flags,
            change.Domain,
            change.Access,
            change.Handle,
            change.OffsetBytes,
            change.LengthBytes)).ConfigureAwait(false);
        await WriteAsync(http, region).ConfigureAwait(false);
    }

    private async Task PrefetchAsync(HttpContext http)
    {
        ContextRegion region = FindRegion(http);
        PrefetchDocument prefetch = await ControlRequest.ReadAsync(http, Json.PrefetchDocument).ConfigureAwait(false);
        AdviceKind kind = prefetch.Write ? AdviceKind.PrefetchWrite : AdviceKind.Prefetch;
        await Regions.PrefetchAsync(region, kind, prefetch.Va, prefetch.LengthBytes).ConfigureAwait(false);
        await WriteAsync(http, region).ConfigureAwait(false);
    }

    private async Task ConnectAsync(HttpContext http)
    {
        ComputeContext context = FindContext(http);
        ConnectContextDocument connect = await ControlRequest
            .ReadAsync(http, Json.ConnectContextDocument).ConfigureAwait(false);
        ConnectionEnd local = Regions.Connect(context, connect.Nic, connect.Peer.ToEnd(), connect.Domain);
        await ControlRequest.WriteAsync(http, ConnectionEndDocument.From(local), Json.ConnectionEndDocument)
            .ConfigureAwait(false);
    }

    private Task DisconnectAsync(HttpContext http)
    {
        ComputeContext context = FindContext(http);
        ulong number = ControlRequest.ReadNumber(http, "number");
        string? nic = http.Request.Query["nic"] is [{ } name] ? name : null;
        Regions.Disconnect(context, nic, number <= uint.MaxValue ? (uint)number : 0);
        return ControlRequest.WriteAsync(http, ContextDocument.From(context), Json.ContextDocument);
    }

    private ComputeContext FindContext(HttpContext http) => host.Compute.Find(ControlRequest.ReadId(http));

    private ContextRegion FindRegion(HttpContext http) =>
        Regions.Find(FindContext(http), ControlRequest.ReadNumber(http, "region"));

    private Task WriteAsync(HttpContext http, ContextRegion region) =>
        ControlRequest.WriteAsync(http, Describe(region), Json.RegionDocument);

    private RegionDocument Describe(ContextRegion region)
    {
        using (host.Context.Enter())
        {
            return RegionDocument.From(region);
        }
    }
}
