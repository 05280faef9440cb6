using System.Numerics;

namespace Wayleave.Devices.Rdma.Verbs;

// Positions run freely and wrap at 2^32; a slot is position & mask.
//
//   free ........ head ........ tail
//        done,         posted,       empty up to free + capacity
//        not polled    not done
//
// tail: application threads, under the posting flag. head: the port. free: whoever polls the completion queue.

/// <summary>The part that the send and the receive queue have in common: who may write which slot.</summary>
internal abstract class WorkQueue(int capacity, int sgeMax)
{
    private protected SpinFlag Posting;
    private uint _tail;
    private uint _added; // behind the tail, not handed over yet
    private uint _free;

    /// <summary>A power of two. Changed under both the posting flag and the port token.</summary>
    public int Capacity { get; private protected set; } = RoundUp(capacity);

    public int SgeMax { get; } = Math.Max(sgeMax, 1);

    /// <summary>Behind the newest request. Everything before it may be read by the port.</summary>
    public uint Tail => Volatile.Read(ref _tail);

    /// <summary>Slots before this position are empty: a completion behind them was polled.</summary>
    public void Free(uint position)
    {
        // Two pollers of one queue run under the poll flag of its completion queue, so positions only grow.
        Volatile.Write(ref _free, position);
    }

    /// <summary>How many slots a queue for that many requests has.</summary>
    private protected static int RoundUp(int capacity) =>
        (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(capacity, 1));

    /// <summary>Slots in use: posted, or done and not polled. Posting flag held.</summary>
    private protected uint Used => _tail - Volatile.Read(ref _free);

    /// <summary>Posting flag held.</summary>
    private protected bool IsFull => NextPosition - Volatile.Read(ref _free) >= (uint)Capacity;

    /// <summary>Posting flag held.</summary>
    private protected uint NextPosition => _tail + _added;

    private protected int SlotOf(uint position) => (int)(position & (uint)(Capacity - 1));

    /// <summary>Posting flag held: the slot at <see cref="NextPosition"/> is filled.</summary>
    private protected void Added() => _added++;

    /// <summary>Posting flag held: hands what was added to the port.</summary>
    private protected void PublishAdded()
    {
        Volatile.Write(ref _tail, _tail + _added);
        _added = 0;
    }

    /// <summary>Posting flag held: what was added was not meant.</summary>
    private protected void DropAdded() => _added = 0;

    /// <summary>
    /// Empties the queue without completions (RESET). Port token held; the application does not post meanwhile.
    /// </summary>
    private protected void Rewind()
    {
        Posting.Enter();
        _tail = 0;
        _free = 0;
        Posting.Exit();
    }
}
