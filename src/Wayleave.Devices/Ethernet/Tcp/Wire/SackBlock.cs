using System.Runtime.CompilerServices;

namespace Wayleave.Devices.Ethernet.Tcp.Wire;

/// <summary>
/// A block of RFC 2018: the bytes from <paramref name="Left"/> up to, but without, <paramref name="Right"/>.
/// </summary>
public readonly record struct SackBlock(uint Left, uint Right)
{
    /// <summary>Bytes of a block in the option.</summary>
    public const int Size = 8;
}

/// <summary>Up to four blocks, as many as fit into the options of a segment.</summary>
[InlineArray(CountMax)]
public struct SackBlocks
{
    /// <summary>RFC 2018 section 3: 40 bytes of options hold four; three beside timestamps.</summary>
    public const int CountMax = 4;

    private SackBlock _first;
}
