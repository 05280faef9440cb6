using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>
/// What an importer gets from a map: device addresses and lengths, in order, and never pages (an <c>sg_table</c> whose
/// <c>orig_nents</c> is zero). Immutable.
/// </summary>
public sealed class DmaAddressList
{
    private readonly DeviceRange[] _entries;
    private readonly ulong[] _offsets;

    /// <summary>Copies <paramref name="entries"/>; their lengths add up to the length of the mapped buffer.</summary>
    public DmaAddressList(ReadOnlySpan<DeviceRange> entries)
    {
        _entries = entries.ToArray();
        _offsets = new ulong[_entries.Length];
        ulong offset = 0;
        for (int i = 0; i < _entries.Length; i++)
        {
            _offsets[i] = offset;
            offset += _entries[i].LengthBytes;
        }

        LengthBytes = offset;
    }

    public ReadOnlySpan<DeviceRange> Entries => _entries;

    public ulong LengthBytes { get; }

    /// <summary>
    /// Of a physical list: what a map last made of it, for as long as the storage is where this list says
    /// (<see cref="PciFabric.TryMap"/>). Host lock held.
    /// </summary>
    internal DmaAddressList? LastMapped { get; set; }

    /// <summary>
    /// Where byte <paramref name="offset"/> of the buffer is, and how many bytes follow it without a break.
    /// </summary>
    /// <returns>False when the offset is outside the list.</returns>
    public bool TryLocate(ulong offset, out DeviceAddress address, out ulong contiguousBytes)
    {
        if (offset >= LengthBytes)
        {
            (address, contiguousBytes) = (default, 0);
            return false;
        }

        int index = 0;
        if (_entries.Length > 1)
        {
            index = Array.BinarySearch(_offsets, offset);
            index = index >= 0 ? index : ~index - 1;
        }

        ulong within = offset - _offsets[index];
        address = _entries[index].Start + within;
        contiguousBytes = _entries[index].LengthBytes - within;
        return true;
    }
}
