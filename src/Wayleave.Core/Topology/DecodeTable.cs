namespace Wayleave.Core.Topology;

// Where a request of one function ends:
//
//   on the bus below the root complex   direct entries, by bus address: its own BARs, and those of functions that a
//                                       common bridge reaches without an ACS redirect on the way
//   everything else goes up             strict IOMMU: translated or faulted; otherwise it is the physical address
//   at the root complex                 root entries, by physical address: system memory, and BARs if
//                                       the hardware forwards
//   nothing answers                     master abort
//
// Made by PciFabric whenever a window, a bridge or an ACS bit changes; immutable; read by engines without a lock.

/// <summary>What answers the requests of one function.</summary>
internal sealed class DecodeTable(
    DecodeEntry[] direct, DecodeEntry[] root, IommuDomain? iommu, bool losesUntranslated)
{
    private readonly byte[]? _void = losesUntranslated ? new byte[1 << 16] : null;

    /// <summary>
    /// Whether every address of the entry ends there for as long as this is the table of its function.
    /// </summary>
    public bool IsFixed(DecodeEntry entry)
    {
        foreach (DecodeEntry other in direct)
        {
            if (!ReferenceEquals(other, entry)
                && other.Start - entry.Start < entry.LengthBytes | entry.Start - other.Start < other.LengthBytes)
            {
                return false;
            }
        }

        return iommu is null;
    }

    /// <summary>What is at an address, and how many bytes follow it there.</summary>
    /// <returns>False when nothing answers.</returns>
    public bool TryDecode(ulong address, out DecodeEntry? entry, out Memory<byte> memory)
    {
        foreach (DecodeEntry candidate in direct)
        {
            ulong offset = address - candidate.Start;
            if (offset < candidate.LengthBytes)
            {
                entry = candidate;
                memory = candidate.Memory[(int)offset..];
                return true;
            }
        }

        ulong physical = address;
        ulong contiguous = ulong.MaxValue;
        if (iommu is not null && !iommu.TryTranslate(address, out physical, out contiguous))
        {
            entry = null;
            memory = _void;
            return _void is not null;
        }

        foreach (DecodeEntry candidate in root)
        {
            ulong offset = physical - candidate.Start;
            if (offset < candidate.LengthBytes)
            {
                entry = candidate;
                memory = candidate.Memory.Slice((int)offset, (int)Math.Min(candidate.LengthBytes - offset, contiguous));
                return true;
            }
        }

        entry = null;
        memory = default;
        return false;
    }
}

/// <summary>One window as one function reaches it.</summary>
internal sealed class DecodeEntry(ulong start, Memory<byte> memory, PathTraffic traffic)
{
    public ulong Start { get; } = start;

    public ulong LengthBytes { get; } = (ulong)memory.Length;

    public Memory<byte> Memory { get; } = memory;

    public PathTraffic Traffic { get; } = traffic;
}
