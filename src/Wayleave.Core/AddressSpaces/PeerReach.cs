using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// For a driver whose private pages are part of a BAR: whether, and where, another device reaches one
/// (<see cref="IPeerReachableMemory.TryGetPeerAddress"/>).
/// </summary>
/// <param name="fabric">Where both devices are plugged in.</param>
/// <param name="owner">The device whose BAR has the pages.</param>
public sealed class PeerReach(PciFabric fabric, PciFunction owner)
{
    /// <summary>
    /// The address that <paramref name="client"/> puts on the bus for a page.
    /// </summary>
    /// <returns>
    /// False when the page is in no BAR; when the rules allow no route; when the client is behind an IOMMU that
    /// translates, because then an address would have to be made and given back for each page.
    /// </returns>
    public bool TryGetAddress(PageFrame frame, PciFunction client, out DeviceAddress address)
    {
        ArgumentNullException.ThrowIfNull(frame);
        ArgumentNullException.ThrowIfNull(client);
        address = default;
        if (frame.Address.Value == 0 || client.Root is null or { Iommu: IommuMode.Strict })
        {
            return false;
        }

        PeerVerdict verdict = PeerPath.Calculate(fabric.Topology, owner, client);
        if (!verdict.IsSupported)
        {
            return false;
        }

        bool isOnBus = verdict.MapType == PeerMapType.BusAddress;
        address = isOnBus ? frame.Address + (owner.Root?.BusOffset ?? 0) : frame.Address;
        return true;
    }
}
