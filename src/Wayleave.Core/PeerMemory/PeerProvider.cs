using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// One memory BAR as peers see it (<c>struct p2pdma_provider</c>): who owns it, and the step from a physical to a bus
/// address. It allocates nothing; the owner of the memory does.
/// </summary>
public sealed class PeerProvider
{
    internal PeerProvider(PeerDevice device, PciBar bar) => (Device, Bar) = (device, bar);

    public PeerDevice Device { get; }

    public PciBar Bar { get; }

    /// <summary>The function whose memory this is.</summary>
    public PciFunction Owner => Device.Function;

    /// <summary>PCI bus address minus physical address, modulo 2^64.</summary>
    public ulong BusOffset => Owner.Root?.BusOffset ?? 0;

    public override string ToString() => Bar.ToString();
}
