namespace Wayleave.Core.Topology;

/// <summary>How near two functions are, in the terms of <c>nvidia-smi topo -m</c>; nearest first.</summary>
public enum PeerProximity
{
    /// <summary>The same function (X).</summary>
    Self,

    /// <summary>At most one bridge, or one switch, between them (PIX).</summary>
    OneBridge,

    /// <summary>Several bridges or switches, but not the host bridge (PXB).</summary>
    SeveralBridges,

    /// <summary>The host bridge they have in common (PHB).</summary>
    HostBridge,

    /// <summary>Two host bridges of one NUMA node (NODE).</summary>
    NumaNode,

    /// <summary>The interconnect between two NUMA nodes (SYS).</summary>
    System,
}

/// <summary>Where two functions meet.</summary>
public static class PeerProximities
{
    // Two devices at two ports of one switch: device, port, upstream port, port, device.
    private const int HopsOfOneSwitch = 4;

    /// <summary>How near the two are; null when one of them is in no tree.</summary>
    public static PeerProximity? Between(PciFunction one, PciFunction other)
    {
        ArgumentNullException.ThrowIfNull(one);
        ArgumentNullException.ThrowIfNull(other);
        if (one.Root is not HostBridge bridge || other.Root is not HostBridge otherBridge)
        {
            return null;
        }

        if (ReferenceEquals(one, other))
        {
            return PeerProximity.Self;
        }

        if (FindCommon(one, other, out int hops) is not null)
        {
            return hops <= HopsOfOneSwitch ? PeerProximity.OneBridge : PeerProximity.SeveralBridges;
        }

        return ReferenceEquals(bridge, otherBridge) ? PeerProximity.HostBridge
            : bridge.NumaNode == otherBridge.NumaNode ? PeerProximity.NumaNode
            : PeerProximity.System;
    }

    /// <summary>
    /// The functions on the way between two, both included, in order; the host bridges of a way through them are not
    /// functions and not among them.
    /// </summary>
    /// <param name="from">In a tree.</param>
    /// <param name="to">In a tree.</param>
    public static IReadOnlyList<PciFunction> Way(PciFunction from, PciFunction to)
    {
        ArgumentNullException.ThrowIfNull(from);
        ArgumentNullException.ThrowIfNull(to);
        PciFunction? common = FindCommon(from, to, out _);
        List<PciFunction> way = [];
        for (PciFunction? node = from; node is not null && !ReferenceEquals(node, common); node = node.Upstream)
        {
            way.Add(node);
        }

        if (common is not null)
        {
            way.Add(common);
        }

        int turn = way.Count;
        for (PciFunction? node = to; node is not null && !ReferenceEquals(node, common); node = node.Upstream)
        {
            way.Insert(turn, node);
        }

        return way;
    }

    private static PciFunction? FindCommon(PciFunction one, PciFunction other, out int hops)
    {
        int up = 0;
        for (PciFunction? node = one; node is not null; node = node.Upstream, up++)
        {
            int down = 0;
            for (PciFunction? candidate = other; candidate is not null; candidate = candidate.Upstream, down++)
            {
                if (ReferenceEquals(node, candidate))
                {
                    hops = up + down;
                    return node;
                }
            }
        }

        hops = 0;
        return null;
    }
}
