namespace Wayleave.Core.AddressSpaces;

/// <summary>What operations wait for, as pauses. A wait that would never end leaves EDEADLK behind.</summary>
internal static class Waits
{
    /// <summary>Until every mirror of the range has stopped its device, or one cannot.</summary>
    public static IEnumerable<Pause> WaitUntilStarted(this InvalidationRound round, MemorySystem memory)
    {
        while (round.State is InvalidationState.Calling or InvalidationState.Waiting)
        {
            round.TryAddCallback(memory.HandleProgressOutside);
            string what = round.State == InvalidationState.Calling ? "call a mirror" : "mirror has stopped";
            yield return new Pause(what, () => round.CanAdvance);
            round.Advance();
        }
    }

    /// <summary>Until the lock of an address space is held.</summary>
    public static IEnumerable<Pause> WaitUntilGranted(this SpaceLock spaceLock, SpaceLockHold hold)
    {
        if (!hold.IsGranted)
        {
            yield return new Pause("take the address-space lock", () => hold.IsGranted, spaceLock);
        }
    }

    /// <summary>Until nobody has locked the page; somebody may lock it again at once.</summary>
    public static IEnumerable<Pause> WaitUntilUnlocked(this PageFrame frame)
    {
        if (frame.IsLocked)
        {
            yield return new Pause($"wait for {frame.Label}", () => !frame.IsLocked, frame);
        }
    }
}
