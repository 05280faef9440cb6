using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary>The counters of a fabric as a document. Takes the host lock.</summary>
public static class LinkReports
{
    /// <summary>
    /// What has crossed the links of a host. Counters that run on meanwhile may differ by what is in flight.
    /// </summary>
    public static LinksDocument Describe(WayleaveHost host)
    {
        ArgumentNullException.ThrowIfNull(host);
        using (host.Context.Enter())
        {
            PciFabric fabric = host.Fabric;
            Dictionary<PciFunction, LinkTraffic> traffic = fabric.LinkTraffic().ToDictionary(l => l.Function);
            List<LinkDocument> links = [];
            foreach (HostBridge bridge in fabric.Topology.HostBridges.OrderBy(b => b.Domain).ThenBy(b => b.RootBus))
            {
                AddLinks(links, traffic, bridge.Below, bridge.Name, 0);
            }

            return new LinksDocument
            {
                Host = host.Config.Name,
                UptimeUs = (long)host.Context.Now.TotalMicroseconds,
                Links = links,
                Paths =
                [
                    .. fabric.Traffic.Where(p => p.ReadBytes != 0 || p.WrittenBytes != 0)
                        .OrderBy(p => p.Client.Address).ThenBy(p => p.Owner?.Address).ThenBy(p => p.Route)
                        .Select(p => new PathDocument(
                            p.Client.Name, p.Owner?.Name, p.Route, p.ReadBytes, p.WrittenBytes)),
                ],
                StagingBytes = host.StagedBytes
                    + fabric.Traffic.Where(p => p.Route == PeerRoute.Staging).Sum(p => p.WrittenBytes),
                IommuFaults = fabric.Topology.Functions.Sum(fabric.IommuFaults),
            };
        }
    }

    private static void AddLinks(
        List<LinkDocument> links,
        Dictionary<PciFunction, LinkTraffic> traffic,
        IReadOnlyList<PciFunction> functions,
        string above,
        int depth)
    {
        foreach (PciFunction function in functions)
        {
            LinkTraffic link = traffic.GetValueOrDefault(function);
            links.Add(new LinkDocument(
                function.Name, function.Address.ToString(), above, depth, link.UpBytes, link.DownBytes));
            if (function is PciBridge bridge)
            {
                AddLinks(links, traffic, bridge.Below, bridge.Name, depth + 1);
            }
        }
    }
}
