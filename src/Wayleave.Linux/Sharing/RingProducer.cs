using Wayleave.Core;

namespace Wayleave.Linux.Sharing;

/// <summary>
/// The side of a ring that writes entries. One thread at a time; its own index is in memory of its own.
/// </summary>
public sealed class RingProducer
{
    private readonly RingMemory.RingSide _side;
    private uint _submitted;
    private uint _taken; // as it was last seen; the other side's word is looked at when this is too little

    private RingProducer(RingMemory.RingSide side) => _side = side;

    public static RingProducer OfCommands(RingMemory memory)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new RingProducer(memory.Commands);
    }

    public static RingProducer OfCompletions(RingMemory memory)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new RingProducer(memory.Completions);
    }

    /// <summary>How many entries there is room for, as the other side says at this moment.</summary>
    /// <returns>False when it says what cannot be: it took more than there were.</returns>
    public bool TryGetRoom(out int room)
    {
        uint taken = Volatile.Read(ref _side.Taken);
        uint used = _submitted - taken;
        room = _side.Slots - (int)Math.Min(used, (uint)_side.Slots);
        if (used > (uint)_side.Slots)
        {
            return false;
        }

        _taken = taken;
        return true;
    }

    /// <summary>
    /// As <see cref="TryGetRoom(out int)"/>, but looks at the other side's index, and takes its cache line, only when
    /// less room than is wanted was seen there before.
    /// </summary>
    public bool TryGetRoom(int wanted, out int room)
    {
        room = _side.Slots - (int)(_submitted - _taken);
        return room >= wanted || TryGetRoom(out room);
    }

    /// <summary>
    /// Writes entries and makes them visible, all in one, after all that this thread wrote before. The caller knows of
    /// the room.
    /// </summary>
    /// <param name="entries">One of the ring's size, or several.</param>
    public void Write(ReadOnlySpan<byte> entries)
    {
        for (; !entries.IsEmpty; entries = entries[_side.EntryBytes..])
        {
            entries[.._side.EntryBytes].CopyTo(_side.Entry(_submitted++));
        }

        Interleave.Point("ring: submit");
        Volatile.Write(ref _side.Submitted, _submitted);
    }

    /// <summary>
    /// After a write: whether the other side sleeps, or is about to. Then it has to be woken, by the one who is told.
    /// </summary>
    public bool MustWake()
    {
        // The index was written before the flag is read, in one order for all (Dekker); see RingConsumer.TryBeginSleep.
        Interlocked.MemoryBarrier();
        Interleave.Point("ring: look for a sleeper");
        return Volatile.Read(ref _side.Asleep) != 0 && Interlocked.Exchange(ref _side.Asleep, 0) != 0;
    }
}
