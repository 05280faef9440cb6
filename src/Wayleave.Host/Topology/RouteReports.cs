using Wayleave.Core.Topology;

namespace Wayleave.Host.Topology;

/// <summary>
/// Says how a device reaches another's memory, and if it does not, why and what would change it. Under the host lock
/// for a running host.
/// </summary>
public static class RouteReports
{
    // lspci -vvv: bit for bit as it prints them.
    private static readonly (AcsControl Bit, string Name)[] s_redirects =
    [
        (AcsControl.RequestRedirect, "ReqRedir+"),
        (AcsControl.CompletionRedirect, "CmpltRedir+"),
        (AcsControl.EgressControl, "EgressCtrl+"),
    ];

    /// <summary>The letters of <c>nvidia-smi topo -m</c>.</summary>
    public static string Letters(PeerProximity? proximity) => proximity switch
    {
        PeerProximity.Self => "X",
        PeerProximity.OneBridge => "PIX",
        PeerProximity.SeveralBridges => "PXB",
        PeerProximity.HostBridge => "PHB",
        PeerProximity.NumaNode => "NODE",
        PeerProximity.System => "SYS",
        _ => "-",
    };

    /// <summary>Every ordered pair of different functions.</summary>
    public static RoutesDocument ExplainAll(TopologyView view, IReadOnlyList<PciFunction> devices)
    {
        ArgumentNullException.ThrowIfNull(view);
        ArgumentNullException.ThrowIfNull(devices);
        return new RoutesDocument
        {
            Source = view.Source,
            Devices = [.. devices.Select(d => d.Name)],
            Routes =
            [
                .. devices.SelectMany(o => devices.Where(c => !ReferenceEquals(c, o)).Select(c => Explain(view, o, c))),
            ],
            Notes = view.Notes,
        };
    }

    /// <summary>How <paramref name="client"/> reaches memory of <paramref name="owner"/>.</summary>
    public static RouteDocument Explain(TopologyView view, PciFunction owner, PciFunction client)
    {
        ArgumentNullException.ThrowIfNull(view);
        ArgumentNullException.ThrowIfNull(owner);
        ArgumentNullException.ThrowIfNull(client);
        PeerVerdict rules = PeerPath.Calculate(view.Topology, owner, client);
        PeerVerdict verdict = owner.PeerDevice?.VerdictFor(client) ?? rules;
        bool? offers = owner.PeerDevice is not null ? true : view.FactsOf(owner).OffersMemory;
        return new RouteDocument
        {
            Owner = owner.Name,
            OwnerAddress = owner.Address.ToString(),
            Client = client.Name,
            ClientAddress = client.Address.ToString(),
            Supported = verdict.IsSupported,
            MapType = verdict.MapType,
            Distance = verdict.Distance,
            Proximity = Letters(PeerProximities.Between(owner, client)),
            Path = DescribePath(owner, client, verdict),
            OffersMemory = offers,
            Obstacle = verdict.Obstacle,
            ObstacleAt = DescribeObstacle(owner, client, verdict),
            Refusal = verdict.Refusal.Length == 0 ? null : verdict.Refusal,
            Remedy = verdict.IsSupported ? null : DescribeRemedy(owner, client, verdict),
            Notes = [.. Notes(view, owner, client, verdict, rules, offers)],
        };
    }

    private static IReadOnlyList<string> DescribePath(PciFunction owner, PciFunction client, PeerVerdict verdict)
    {
        if (owner.Root is not HostBridge top || client.Root is not HostBridge bottom)
        {
            return [];
        }

        bool goesUp = verdict.Obstacle is PeerObstacle.NoCommonBridge or PeerObstacle.AcsRedirect;
        if (!goesUp)
        {
            return [.. PeerProximities.Way(client, owner).Select(f => f.Name)];
        }

        List<string> path = [.. ToRoot(client), bottom.Name];
        if (!ReferenceEquals(top, bottom))
        {
            path.Add(top.Name);
        }

        return [.. path, .. ToRoot(owner).Reverse()];
    }

    private static IEnumerable<string> ToRoot(PciFunction function)
    {
        for (PciFunction? node = function; node is not null; node = node.Upstream)
        {
            yield return node.Name;
        }
    }

    // The first object in the way, as a reader who has to change something would look for it.
    private static string? DescribeObstacle(PciFunction owner, PciFunction client, PeerVerdict verdict) =>
        verdict.Obstacle switch
        {
            PeerObstacle.AcsRedirect => $"{verdict.ObstacleAt[0]}: {Redirects(verdict.ObstacleAt[0])}",
            PeerObstacle.NoCommonBridge when !verdict.IsSupported => DescribeHostBridge(RefusedBridge(owner, client)),
            PeerObstacle.FailedProbe => $"{client} to {owner}: a probe failed",
            PeerObstacle.NotPci or PeerObstacle.NoProvider => verdict.ObstacleAt[0].ToString(),
            _ => null,
        };

    private static string DescribeHostBridge(HostBridge bridge) => bridge.Identity is { } identity
        ? $"{bridge} ({identity.Id}): not on the allow list for this pair"
        : $"{bridge}: its first function is neither 00.0 nor a root port";

    // host_bridge_whitelist asks the provider's bridge first.
    private static HostBridge RefusedBridge(PciFunction owner, PciFunction client)
    {
        HostBridge bridge = owner.Root!;
        bool isSame = ReferenceEquals(bridge, client.Root);
        bool isListed = bridge.Identity is { } identity && HostBridgeAllowList.Contains(identity.Id, isSame);
        return isListed && !isSame ? client.Root! : bridge;
    }

    private static string DescribeRemedy(PciFunction owner, PciFunction client, PeerVerdict verdict)
    {
        const string Known = "a processor (AMD since family 17h) or a host bridge that is known to forward";
        switch (verdict.Obstacle)
        {
            case PeerObstacle.AcsRedirect:
                string ports = string.Join(';', verdict.ObstacleAt.Select(p => p.Address));
                string names = string.Join(", ", verdict.ObstacleAt.Select(p => p.Name));
                return $"clear the redirect at {names} (Linux: pci=disable_acs_redir={ports}; in a configuration: its "
                    + "\"acs\"), which also ends the isolation that it gives; or use " + Known;
            case PeerObstacle.NoCommonBridge:
                return $"put {owner.Name} and {client.Name} below one switch, or use {Known}";
            case PeerObstacle.FailedProbe:
                return $"after a repair: wayleave probe {owner.Name} {client.Name} --again";
            case PeerObstacle.NoProvider:
                return $"nothing: {owner.Name} has no memory that peers could reach";
            default:
                return $"plug {verdict.ObstacleAt[0].Name} in";
        }
    }

    private static IEnumerable<string> Notes(
        TopologyView view,
        PciFunction owner,
        PciFunction client,
        PeerVerdict verdict,
        PeerVerdict rules,
        bool? offersMemory)
    {
        if (offersMemory == false)
        {
            yield return $"{owner.Name} offers no memory to peers: there is nothing to map";
        }

        if (verdict.Obstacle != PeerObstacle.FailedProbe && verdict.MapType != rules.MapType)
        {
            yield return "the tree has changed since this was calculated; as in Linux it stays until the owner's "
                + "driver lets go";
        }

        if (verdict.MapType == PeerMapType.BusAddress && client.Root is { Iommu: IommuMode.Strict })
        {
            yield return "a bus address passes below a strict IOMMU; virtual machines are known to lose such requests: "
                + "wayleave probe tries it";
        }

        if (owner.Root is not null && client.Root is not null)
        {
            string[] unknown =
            [
                .. PeerProximities.Way(client, owner).Where(f => !view.FactsOf(f).IsAcsKnown)
                    .Select(f => f.Address.ToString()),
            ];
            if (unknown.Length > 0)
            {
                yield return $"ACS of {string.Join(", ", unknown)} is not known and was taken to redirect nothing; run "
                    + "as root";
            }
        }
    }

    private static string Redirects(PciFunction function) =>
        string.Join(' ', s_redirects.Where(r => function.Acs?.HasFlag(r.Bit) == true).Select(r => r.Name));
}
