using Wayleave.Core;

namespace Wayleave.Devices.Rdma;

// As in DriverSleep, each side writes its own word before it reads the other's, with a full barrier between:
//
//   the engine                                    an application that is about to wait
//   Begin: is long; a barrier                     MustWake: is over; a barrier
//   looks again: is over                          reads: is long

/// <summary>
/// How long the thread that drives a port when nobody else does stays away from one that an application polls. To look
/// whether it still does takes the processor from it or its peer for some 40 us: who has polled all the while, and a
/// moment before the look, is looked at half as often. Whoever wakes the engine wants it to drive, and it does. Times
/// are ticks of the host's clock.
/// </summary>
/// <param name="leastTicks">The first time.</param>
/// <param name="mostTicks">The longest.</param>
/// <param name="looksAgain">
/// Whether <see cref="Begin"/> looks once more for <see cref="MustWake"/> when it has announced a long absence: the
/// defence, which a test may leave out.
/// </param>
public sealed class StandBack(long leastTicks, long mostTicks, bool looksAgain = true)
{
    /// <summary>
    /// Polls while the engine was away that make the next absence longer: who polls now and then waits for bytes to
    /// change in its memory, perhaps, and only the engine puts them there.
    /// </summary>
    public const int PollsWanted = 16;

    private long _next; // the engine's; 0 at first
    private bool _isWoken; // the engine's
    private int _isLong; // written by the engine: MustWake has to end it
    private int _isOver; // written by applications: taken by the engine

    /// <summary>The engine is away for longer than the shortest time. Any thread, a moment old.</summary>
    public bool IsLong => Volatile.Read(ref _isLong) != 0;

    /// <summary>An application polls. <see cref="End"/> follows.</summary>
    /// <param name="polls">How often it has polled since the last look.</param>
    /// <returns>How long the engine may stay away.</returns>
    public long Begin(long polls)
    {
        long ticks = polls < PollsWanted ? leastTicks : Math.Max(_next, leastTicks);
        Interleave.Point("engine: stands back");
        Interlocked.Exchange(ref _isLong, ticks > leastTicks ? 1 : 0);
        Interleave.Point("engine: has announced");
        if (looksAgain && Volatile.Read(ref _isOver) != 0)
        {
            ticks = leastTicks;
        }

        _next = Math.Min(2 * ticks, mostTicks);
        return ticks;
    }

    /// <summary>The engine is back.</summary>
    /// <param name="isWoken">Before its time: somebody has work that no application may know of.</param>
    public void End(bool isWoken)
    {
        Volatile.Write(ref _isLong, 0);
        _isWoken = isWoken;
    }

    /// <summary>
    /// Engine thread: nobody polls, somebody is about to wait although he polled a moment ago, or somebody has woken
    /// it. It drives, and starts over with the shortest time.
    /// </summary>
    /// <param name="isPolled">Whether an application has polled since the last look, and not long ago.</param>
    /// <returns>Whether the engine drives now.</returns>
    public bool MustDrive(bool isPolled)
    {
        bool drives = Interlocked.Exchange(ref _isOver, 0) != 0 || _isWoken || !isPolled;
        _isWoken = false;
        _next = drives ? 0 : _next;
        return drives;
    }

    /// <summary>
    /// An application has asked for an event and may not poll again: the engine soon looks at the port by itself. Any
    /// thread.
    /// </summary>
    /// <returns>The engine is away for long: wake it.</returns>
    public bool MustWake()
    {
        Interlocked.Exchange(ref _isOver, 1);
        Interleave.Point("application: is about to wait");
        return IsLong;
    }
}
