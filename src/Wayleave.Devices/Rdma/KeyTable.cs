using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// What a key in a packet or a scatter/gather list names. The upper bits are the number of a region or a window, in one
// table, so that a look-up costs the same whatever the key names, and whether it names anything (roce.md A15); the low
// ones belong to the region for good, and to a type-2 window from one bind to the next.
//
// Who runs it: the host lock is held by whoever changes the table; finding needs no lock.

/// <summary>The keys of a device: its regions and windows by number.</summary>
internal sealed class KeyTable(IKeySource source, bool holdsDeadNumbers)
{
    private readonly NumberTable _keyed = new();

    /// <summary>Regions and windows, dead ones included; in no promised order. Host lock held.</summary>
    public IEnumerable<Numbered> All() => _keyed.All();

    /// <summary>
    /// The region of that key, dead or alive, or the window that is bound under it. The port token is held by whoever
    /// uses a window.
    /// </summary>
    public Numbered? Find(uint key)
    {
        Numbered? found = _keyed.Find(key >> KeyTag.Bits);
        return found is MemoryRegion region ? (region.Key == key ? region : null)
            : found is MemoryWindow window && window.IsKey(key) ? window
            : null;
    }

    /// <summary>Whether its number still leads to the object.</summary>
    public bool Holds(Numbered item) => ReferenceEquals(_keyed.Find(item.Number), item);

    /// <summary>A key for something new: random, or the wanted one. EEXIST when that is in use.</summary>
    public Errno TryChoose(uint? wanted, out uint key)
    {
        key = wanted ?? Random();
        return wanted is { } number && !IsFree(number) ? Errno.EEXIST : Errno.Success;
    }

    /// <summary>Peers can name it from now on. Its number is free.</summary>
    public void Add(Numbered item) => _keyed.Add(item);

    /// <summary>The number names <paramref name="next"/> instead; at no time does it name neither.</summary>
    public void Swap(Numbered item, Numbered next) => _keyed.Swap(item, next);

    /// <summary>The number is free, unless it names something else by now.</summary>
    public void Remove(Numbered item)
    {
        if (Holds(item))
        {
            _keyed.Remove(item);
        }
    }

    /// <summary>
    /// Whether a new object may have the key. A dead region keeps its number, but for the broken device that gives it
    /// away.
    /// </summary>
    public bool IsFree(uint key)
    {
        Numbered? holder = _keyed.Find(key >> KeyTag.Bits);
        bool isLeft = holder is MemoryRegion { State: MemoryRegionState.Dead } && !holdsDeadNumbers;
        if (isLeft)
        {
            _keyed.Remove(holder!);
        }

        return holder is null || isLeft;
    }

    // Key 0 is what a forgotten field holds, and rxe's local key of last resort: never ours (roce.md A10).
    private uint Random()
    {
        uint key;
        do
        {
            key = source.NextUInt32();
        }
        while (key >> KeyTag.Bits == 0 || _keyed.Find(key >> KeyTag.Bits) is not null);
        return key;
    }
}
