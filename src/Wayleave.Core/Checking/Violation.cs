namespace Wayleave.Core.Checking;

/// <summary>
/// Which contract was broken. The kernel prints a warning with a backtrace in these places and goes on.
/// </summary>
public enum ViolationKind
{
    /// <summary>A request for no fence slot at all (<c>dma_resv_reserve_fences</c>).</summary>
    ReserveFences,

    /// <summary>An error set after the signal, or one that is no error (<c>dma_fence_set_error</c>).</summary>
    FenceError,

    /// <summary>
    /// Fences of different contexts compared, or a point of a timeline that is not later than the last.
    /// </summary>
    FenceOrder,

    /// <summary>The owner of a pending fence is gone.</summary>
    FenceDropped,

    /// <summary>An array or chain where only a plain fence may stand.</summary>
    FenceContainer,

    /// <summary>A fence that only a user's program signals, where others wait implicitly.</summary>
    IndefiniteFence,

    /// <summary>A negative time-out, or a wait for none of no fences.</summary>
    WaitArguments,

    /// <summary>A notifier or a reclaim that must not wait for fences waits for one.</summary>
    FenceWaitPolicy,

    /// <summary>
    /// A ticket that goes on after -EDEADLK, after its end was announced, or that ends while it holds locks.
    /// </summary>
    Ticket,

    /// <summary>Two classes of locks taken in opposite orders, although nothing hung.</summary>
    LockOrder,

    /// <summary>
    /// Something between publishing a fence and signalling it that others do while they wait for fences.
    /// </summary>
    SignalingSection,

    /// <summary>A wait that would have closed a circle; it was refused.</summary>
    WaitCycle,

    /// <summary>An export that lacks something it must have (<c>dma_buf_export</c>).</summary>
    Export,

    /// <summary>An importer that can do less, or more, than its kind says.</summary>
    ImporterKind,

    /// <summary>A pin by an importer that Core pins for, or one that the attach should have refused.</summary>
    Pin,

    /// <summary>
    /// An exporter that answered what it must not: a list of another length, a mapping it cannot make.
    /// </summary>
    ExporterAnswer,

    /// <summary>An importer that was told to stop and had not unmapped when its owner stopped waiting.</summary>
    LateUnmap,

    /// <summary>An importer that unmapped and had not shown that the gate it closed is empty.</summary>
    UndrainedUnmap,

    /// <summary>A mirror of an address space that did not keep to the protocol (<c>mmu_notifier.c</c>).</summary>
    Notifier,

    /// <summary>A pin of pages with flags that do not go together (<c>gup.c</c>).</summary>
    PagePin,
}

/// <summary>A contract that somebody broke.</summary>
/// <param name="Kind">Which one.</param>
/// <param name="Subject">The object that it happened to.</param>
/// <param name="Message">What happened and what the rule is.</param>
/// <param name="At">On the host's clock.</param>
public sealed record Violation(ViolationKind Kind, string Subject, string Message, TimeSpan At)
{
    public override string ToString() => $"{Subject}: {Message}";
}
