using Wayleave.Core;

namespace Wayleave.Devices.Rdma;

// Two words from those who drive, two from the one who sleeps, and each side writes its own before it reads the
// other's, with a full barrier between (Dekker): so that one of the two sees the other.
//
//   whoever drives                                the engine
//   NoteTurn: deadline, room       (token)        reads deadline, room
//   gives the token back, a barrier               Announces: sleeps until, awaits room; a barrier
//   MustWake: sleeps until, awaits room           looks again: deadline, room
//
// A turn that is noted between the engine's two looks is seen by the second, one that is noted behind it finds the
// announcement.

/// <summary>
/// How the thread that drives a port when nobody else does may sleep, although application threads drive in between and
/// leave it a deadline that is earlier, or data that waits for room. Times are ticks of the host's clock.
/// </summary>
/// <param name="looksAgain">
/// Whether <see cref="TryAnnounce"/> looks at what it read before once it has announced: the defence, which a test may
/// leave out.
/// </param>
public sealed class DriverSleep(bool looksAgain = true)
{
    private const long Awake = long.MinValue;

    private long _deadline = long.MaxValue; // the port's; written under the token
    private bool _awaitsSendRoom; // written under the token
    private long _sleepsUntil = Awake; // the engine's
    private bool _engineAwaitsSendRoom; // what its sleep watches

    /// <summary>Whether the last turn left something that its socket did not take.</summary>
    public bool AwaitsSendRoom => Volatile.Read(ref _awaitsSendRoom);

    /// <summary>The end of a turn, under the port token, which is given back behind it with a full barrier.</summary>
    /// <param name="deadlineTicks">When something is due; 0 for now, <see cref="long.MaxValue"/> for never.</param>
    /// <param name="awaitsSendRoom">Something waits for room in a socket.</param>
    public void NoteTurn(long deadlineTicks, bool awaitsSendRoom)
    {
        Volatile.Write(ref _deadline, deadlineTicks);
        Volatile.Write(ref _awaitsSendRoom, awaitsSendRoom);
    }

    /// <summary>
    /// Whether the engine sleeps longer than what the last turn has left allows: then wake it. Behind the turn, by the
    /// thread that made it, which may not come back.
    /// </summary>
    public bool MustWake()
    {
        Interleave.Point("driver: turn noted");
        long sleepsUntil = Volatile.Read(ref _sleepsUntil);
        return Volatile.Read(ref _deadline) < sleepsUntil
            || (sleepsUntil != Awake
                && Volatile.Read(ref _awaitsSendRoom)
                && !Volatile.Read(ref _engineAwaitsSendRoom));
    }

    /// <summary>
    /// The engine is about to sleep. True: it may, until that time; <see cref="End"/> follows, and so it does on false.
    /// </summary>
    /// <param name="nowTicks">The time.</param>
    /// <param name="mostTicks">How long it sleeps at most.</param>
    /// <param name="untilTicks">When it has to look again.</param>
    /// <param name="awaitsSendRoom">Whether room in a socket is to end the sleep as well.</param>
    public bool TryAnnounce(long nowTicks, long mostTicks, out long untilTicks, out bool awaitsSendRoom)
    {
        long deadline = Volatile.Read(ref _deadline);
        awaitsSendRoom = Volatile.Read(ref _awaitsSendRoom);
        untilTicks = Math.Min(deadline, nowTicks + mostTicks);
        if (untilTicks <= nowTicks)
        {
            return false;
        }

        Interleave.Point("engine: has looked");
        Volatile.Write(ref _engineAwaitsSendRoom, awaitsSendRoom);
        Interlocked.Exchange(ref _sleepsUntil, untilTicks);
        Interleave.Point("engine: has announced");
        return !looksAgain
            || (Volatile.Read(ref _deadline) == deadline && Volatile.Read(ref _awaitsSendRoom) == awaitsSendRoom);
    }

    /// <summary>The engine is awake.</summary>
    public void End() => Volatile.Write(ref _sleepsUntil, Awake);
}
