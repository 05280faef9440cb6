using Wayleave.Core.Checking;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Memory is short: pages are taken from whoever used them longest ago (<c>kswapd</c>), with their mirrors told.
/// </summary>
public sealed class ReclaimOperation : SpaceOperation
{
    private readonly int _pages;

    internal ReclaimOperation(MemorySystem memory, int pages, Activity? activity)
        : base(memory, activity ?? new Activity(memory.Host, ActivityKind.Reclaim, memory.Name), "reclaim") =>
        _pages = pages;

    /// <summary>Pages that are free now and were not.</summary>
    public long ReclaimedCount { get; private set; }

    private protected override IEnumerable<Pause> Run()
    {
        long before = Memory.Stats.Reclaimed;
        foreach (Pause pause in Reclaimer.Reclaim(this, _pages))
        {
            yield return pause;
        }

        TakeStepErrno(out _);
        ReclaimedCount = Memory.Stats.Reclaimed - before;
    }
}
