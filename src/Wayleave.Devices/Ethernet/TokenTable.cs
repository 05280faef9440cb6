namespace Wayleave.Devices.Ethernet;

//   token = age of the slot, 11 bits | slot + 1, 20 bits          never 0, below 2^31
//
// A slot that was given back goes to the end of the line and comes out older: a token that is returned twice, or that
// belongs to somebody else, names a piece of today only after 2047 lives of one slot.

/// <summary>
/// The pieces that one reader holds, by token (<c>sk_user_frags</c>). Grows to what was held at once and never shrinks.
/// Port token held by the caller.
/// </summary>
internal sealed class TokenTable(bool agesTokens)
{
    /// <summary>Most tokens of one reader.</summary>
    public const int CountMax = SlotMask; // slot + 1 fits the mask

    private const int SlotBits = 20;
    private const int SlotMask = (1 << SlotBits) - 1;
    private const int AgeMask = (1 << (31 - SlotBits)) - 1;
    private const int None = -1;
    private const int First = 16;

    private Slot[] _slots = [];
    private int _oldestFree = None; // a list through Slot.Next: given out at this end
    private int _newestFree = None; // and given back at that
    private int _made;

    public int Count { get; private set; }

    /// <summary>Keeps a piece, whose reference the table takes over; false when the reader holds too many.</summary>
    public bool TryAdd(in PayloadFragment fragment, out uint token)
    {
        int index = _oldestFree;
        if (index == None || _made < _slots.Length)
        {
            // Slots that were never used come first, so that the first tokens are 1, 2, 3.
            if (_made == _slots.Length && !TryGrow())
            {
                token = 0;
                return false;
            }

            index = _made++;
        }
        else
        {
            _oldestFree = _slots[index].Next;
            _newestFree = _oldestFree == None ? None : _newestFree;
        }

        ref Slot slot = ref _slots[index];
        (slot.Fragment, slot.IsHeld) = (fragment, true);
        Count++;
        token = (uint)(slot.Age << SlotBits | (index + 1));
        return true;
    }

    /// <summary>Hands a piece back, reference and all; false for a token that is not held here.</summary>
    public bool TryRemove(uint token, out PayloadFragment fragment)
    {
        fragment = default;
        int index = (int)(token & SlotMask) - 1;
        if (token > int.MaxValue || index < 0 || index >= _made)
        {
            return false;
        }

        ref Slot slot = ref _slots[index];
        if (!slot.IsHeld || slot.Age != (int)(token >> SlotBits))
        {
            return false;
        }

        fragment = slot.Fragment;
        int age = agesTokens ? (slot.Age + 1) & AgeMask : 0;
        slot = new Slot { Age = age, Next = None };
        if (_newestFree == None)
        {
            _oldestFree = index;
        }
        else
        {
            _slots[_newestFree].Next = index;
        }

        _newestFree = index;
        Count--;
        return true;
    }

    /// <summary>Hands back any piece that is held, or says that there is none.</summary>
    public bool TryRemoveAny(ref int cursor, out PayloadFragment fragment)
    {
        for (; cursor < _made; cursor++)
        {
            ref Slot slot = ref _slots[cursor];
            if (slot.IsHeld)
            {
                return TryRemove((uint)(slot.Age << SlotBits | (cursor + 1)), out fragment);
            }
        }

        fragment = default;
        return false;
    }

    private bool TryGrow()
    {
        if (_slots.Length >= CountMax)
        {
            return false;
        }

        Array.Resize(ref _slots, Math.Min(Math.Max(First, 2 * _slots.Length), CountMax));
        return true;
    }

    private struct Slot
    {
        public PayloadFragment Fragment;
        public int Age;
        public int Next;
        public bool IsHeld;
    }
}
