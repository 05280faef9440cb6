namespace Wayleave.Core.Topology;

// The rules of calc_map_type_and_dist, which looks only at bridges (never at the IOMMU, whose mode changes what an
// address means and not whether the kernel lets it be used):
//
//   up from the provider, up from the client, to the first node on both ways
//   ACS redirect counts on every node of the provider's way, the common one included, and on the client's way below it
//   common node, no redirect      -> bus address
//   otherwise the host bridge     -> through it, if the processor or the allow list says so
//
// A provider's way that meets no common node is looked at up to the root.

/// <summary>What the rules say about the path from a client to a provider's memory.</summary>
public static class PeerPath
{
    /// <summary>
    /// Calculates; asks no cache and writes none. Both in the trees of <paramref name="topology"/>, else the verdict
    /// says so.
    /// </summary>
    public static PeerVerdict Calculate(PciTopology topology, PciFunction provider, PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(provider);
        ArgumentNullException.ThrowIfNull(client);
        if (provider.Root is null || client.Root is null)
        {
            PciFunction absent = provider.Root is null ? provider : client;
            string message = $"{absent} is not plugged in";
            return new PeerVerdict(PeerMapType.NotSupported, -1, PeerObstacle.NotPci, [absent], message);
        }

        List<PciFunction>? redirects = null;
        int up = 0;
        for (PciFunction? node = provider; node is not null; node = node.Upstream, up++)
        {
            NoteRedirect(node, ref redirects);
            int down = 0;
            for (PciFunction? other = client; other is not null; other = other.Upstream, down++)
            {
                if (ReferenceEquals(node, other))
                {
                    return BelowBridge(topology, provider, client, node, up + down, redirects);
                }
            }
        }

        int distance = up;
        for (PciFunction? node = client; node is not null; node = node.Upstream)
        {
            distance++;
        }

        return ThroughHost(topology, provider, client, distance, redirects, PeerObstacle.NoCommonBridge);
    }

    /// <summary>
    /// The nearest function up the device tree (<c>find_parent_pci_dev</c>), the device itself included; null for a
    /// device that is on no PCI bus.
    /// </summary>
    public static PciFunction? FindFunction(IDeviceNode device)
    {
        for (IDeviceNode? node = device; node is not null; node = node.ParentDevice)
        {
            if (node is PciFunction function)
            {
                return function;
            }
        }

        return null;
    }

    private static PeerVerdict BelowBridge(
        PciTopology topology,
        PciFunction provider,
        PciFunction client,
        PciFunction common,
        int distance,
        List<PciFunction>? redirects)
    {
        for (PciFunction node = client; !ReferenceEquals(node, common); node = node.Upstream!)
        {
            NoteRedirect(node, ref redirects);
        }

        return redirects is null
            ? new PeerVerdict(PeerMapType.BusAddress, distance, PeerObstacle.None, [], "")
            : ThroughHost(topology, provider, client, distance, redirects, PeerObstacle.AcsRedirect);
    }

    private static PeerVerdict ThroughHost(
        PciTopology topology,
        PciFunction provider,
        PciFunction client,
        int distance,
        List<PciFunction>? redirects,
        PeerObstacle obstacle)
    {
        IReadOnlyList<PciFunction> at = obstacle == PeerObstacle.AcsRedirect ? redirects! : [];
        string refusal =
            topology.Processor.ForwardsPeerRequests ? "" : DescribeHostRefusal(provider.Root!, client.Root!);
        if (refusal.Length == 0)
        {
            return new PeerVerdict(PeerMapType.ThroughHostBridge, distance, obstacle, at, "");
        }

        string why = obstacle == PeerObstacle.AcsRedirect
            ? $"ACS redirect at {string.Join(", ", at)} sends peer requests to the host bridge"
            : $"{provider.Name} and {client.Name} have no bridge in common below the host bridge";
        return new PeerVerdict(PeerMapType.NotSupported, distance, obstacle, at, $"{why}, and {refusal}");
    }

    // host_bridge_whitelist: one bridge has to be listed, two bridges have to be listed both and without a condition.
    private static string DescribeHostRefusal(HostBridge provider, HostBridge client)
    {
        bool isSame = ReferenceEquals(provider, client);
        string refusal = DescribeHostRefusal(provider, isSame);
        return refusal.Length == 0 && !isSame ? DescribeHostRefusal(client, isSame) : refusal;
    }

    private static string DescribeHostRefusal(HostBridge bridge, bool isSameBridge)
    {
        if (bridge.Identity is not PciFunction identity)
        {
            return $"the first function of {bridge} is neither 00.0 nor a root port: the allow list does not know it";
        }

        if (HostBridgeAllowList.Contains(identity.Id, isSameBridge))
        {
            return "";
        }

        return HostBridgeAllowList.IsSameBridgeOnly(identity.Id)
            ? $"host bridge {bridge} ({identity.Id}) is on the allow list only for two devices below itself"
            : $"host bridge {bridge} ({identity.Id}) is not on the allow list";
    }

    private static void NoteRedirect(PciFunction node, ref List<PciFunction>? redirects)
    {
        if (node.HasAcsRedirect)
        {
            (redirects ??= []).Add(node);
        }
    }
}
