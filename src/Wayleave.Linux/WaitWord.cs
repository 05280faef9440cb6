using System.Runtime.InteropServices;

namespace Wayleave.Linux;

//   Clear --Wait, spun out--> Asleep         one or more threads sleep in the kernel
//     |                          |
//    Set                        Set, wakes all (the only case that costs a system call)
//     v                          v
//     +---------> IsSet <--------+           --Reset--> Clear
//
// The sleeper changes Clear to Asleep by compare-and-swap before it sleeps, and the kernel checks that the word is
// still Asleep; Set exchanges the word. So either Set sees Asleep and wakes, or the sleeper sees IsSet and does not
// sleep.

/// <summary>
/// One thread tells others that something is done: a short spin, then a futex. Made for the owner that waits for the
/// proof of a revoke, where the port thread sets the word and must not pay for a system call when nobody sleeps.
/// Several may wait.
/// </summary>
/// <remarks>
/// Collected like any object; a <see cref="Set"/> after everybody has given up waiting is harmless. A thread that has
/// just woken another one on the same core should yield: without that the woken one waits for the end of the time
/// slice.
/// </remarks>
public sealed class WaitWord
{
    private const int Clear = 0;
    private const int Done = 1;
    private const int Asleep = 2;

    // About a microsecond in all: longer than a drain that is already in its last copy, shorter than falling asleep.
    private const int Spins = 30;
    private const int SpinIterations = 4;

    private readonly TimeProvider _time;
    private PaddedWord _state;

    /// <param name="time">Measures time-outs; null for the system's.</param>
    public WaitWord(TimeProvider? time = null) => _time = time ?? TimeProvider.System;

    public bool IsSet => Volatile.Read(ref _state.Value) == Done;

    /// <summary>Whether <see cref="Set"/> would have to wake somebody at this moment.</summary>
    public bool HasSleepers => Volatile.Read(ref _state.Value) == Asleep;

    /// <summary>
    /// Lets everybody go on who waits now or later; any thread, any lock held: never blocks. What the caller wrote
    /// before is seen by those who return from <see cref="Wait"/>.
    /// </summary>
    /// <returns>Whether somebody slept and was woken: the caller may want to yield the processor to them.</returns>
    public bool Set() => Interlocked.Exchange(ref _state.Value, Done) == Asleep && Futex.Wake(ref _state.Value) > 0;

    /// <summary>
    /// Makes the word usable again. Only when nobody waits: a sleeper that has not run yet would sleep on.
    /// </summary>
    public void Reset() => Interlocked.CompareExchange(ref _state.Value, Clear, Done);

    /// <summary>Waits until the word is set.</summary>
    /// <param name="timeout">Relative, or <see cref="Timeout.InfiniteTimeSpan"/>; zero only looks.</param>
    /// <returns>False when the time is up and the word is not set.</returns>
    public bool Wait(TimeSpan timeout)
    {
        if (timeout != Timeout.InfiniteTimeSpan)
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(timeout, TimeSpan.Zero);
        }

        if (IsSet || timeout == TimeSpan.Zero)
        {
            return IsSet;
        }

        long start = _time.GetTimestamp();
        for (int spin = 0; spin < Spins; spin++)
        {
            Thread.SpinWait(SpinIterations);
            if (IsSet)
            {
                return true;
            }
        }

        return Sleep(timeout, start);
    }

    private bool Sleep(TimeSpan timeout, long start)
    {
        while (true)
        {
            if (Interlocked.CompareExchange(ref _state.Value, Asleep, Clear) == Done)
            {
                return true;
            }

            TimeSpan left = Timeout.InfiniteTimeSpan;
            if (timeout != Timeout.InfiniteTimeSpan)
            {
                left = timeout - _time.GetElapsedTime(start);
                if (left <= TimeSpan.Zero)
                {
                    return IsSet; // The word may stay Asleep with nobody asleep: the next Set wakes nobody, once.
                }
            }

            // Woken, another value, a signal, time is up: in every case the word and the clock decide what is next.
            _ = Futex.Wait(ref _state.Value, Asleep, left);
        }
    }

    // Its own pair of cache lines: the setter is on the data path and must not suffer from neighbours.
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct PaddedWord
    {
        [FieldOffset(128)]
        public int Value;
    }
}
