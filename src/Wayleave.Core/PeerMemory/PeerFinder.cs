using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Looks for memory that all of several clients can reach (<c>pci_p2pmem_find_many</c>). Host lock held by the caller.
/// </summary>
public static class PeerFinder
{
    /// <summary>
    /// The sum of the distances from a provider to its clients (<c>pci_p2pdma_distance_many</c>). A client that is no
    /// PCI function counts as the nearest one above it. Calculates anew, and renews what the provider has cached.
    /// </summary>
    /// <param name="topology">The trees of both.</param>
    /// <param name="provider">Whose memory it is; it need not offer any.</param>
    /// <param name="clients">Who is to reach it.</param>
    /// <param name="report">
    /// Gets the verdict of every client, in their order: the verbose form, which goes on after a refusal.
    /// </param>
    /// <returns>-1 without clients, with one that has no PCI function above it, or with one that is refused.</returns>
    public static int DistanceMany(
        PciTopology topology,
        PciFunction provider,
        IReadOnlyList<IDeviceNode> clients,
        List<PeerVerdict>? report = null)
    {
        ArgumentNullException.ThrowIfNull(provider);
        ArgumentNullException.ThrowIfNull(clients);
        bool isSupported = clients.Count > 0;
        int sum = 0;
        foreach (IDeviceNode client in clients)
        {
            if (PeerPath.FindFunction(client) is not PciFunction function)
            {
                string refusal = $"{client.Name} is not a PCI device";
                report?.Add(new PeerVerdict(PeerMapType.NotSupported, -1, PeerObstacle.NotPci, [], refusal));
                return -1;
            }

            PeerVerdict verdict = Calculate(topology, provider, function);
            report?.Add(verdict);
            isSupported &= verdict.IsSupported;
            if (!isSupported && report is null)
            {
                return -1;
            }

            sum += verdict.Distance;
        }

        return isSupported ? sum : -1;
    }

    /// <summary>
    /// The published pool that is nearest to all clients together; among equals a random one, so that no device gets
    /// all the traffic.
    /// </summary>
    /// <param name="topology">Where to look.</param>
    /// <param name="clients">Who is to reach it.</param>
    /// <param name="random">Asked once, and only when there is more than one.</param>
    /// <returns>Null when nobody offers memory that all can reach.</returns>
    public static PeerPool? FindMany(
        PciTopology topology, IReadOnlyList<IDeviceNode> clients, IRandomChoice random)
    {
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(clients);
        ArgumentNullException.ThrowIfNull(random);
        List<PeerPool> nearest = [];
        int distance = int.MaxValue;
        foreach (PciFunction function in topology.Functions)
        {
            if (function.PeerDevice?.Pool is not { IsPublished: true } pool)
            {
                continue;
            }

            int own = DistanceMany(topology, function, clients);
            if (own < 0 || own > distance)
            {
                continue;
            }

            if (own < distance)
            {
                nearest.Clear();
                distance = own;
            }

            nearest.Add(pool);
        }

        if (nearest.Count <= 1)
        {
            return nearest.Count == 0 ? null : nearest[0];
        }

        // The functions come in no order; the same answer of the generator is to mean the same device.
        nearest.Sort((a, b) => a.Device.Function.Address.CompareTo(b.Device.Function.Address));
        return nearest[random.Next(nearest.Count)];
    }

    // A route that was seen to fail is refused, whatever the rules say.
    private static PeerVerdict Calculate(PciTopology topology, PciFunction provider, PciFunction client)
    {
        if (provider.PeerDevice is not PeerDevice device)
        {
            return PeerPath.Calculate(topology, provider, client);
        }

        device.Recalculate(client);
        return device.VerdictFor(client);
    }
}
