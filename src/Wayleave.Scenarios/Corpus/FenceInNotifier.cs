namespace Wayleave.Scenarios.Corpus;

// Report: https://lkml.iu.edu/hypermail/linux/kernel/2006.2/05860.html (Re: [PATCH 04/18] dma-fence: prime lockdep
// annotations), the argument of 2020 between graphics and RDMA, by which the kernel's rules for dma_fence were written
// down (dma-fence.c, "fence cross-driver contract"; docs/internals/linux.md 3.8 to 3.10). Device A runs a job;
// device B runs one that needs A's result and reads a page of a program's memory. The kernel wants that page back,
// holds a lock, and asks B's notifier, which waits until B's job is done. A's completion needs the same lock. Nobody
// is wrong alone.
//
// Faithful: fences, their order across devices, the lock with its queue, the gate of the mapping and the checker are
// those of the shipped core; who waits for what is step 1 to 6 of the digest.
// Not faithful: one lock stands for whatever A's completion may need of what a reclaimer holds (a reservation, the
// address-space lock, an allocation); page contents go to swap and back in one step.

/// <summary>A notifier waits for a fence whose completion needs the notifier's caller, and what helps.</summary>
internal static class FenceInNotifier
{
    private static readonly NotifierDesign s_hang = new();
    private static readonly NotifierDesign s_faults = s_hang with { HasRestartableFaults = true };

    private static readonly BrokenVariant s_nothing = new(
        "nothing-against-it", "The completion takes the lock, the notifier waits for the fence, and nobody looks.",
        c => new NotifierModel(c, s_hang).ToScenario());

    /// <summary>The checker refuses the wait that would close the circle.</summary>
    public static NamedScenario Checked { get; } = Make(
        "fence-in-notifier",
        "The circle is there, and the wait that would close it is refused with the circle in words; everybody ends.",
        "the checker looks at each wait before it begins",
        s_hang with { HasChecker = true },
        s_nothing);

    /// <summary>The rule that the kernel adopted.</summary>
    public static NamedScenario Rule { get; } = Make(
        "fence-in-notifier-rule",
        "The completion path takes nothing that is held around a wait for a fence; the notifier may wait.",
        "between publishing a fence and signalling it nothing is taken",
        s_hang with { CompletionTakesLock = false },
        s_nothing);

    /// <summary>First breaker.</summary>
    public static NamedScenario Faults { get; } = Make(
        "fence-in-notifier-faults",
        "The device can fault: its notifier takes the mapping away, the access is repeated when the page is back, "
        + "and the device never reads a page that was given away.",
        "restartable faults: the notifier waits for no fence",
        s_faults,
        s_nothing,
        new("zap-without-drain", "The page is given away while the access that has begun is still reading it.",
            c => new NotifierModel(c, s_faults with { DrainsMapping = false }).ToScenario()));

    /// <summary>Second breaker.</summary>
    public static NamedScenario Stall { get; } = Make(
        "fence-in-notifier-stall",
        "The processor hands the second job over when the first has ended: its fence depends on no other device.",
        "the processor stalls before the hand-over",
        s_hang with { StallsBeforeHandOver = true },
        s_nothing);

    /// <summary>Third breaker.</summary>
    public static NamedScenario Pinned { get; } = Make(
        "fence-in-notifier-pinned",
        "The page is pinned for as long as the job may read it, and reclaim passes it over.",
        "pin everything",
        s_hang with { PinsEverything = true },
        s_nothing);

    private static NamedScenario Make(
        string name, string description, string defence, NotifierDesign design, params BrokenVariant[] broken) =>
        new(name, description, c => new NotifierModel(c, design).ToScenario(), broken)
        {
            Reports = ["https://lkml.iu.edu/hypermail/linux/kernel/2006.2/05860.html"],
            Defence = defence,
            MeasureCosts = () => NotifierModel.Measure(design),
        };
}
