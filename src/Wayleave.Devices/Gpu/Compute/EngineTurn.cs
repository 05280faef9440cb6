using Wayleave.Core;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Who drives an engine: one thread at a time has its token, and work that comes meanwhile rings a doorbell, which the
/// holder looks at once more after it gave the token back. Callable without any lock.
/// </summary>
internal sealed class EngineTurn
{
    private int _token;
    private int _doorbell;

    /// <summary>Called without any lock, on any thread, when work may have come.</summary>
    public Action? WorkAvailable { get; set; }

    public bool IsTaken => Volatile.Read(ref _token) != 0;

    public bool HasDoorbell => Volatile.Read(ref _doorbell) != 0;

    public bool TryEnter()
    {
        Interleave.Point("engine: enter");
        return Interlocked.CompareExchange(ref _token, 1, 0) == 0;
    }

    public void Exit()
    {
        Interleave.Point("engine: exit");
        Interlocked.Exchange(ref _token, 0);
    }

    public void RingDoorbell()
    {
        Interleave.Point("engine: doorbell");
        Interlocked.Exchange(ref _doorbell, 1);
        WorkAvailable?.Invoke();
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

            Interlocked.Exchange(ref _doorbell, 0);
            while (steps < stepsMax && step())
            {
                steps++;
            }

            Exit();
            Interleave.Point("engine: look again");
        }
        while (steps < stepsMax && Volatile.Read(ref _doorbell) != 0);
        return steps;
    }
}
