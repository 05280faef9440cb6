using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary>
/// What <c>wayleave cp --explain</c> says: by which way the bytes went at each end, and what that end staged.
/// </summary>
internal sealed class CopyExplanation
{
    private readonly List<TransferEndDocument> _ends = [];

    /// <summary>The host that this process was, with its counters: nobody else used it.</summary>
    public void AddOwn(WayleaveHost host)
    {
        LinksDocument links = LinkReports.Describe(host);
        using (host.Context.Enter())
        {
            RouteDocument route = RouteReports.Explain(
                TopologyView.OfHost(host), host.Gpus[0].Device.Function, host.Nics[0].Device.Function);
            _ends.Add(new TransferEndDocument
            {
                Host = "this process",
                Route = route,
                Links = links,
                StagingBytes = links.StagingBytes,
            });
        }
    }

    /// <summary>A running host, whose first NIC did it.</summary>
    public async Task AddRemoteAsync(ControlClient client, string device, CancellationToken cancellation)
    {
        DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
        await AddRemoteAsync(client, device, devices.Nics[0].Name, null, cancellation).ConfigureAwait(false);
    }

    /// <summary>A running host and the device that did it.</summary>
    public async Task AddRemoteAsync(
        ControlClient client, string device, string by, long? stagingBytes, CancellationToken cancellation)
    {
        RouteDocument route = await client.GetRouteAsync(device, by, cancellation).ConfigureAwait(false);
        _ends.Add(new TransferEndDocument { Host = client.HostName, Route = route, StagingBytes = stagingBytes });
    }

    /// <summary>As a member of another document.</summary>
    public JsonElement ToJson() => JsonSerializer.SerializeToElement(
        new TransferExplanationDocument(_ends), TopologyJson.Default.TransferExplanationDocument);

    /// <summary>For people.</summary>
    public void Write(TextWriter output)
    {
        foreach (TransferEndDocument end in _ends)
        {
            output.WriteLine($"at {end.Host}: {ExplainCommand.Headline(end.Route)}");
            ExplainCommand.WriteDetails(output, end.Route);
            if (end.Links is { } links)
            {
                output.WriteLine();
                LinkTable.Write(links, output);
            }
            else if (end.StagingBytes is { } staged)
            {
                ExplainCommand.WriteStaging(output, staged);
            }
        }
    }
}
