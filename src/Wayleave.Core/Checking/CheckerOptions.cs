namespace Wayleave.Core.Checking;

/// <summary>What a host's <see cref="Checker"/> does. The defaults are meant for Release.</summary>
public sealed record CheckerOptions
{
    /// <summary>Nothing is looked for; broken contracts that show by themselves are still kept.</summary>
    public static CheckerOptions Off { get; } = new() { FindsWaitCycles = false, ChecksLockOrder = false };

    /// <summary>
    /// Each wait that has a waiter is looked at before it begins; one that would close a circle fails.
    /// </summary>
    public bool FindsWaitCycles { get; init; } = true;

    /// <summary>
    /// The order in which an <see cref="Activity"/> takes classes of locks is compared with all orders seen.
    /// </summary>
    public bool ChecksLockOrder { get; init; } = true;

    /// <summary>
    /// Test mode: fences that a user's program signals may stand where others wait implicitly. The first one taints the
    /// host (<see cref="Checker.IsTainted"/>).
    /// </summary>
    public bool PermitsUserFences { get; init; }

    /// <summary>
    /// Tickets that hold a lock get -EDEADLK now and then although nothing is contended, at growing intervals
    /// (<c>CONFIG_DEBUG_WW_MUTEX_SLOWPATH</c>), so that back-off is run by every test.
    /// </summary>
    public bool InjectsLockDeadlocks { get; init; }

    /// <summary>How many violations are kept in words: the first ones. All are counted.</summary>
    public int ViolationsKeptMax { get; init; } = 64;

    /// <summary>Throws when a limit makes no sense.</summary>
    public void Validate() => ArgumentOutOfRangeException.ThrowIfNegative(ViolationsKeptMax);
}
