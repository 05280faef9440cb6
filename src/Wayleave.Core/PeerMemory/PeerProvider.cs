using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// One memory BAR as peers see it (<c>struct p2pdma_provider</c>): who owns it, and the step from a physical to a bus
/// address. It allocates nothing; the owner of the memory does.
/// </summary>
public sealed class PeerProvider
{
    private const ulong EntryBytesMax = uint.MaxValue & ~(PageRuns.PageBytes - 1);

    internal PeerProvider(PeerDevice device, PciBar bar) => (Device, Bar) = (device, bar);

    public PeerDevice Device { get; }

    public PciBar Bar { get; }

    /// <summary>The function whose memory this is.</summary>
    public PciFunction Owner => Device.Function;

    /// <summary>PCI bus address minus physical address, modulo 2^64.</summary>
    public ulong BusOffset => Owner.Root?.BusOffset ?? 0;

    /// <summary>
    /// Mappings that <see cref="TryMap"/> made and nobody has ended. The provider outlives them, or its owner has
    /// broken the rule that its driver revokes first.
    /// </summary>
    public int MappingCount { get; private set; }

    /// <summary>
    /// What an importer is to put on the bus for ranges of this BAR (<c>dma_buf_phys_vec_to_sgt</c>): for an exporter's
    /// map, without pages. An entry is shorter than 4 GiB.
    /// </summary>
    /// <param name="fabric">Where both are plugged in.</param>
    /// <param name="client">The importer's device.</param>
    /// <param name="physical">Ranges of the BAR.</param>
    /// <param name="addresses">Ends with <see cref="Unmap"/>.</param>
    /// <returns>As <see cref="PciFabric.TryMap"/>; the kernel says EINVAL for a client without a route.</returns>
    public Errno TryMap(
        PciFabric fabric, PciFunction client, DmaAddressList physical, out DmaAddressList? addresses)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(physical);
        Errno errno = fabric.TryMap(client, Split(physical), out addresses);
        MappingCount += errno == Errno.Success ? 1 : 0;
        return errno;
    }

    /// <summary>Ends what <see cref="TryMap"/> made for that client.</summary>
    public void Unmap(PciFabric fabric, PciFunction client, DmaAddressList addresses)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        MappingCount--;
        fabric.Unmap(client, addresses);
    }

    public override string ToString() => Bar.ToString();

    // A scatterlist's length has 32 bits.
    private static DmaAddressList Split(DmaAddressList physical)
    {
        bool isShort = true;
        foreach (DeviceRange range in physical.Entries)
        {
            isShort &= range.LengthBytes <= EntryBytesMax;
        }

        if (isShort)
        {
            return physical;
        }

        List<DeviceRange> parts = [];
        foreach (DeviceRange range in physical.Entries)
        {
            for (ulong done = 0; done < range.LengthBytes; done += EntryBytesMax)
            {
                parts.Add(new DeviceRange(range.Start + done, Math.Min(range.LengthBytes - done, EntryBytesMax)));
            }
        }

        return new DmaAddressList([.. parts]);
    }
}
