namespace Wayleave.Core.Topology;

/// <summary>
/// Works out what the hardware does with the requests of a function: the counterpart of <see cref="PeerPath"/>, which
/// says what the rules allow. The two differ where the rules are only a guess, and then a probe finds it.
/// </summary>
internal sealed class FabricDecoder(PciTopology topology, MemoryWindow[] windows, List<PathTraffic> traffic)
{
    /// <summary>The processor reaches everything at its physical address.</summary>
    public DecodeTable DecodeProcessor(PciFunction processor)
    {
        List<DecodeEntry> root = [];
        foreach (MemoryWindow window in windows)
        {
            if (!window.IsOnBus)
            {
                continue;
            }

            PeerRoute route = window.Owner is null ? RouteTo(window) : PeerRoute.ThroughHostBridge;
            PciFunction[] links = window.Owner is null ? [] : LinksToRoot(window.Owner);
            PathTraffic path = TrafficOf(processor, window.Owner, route, [], links);
            root.Add(new DecodeEntry(window.Range.Start.Value, window.Memory, path));
        }

        return new DecodeTable([], [.. root], null, losesUntranslated: false);
    }

    /// <summary>A function in a tree.</summary>
    /// <param name="client">Who asks.</param>
    /// <param name="domain">What its IOMMU translates, or null when none does.</param>
    public DecodeTable Decode(PciFunction client, IommuDomain? domain)
    {
        List<DecodeEntry> direct = [];
        List<DecodeEntry> root = [];
        HostBridge bridge = client.Root!;
        foreach (MemoryWindow window in windows)
        {
            if (window.Owner is not PciFunction owner)
            {
                PathTraffic path = TrafficOf(client, null, RouteTo(window), LinksToRoot(client), []);
                root.Add(new DecodeEntry(window.Range.Start.Value, window.Memory, path));
            }
            else if (ReferenceEquals(owner, client))
            {
                PathTraffic path = TrafficOf(client, owner, PeerRoute.SameDevice, [], []);
                direct.Add(new DecodeEntry(window.Range.Start.Value + bridge.BusOffset, window.Memory, path));
            }
            else if (!window.IsOnBus)
            {
                continue;
            }
            else if (!bridge.LosesPeerRequests && TryStayBelow(client, owner, out PciFunction? common))
            {
                PathTraffic path = TrafficOf(
                    client, owner, PeerRoute.BusAddress, LinksBelow(client, common!), LinksBelow(owner, common!));
                direct.Add(new DecodeEntry(window.Range.Start.Value + bridge.BusOffset, window.Memory, path));
            }
            else if (Forwards(bridge, owner.Root!))
            {
                PathTraffic path =
                    TrafficOf(client, owner, PeerRoute.ThroughHostBridge, LinksToRoot(client), LinksToRoot(owner));
                root.Add(new DecodeEntry(window.Range.Start.Value, window.Memory, path));
            }
        }

        return new DecodeTable([.. direct], [.. root], domain, bridge.LosesPeerRequests);
    }

    private static PeerRoute RouteTo(MemoryWindow systemMemory) =>
        systemMemory.IsStaging ? PeerRoute.Staging : PeerRoute.HostMemory;

    // A request turns round at the first bridge whose other side has the target, unless a port on the client's side,
    // the turn included, sends peer requests up.
    private static bool TryStayBelow(PciFunction client, PciFunction owner, out PciFunction? common)
    {
        common = null;
        for (PciFunction? node = client; node is not null; node = node.Upstream)
        {
            if (node != client && IsAbove(node, owner))
            {
                common = node;
                return !node.HasAcsRedirect;
            }

            if (node.HasAcsRedirect)
            {
                return false;
            }
        }

        return false;
    }

    private static bool IsAbove(PciFunction node, PciFunction function)
    {
        for (PciFunction? above = function.Upstream; above is not null; above = above.Upstream)
        {
            if (ReferenceEquals(above, node))
            {
                return true;
            }
        }

        return false;
    }

    private bool Forwards(HostBridge client, HostBridge owner) =>
        client.LosesPeerRequests
        || ((client.ForwardsPeerRequests ?? IsTrusted(client, owner))
            && (owner.ForwardsPeerRequests ?? IsTrusted(owner, client)));

    private bool IsTrusted(HostBridge bridge, HostBridge other) =>
        topology.Processor.ForwardsPeerRequests
        || (bridge.Identity is PciFunction identity
            && HostBridgeAllowList.Contains(identity.Id, ReferenceEquals(bridge, other)));

    private static PciFunction[] LinksToRoot(PciFunction function)
    {
        List<PciFunction> links = [];
        for (PciFunction? node = function; node is not null; node = node.Upstream)
        {
            links.Add(node);
        }

        return [.. links];
    }

    private static PciFunction[] LinksBelow(PciFunction function, PciFunction common)
    {
        List<PciFunction> links = [];
        for (PciFunction node = function; !ReferenceEquals(node, common); node = node.Upstream!)
        {
            links.Add(node);
        }

        return [.. links];
    }

    // A path that has not changed goes on counting where it was.
    private PathTraffic TrafficOf(
        PciFunction client, PciFunction? owner, PeerRoute route, PciFunction[] clientLinks, PciFunction[] ownerLinks)
    {
        PathTraffic? path = traffic.Find(p => ReferenceEquals(p.Client, client) && ReferenceEquals(p.Owner, owner)
            && p.Route == route && p.ClientLinks.SequenceEqual(clientLinks) && p.OwnerLinks.SequenceEqual(ownerLinks));
        if (path is null)
        {
            path = new PathTraffic(client, owner, route, clientLinks, ownerLinks);
            traffic.Add(path);
        }

        return path;
    }
}
