using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Gpu.Compute;

// Two cache lines. Who brings work writes one, by counts that only grow; the holder of the token writes the other, and
// remembers there which count he has seen. So he never takes the line of the others from them, and one transfer of it
// tells him all. Why no ring is lost: he reads the count before he looks for work, and work is there before it is rung
// for. What he misses was rung for later, and the count is another one when he looks again.

/// <summary>
/// Who drives an engine: one thread at a time has its token, and work that comes meanwhile rings a doorbell, which the
/// holder looks at once more after it gave the token back. Callable without any lock.
/// </summary>
internal sealed class EngineTurn
{
    private readonly Action<Fence> _handleReady;
    private readonly bool _notesRingsFirst;
    private Words _words;

    public EngineTurn(GpuOptions options) =>
        (_handleReady, _notesRingsFirst) = (_ => RingForJob(), options.NotesRingsFirst);

    /// <summary>Called without any lock, on any thread, when work may have come.</summary>
    public Action? WorkAvailable { get; set; }

    /// <summary>
    /// Rings for a job that waited for nothing but this fence. One for all jobs, which whoever signals need not fetch.
    /// </summary>
    public Action<Fence> HandleReady => _handleReady;

    public bool IsTaken => Volatile.Read(ref _words.Token) != 0;

    public bool HasDoorbell => Volatile.Read(ref _words.Rings) != Volatile.Read(ref _words.SeenRings);

    /// <summary>How many jobs were rung for since ever: all that they wait for has signalled.</summary>
    public int ReadyJobs => Volatile.Read(ref _words.ReadyJobs);

    public bool TryEnter()
    {
        Interleave.Point("engine: enter");
        return Interlocked.CompareExchange(ref _words.Token, 1, 0) == 0;
    }

    public void Exit()
    {
        Interleave.Point("engine: exit");
        Interlocked.Exchange(ref _words.Token, 0);
    }

    public void RingDoorbell()
    {
        Interleave.Point("engine: doorbell");
        Interlocked.Increment(ref _words.Rings);
        WorkAvailable?.Invoke();
    }

    /// <summary>Once for each job, when it has become ready, after it was queued.</summary>
    public void RingForJob()
    {
        Interlocked.Increment(ref _words.ReadyJobs);
        RingDoorbell();
    }

    /// <summary>Runs steps while there are any and the limit allows, unless somebody else does.</summary>
    public int Drive(int stepsMax, Func<bool> step)
    {
        int steps = 0;
        do
        {
            if (!TryEnter())
            {
                return steps;
            }

            NoteRings(_notesRingsFirst);
            while (steps < stepsMax && step())
            {
                steps++;
            }

            Exit();
            Interleave.Point("engine: look again");
            NoteRings(!_notesRingsFirst);
        }
        while (steps < stepsMax && HasDoorbell);
        return steps;
    }

    private void NoteRings(bool isNow)
    {
        if (isNow)
        {
            Volatile.Write(ref _words.SeenRings, Volatile.Read(ref _words.Rings));
        }
    }

    // Wherever the object begins.
    [StructLayout(LayoutKind.Explicit, Size = 384)]
    private struct Words
    {
        [FieldOffset(128)]
        public int Rings;

        [FieldOffset(132)]
        public int ReadyJobs;

        [FieldOffset(256)]
        public int Token;

        [FieldOffset(260)]
        public int SeenRings;
    }
}
