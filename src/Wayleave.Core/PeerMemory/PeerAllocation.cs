using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Memory that was taken from a <see cref="PeerPool"/> (<c>pci_alloc_p2pmem</c>). It keeps the provider's driver from
/// letting go until <see cref="PeerPool.Free"/>.
/// </summary>
public sealed class PeerAllocation
{
    internal PeerAllocation(PeerPool.Chunk chunk, ulong firstPage, ulong pages, ulong sizeBytes, string holder)
    {
        (Chunk, FirstPage, Pages, SizeBytes, Holder) = (chunk, firstPage, pages, sizeBytes, holder);
        DeviceAddress start = chunk.Range.Start + (firstPage * PageRuns.PageBytes);
        Range = new DeviceRange(start, pages * PageRuns.PageBytes);
        Addresses = new DmaAddressList([Range]);
    }

    /// <summary>Physical addresses, whole pages.</summary>
    public DeviceRange Range { get; }

    /// <summary>
    /// The same as a list of one entry (<c>pci_p2pmem_alloc_sgl</c>), for <see cref="PciFabric.TryMap"/>.
    /// </summary>
    public DmaAddressList Addresses { get; }

    /// <summary>What was asked for.</summary>
    public ulong SizeBytes { get; }

    /// <summary>Who has it, for people: an unbind that waits names it.</summary>
    public string Holder { get; }

    public bool IsFreed { get; internal set; }

    internal PeerPool.Chunk Chunk { get; }

    internal ulong FirstPage { get; }

    internal ulong Pages { get; }

    public override string ToString() => $"{Range} of {Holder}";
}
