using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Wayleave.Core.Topology;
using Wayleave.Host.Topology;

namespace Wayleave.Host.Control;

// GET    /v1/topology                           TopologyDocument
// GET    /v1/routes                             RoutesDocument: every pair of devices
// GET    /v1/routes/OWNER/CLIENT                RouteDocument
// GET    /v1/links                              LinksDocument
// POST   /v1/probes                             StartProbeDocument -> ProbeDocument

/// <summary>What the control server says about paths.</summary>
internal sealed class TopologyEndpoints(WayleaveHost host)
{
    private readonly ProbeService _probes = new(host);

    private static TopologyJson Json => TopologyJson.Default;

    public void Map(IEndpointRouteBuilder routes)
    {
        routes.MapGet("/v1/topology", c => ControlRequest.WriteAsync(
            c, Look(TopologyReports.Describe), Json.TopologyDocument));
        routes.MapGet("/v1/routes", c => ControlRequest.WriteAsync(
            c, Look(v => RouteReports.ExplainAll(v, v.Devices)), Json.RoutesDocument));
        routes.MapGet("/v1/routes/{owner}/{client}", c => ControlRequest.WriteAsync(
            c, Look(v => RouteReports.Explain(v, Find(v, c, "owner"), Find(v, c, "client"))), Json.RouteDocument));
        routes.MapGet("/v1/links", c => ControlRequest.WriteAsync(
            c, LinkReports.Describe(host), Json.LinksDocument));
        routes.MapPost("/v1/probes", ProbeAsync);
    }

    private static PciFunction Find(TopologyView view, HttpContext context, string key) =>
        view.Find((string)context.Request.RouteValues[key]!);

    private T Look<T>(Func<TopologyView, T> describe)
    {
        using (host.Context.Enter())
        {
            return describe(TopologyView.OfHost(host));
        }
    }

    private async Task ProbeAsync(HttpContext context)
    {
        StartProbeDocument start = await ControlRequest
            .ReadAsync(context, Json.StartProbeDocument).ConfigureAwait(false);
        ProbeDocument found = await _probes.RunAsync(start, context.RequestAborted).ConfigureAwait(false);
        await ControlRequest.WriteAsync(context, found, Json.ProbeDocument).ConfigureAwait(false);
    }
}
