namespace Wayleave.Linux;

/// <summary>
/// Which TCP segments the kernel hands to one queue of a <see cref="TapDevice"/>; of several that match, the first
/// decides. Of an address or port, a bit of the mask that is set is compared.
/// </summary>
public readonly record struct TapFlow
{
    /// <summary>IPv4 without options; otherwise IPv6 without extension headers.</summary>
    public bool IsIPv4 { get; init; }

    /// <summary>As on the wire, the first byte the most significant; of IPv4 the low 32 bits.</summary>
    public UInt128 Source { get; init; }

    public UInt128 SourceMask { get; init; }

    /// <summary>As <see cref="Source"/>.</summary>
    public UInt128 Destination { get; init; }

    public UInt128 DestinationMask { get; init; }

    public ushort SourcePort { get; init; }

    public ushort SourcePortMask { get; init; }

    public ushort DestinationPort { get; init; }

    public ushort DestinationPortMask { get; init; }

    /// <summary>0 for the queue that everything comes by that nobody steers.</summary>
    public int Queue { get; init; }
}
