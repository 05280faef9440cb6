using Wayleave.Core;

namespace Wayleave.Linux.Sharing;

/// <summary>
/// The side of a ring that takes entries. One thread at a time; its own index is in memory of its own.
/// </summary>
public sealed class RingConsumer
{
    private readonly RingMemory.RingSide _side;
    private uint _taken;

    private RingConsumer(RingMemory.RingSide side) => _side = side;

    public static RingConsumer OfCommands(RingMemory memory)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new RingConsumer(memory.Commands);
    }

    public static RingConsumer OfCompletions(RingMemory memory)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return new RingConsumer(memory.Completions);
    }

    /// <summary>Whether an entry may be there; true also when the other side wrote what cannot be.</summary>
    public bool HasEntry => Volatile.Read(ref _side.Submitted) != _taken;

    /// <summary>Takes the next entry: copies it, once, and gives its slot back.</summary>
    /// <param name="entry">Of the ring's size; what is checked and used is this copy.</param>
    /// <param name="isThere">False when there is none.</param>
    /// <returns>False when the other side wrote what cannot be: more entries than there are slots.</returns>
    public bool TryTake(Span<byte> entry, out bool isThere)
    {
        uint count = Volatile.Read(ref _side.Submitted) - _taken;
        isThere = false;
        if (count == 0)
        {
            return true;
        }

        if (count > (uint)_side.Slots)
        {
            return false;
        }

        _side.Entry(_taken).CopyTo(entry);
        Volatile.Write(ref _side.Taken, ++_taken); // not before the copy: a release
        isThere = true;
        return true;
    }

    /// <summary>Says that this side is about to sleep, and looks once more.</summary>
    /// <returns>False when an entry has come: do not sleep. After true, <see cref="EndSleep"/>.</returns>
    public bool TryBeginSleep()
    {
        // The flag is written before the index is read, in one order for all: either the producer sees the flag, or
        // this side sees its entry.
        Interleave.Point("ring: begin sleep");
        Interlocked.Exchange(ref _side.Asleep, 1);
        Interleave.Point("ring: look again");
        if (!HasEntry)
        {
            return true;
        }

        EndSleep();
        return false;
    }

    /// <summary>A wrong <see cref="TryBeginSleep"/>, for the test of the tests: it does not look again.</summary>
    internal bool BeginSleepWithoutLooking()
    {
        bool hasEntry = HasEntry;
        Interleave.Point("ring: begin sleep");
        Interlocked.Exchange(ref _side.Asleep, 1);
        return !hasEntry;
    }

    /// <summary>This side is awake, whoever woke it.</summary>
    public void EndSleep() => Volatile.Write(ref _side.Asleep, 0);
}
