using System.Runtime.InteropServices;

namespace Wayleave.Core.Buffers;

// Who runs what. Enter and Exit: any engine or port thread, no lock held, once a packet or a 64 KiB block. Close: the
// owner, with the host lock held. The word counts the users inside; its top bit says closed. A user that entered before
// the bit was set is counted, and the owner sees the count in the same atomic operation that sets the bit; a user that
// comes later sees the bit. There is no third case, so nobody is ever inside a gate that has drained.
//
//   open, n inside --TryEnter--> open, n+1        open, n --Close--> closed, n
//   closed, n      --Exit------> closed, n-1      closed, 0 = drained, for ever

/// <summary>
/// Counts the users of one translation. It closes once and never reopens: a new map makes a new translation with a new
/// gate, so that a user can never enter by an old address. Lock-free; inside it there is no lock, no fault and no
/// blocking call.
/// </summary>
public sealed class InFlightGate
{
    private const long Closed = 1L << 62;

    private readonly Action? _drained;
    private PaddedWord _state;

    /// <param name="drained">
    /// Called exactly once, without any lock, by the last <see cref="Exit"/> after a <see cref="Close"/> that found
    /// users inside. Not called when <see cref="Close"/> itself reports that the gate is drained.
    /// </param>
    public InFlightGate(Action? drained = null) => _drained = drained;

    /// <summary>Nobody may enter any more. Users may still be inside.</summary>
    public bool IsClosed => (Volatile.Read(ref _state.Value) & Closed) != 0;

    /// <summary>Closed, and nobody is inside: the memory behind the translation is not in use.</summary>
    public bool IsDrained => Volatile.Read(ref _state.Value) == Closed;

    /// <summary>
    /// How many users are inside at this moment; exact once the gate is closed and nobody leaves meanwhile.
    /// </summary>
    public long Inside => Volatile.Read(ref _state.Value) & ~Closed;

    /// <summary>
    /// Enters, or is refused because the gate is closed. A user that got in calls <see cref="Exit"/> in bounded time.
    /// </summary>
    public bool TryEnter()
    {
        // Compare-and-swap, not add-and-look: a refused user must leave no trace in the count, or a drained gate would
        // look used.
        long seen = Volatile.Read(ref _state.Value);
        while (true)
        {
            if ((seen & Closed) != 0)
            {
                return false;
            }

            Interleave.Point("gate: enter");
            long before = Interlocked.CompareExchange(ref _state.Value, seen + 1, seen);
            if (before == seen)
            {
                return true;
            }

            seen = before;
        }
    }

    /// <summary>Leaves. The last user out of a closed gate reports the drain.</summary>
    public void Exit()
    {
        Interleave.Point("gate: exit");
        if (Interlocked.Decrement(ref _state.Value) == Closed)
        {
            Interleave.Point("gate: last out");
            _drained?.Invoke();
        }
    }

    /// <summary>
    /// Refuses new users. Host lock held by the caller; the first call decides, later ones report the state.
    /// </summary>
    /// <param name="inside">Users inside at the moment of the close: evidence for the proof.</param>
    /// <returns>True when the gate is drained now; false when its last user will report the drain.</returns>
    public bool Close(out long inside)
    {
        Interleave.Point("gate: close");
        long before = Interlocked.Or(ref _state.Value, Closed);
        inside = before & ~Closed;
        return inside == 0;
    }

    /// <summary>A wrong TryEnter, kept for the test of the tests: it looks first and counts later.</summary>
    internal bool TryEnterCheckThenAct()
    {
        if (IsClosed)
        {
            return false;
        }

        Interleave.Point("gate: enter");
        Interlocked.Increment(ref _state.Value);
        return true;
    }

    // Its own pair of cache lines (the prefetcher fetches two): a neighbour's writes must not slow down every packet.
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct PaddedWord
    {
        [FieldOffset(128)]
        public long Value;
    }
}
