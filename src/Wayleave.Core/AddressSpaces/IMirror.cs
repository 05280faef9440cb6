using Wayleave.Core.Fences;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// What a driver does when the CPU side takes back a range that its device mirrors
/// (<c>struct mmu_interval_notifier_ops</c>).
/// </summary>
public interface IMirror
{
    /// <summary>For people: <c>gpu0 queue 3</c>.</summary>
    string Name { get; }

    /// <summary>
    /// Called with the host lock held, which stands for the driver's own lock as well. It sets the sequence
    /// (<see cref="IntervalNotifier.SetSequence"/>) whatever else it does, and takes the range away from the device.
    /// </summary>
    /// <param name="notifier">The subscription that the range meets.</param>
    /// <param name="range">What goes, and why.</param>
    /// <param name="sequence">For <see cref="IntervalNotifier.SetSequence"/>.</param>
    /// <returns>
    /// What is left to do before the pages may change. <see cref="InvalidateAnswer.Refused"/> only when
    /// <see cref="InvalidateRange.IsBlockable"/> is false.
    /// </returns>
    InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence);
}

/// <summary>
/// A mirror in two passes (<c>invalidate_start</c> and <c>invalidate_finish</c>): all mirrors of a range start to stop
/// their devices before the first of them is waited for.
/// </summary>
public interface ITwoPassMirror : IMirror
{
    /// <summary>
    /// Runs after every mirror of the range was called, in the same order, where <see cref="IMirror.Invalidate"/>
    /// answered <see cref="InvalidateAnswer.FinishLater"/>.
    /// </summary>
    InvalidateAnswer FinishInvalidate(IntervalNotifier notifier, in InvalidateRange range);
}

/// <summary>What a mirror's callback came to. Where the kernel's would sleep, it names the fence.</summary>
public readonly record struct InvalidateAnswer
{
    private InvalidateAnswer(InvalidateAnswerKind kind, Fence? fence = null, MirrorDrain? drain = null) =>
        (Kind, Fence, Drain) = (kind, fence, drain);

    /// <summary>The device no longer uses the range.</summary>
    public static InvalidateAnswer Done { get; } = new(InvalidateAnswerKind.Done);

    /// <summary>The mirror would have to wait, and may not. For ranges that are not blockable.</summary>
    public static InvalidateAnswer Refused { get; } = new(InvalidateAnswerKind.Refused);

    /// <summary>The device was told; the second pass finds out. For <see cref="ITwoPassMirror"/>.</summary>
    public static InvalidateAnswer FinishLater { get; } = new(InvalidateAnswerKind.FinishLater);

    internal InvalidateAnswerKind Kind { get; }

    internal Fence? Fence { get; }

    internal MirrorDrain? Drain { get; }

    /// <summary>
    /// The device no longer uses the range once the accesses that were under way have ended. Anybody may: it is bounded
    /// by one packet or one block, and no other device has a part in it.
    /// </summary>
    public static InvalidateAnswer WaitFor(MirrorDrain drain)
    {
        ArgumentNullException.ThrowIfNull(drain);
        return new(InvalidateAnswerKind.Wait, drain: drain);
    }

    /// <summary>
    /// The device no longer uses the range once the job of <paramref name="fence"/> has ended. For graphics drivers
    /// only (<see cref="AddressSpace.Subscribe"/>): others break the contract of fences.
    /// </summary>
    public static InvalidateAnswer WaitFor(Fence fence)
    {
        ArgumentNullException.ThrowIfNull(fence);
        return new(InvalidateAnswerKind.Wait, fence);
    }
}

internal enum InvalidateAnswerKind
{
    Done,
    Refused,
    FinishLater,
    Wait,
}
