namespace Wayleave.Devices.Rdma;

/// <summary>An object that packets name by a number: a queue pair by its QPN, a region by its key.</summary>
public abstract class Numbered
{
    private protected Numbered(uint number) => Number = number;

    internal uint Number { get; }
}

/// <summary>
/// Finds objects by number. One writer at a time; readers need no lock and see an object either whole or not yet. Open
/// addressing with linear probing, at most half full: a look-up of the data path is one multiplication and usually one
/// compare.
/// </summary>
internal sealed class NumberTable
{
    private Numbered?[] _slots = new Numbered?[16];
    private int _count;

    public int Count => _count;

    public Numbered? Find(uint number)
    {
        Numbered?[] slots = Volatile.Read(ref _slots);
        for (int i = Place(number, slots.Length); ; i = (i + 1) & (slots.Length - 1))
        {
            Numbered? found = Volatile.Read(ref slots[i]);
            if (found is null || found.Number == number)
            {
                return found;
            }
        }
    }

    /// <summary>The caller has checked that the number is free.</summary>
    public void Add(Numbered item)
    {
        if (2 * (_count + 1) > _slots.Length)
        {
            Replace(2 * _slots.Length, without: null);
        }

        Insert(_slots, item);
        _count++;
    }

    /// <summary>
    /// Another object of the same number takes the place of one: a reader finds one of both, never neither.
    /// </summary>
    public void Swap(Numbered item, Numbered next)
    {
        for (int i = Place(item.Number, _slots.Length); ; i = (i + 1) & (_slots.Length - 1))
        {
            if (ReferenceEquals(_slots[i], item))
            {
                Volatile.Write(ref _slots[i], next);
                return;
            }
        }
    }

    /// <summary>Readers that started before may still find the object.</summary>
    public void Remove(Numbered item)
    {
        // A hole would hide what was pushed past it, so the table is made anew; removal is a control operation.
        Replace(_slots.Length, without: item);
        _count--;
    }

    /// <summary>Everything in the table, in no promised order.</summary>
    public IEnumerable<Numbered> All()
    {
        foreach (Numbered? item in _slots)
        {
            if (item is not null)
            {
                yield return item;
            }
        }
    }

    private void Replace(int length, Numbered? without)
    {
        Numbered?[] slots = new Numbered?[length];
        foreach (Numbered? item in _slots)
        {
            if (item is not null && !ReferenceEquals(item, without))
            {
                Insert(slots, item);
            }
        }

        Volatile.Write(ref _slots, slots);
    }

    private static void Insert(Numbered?[] slots, Numbered item)
    {
        int i = Place(item.Number, slots.Length);
        while (slots[i] is not null)
        {
            i = (i + 1) & (slots.Length - 1);
        }

        Volatile.Write(ref slots[i], item);
    }

    // Fibonacci hashing: also spreads the sequential numbers that a test or a replayed capture uses.
    private static int Place(uint number, int length) => (int)((number * 0x9E3779B1u) >> 8) & (length - 1);
}
