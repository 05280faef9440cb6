namespace Wayleave.Core.Checking;

// Two ways to say the same, because there are two kinds of code between a fence and its signal. Code that runs on one
// thread from here to there, an engine's step or a completion, stands in this scope: lockdep's way, the thread is who
// runs. A course of events that goes on in whatever thread comes along has an Activity, which says BeginSignaling.
//
// What belongs to somebody else is not in the section although it runs on this thread: whoever waited for a signal or a
// lock goes on inside it, and user callbacks run after the host lock. Core suspends the section around those; in the
// kernel they would be other threads.

/// <summary>
/// The time during which the calling thread runs code that a published fence depends on
/// (<c>dma_fence_begin_signalling</c>, dma-fence.c): from the moment at which others can see the fence until it is
/// signalled. Inside, asking for a reservation, allocating what may have to evict, and waiting for a fence are
/// violations, the first time and although nothing hangs. Needs no lock; ends on the thread on which it began.
/// </summary>
public readonly ref struct SignalingSection
{
    [ThreadStatic]
    private static string? s_who;

    [ThreadStatic]
    private static string? s_what;

    private readonly string? _whoBefore;
    private readonly string? _whatBefore;

    /// <summary>
    /// Begins a section. Inside another one it names who runs now, and the outer one goes on after it.
    /// </summary>
    /// <param name="who">Who signals, for people: <c>gpu0 copy engine</c>.</param>
    /// <param name="what">What is under way, for people: <c>ring</c>.</param>
    public SignalingSection(string who, string what) => Enter(who, what, out _whoBefore, out _whatBefore);

    private SignalingSection(bool isSuspended) => Enter(null, null, out _whoBefore, out _whatBefore);

    /// <summary>Whether the calling thread is in a section.</summary>
    public static bool IsInside => s_who is not null;

    internal static string? Who => s_who;

    internal static string What => s_what ?? "";

    /// <summary>The section is over, or goes on after it was suspended.</summary>
    public void Dispose() => (s_who, s_what) = (_whoBefore, _whatBefore);

    /// <summary>
    /// From here until the scope is disposed this thread runs for somebody whom the fence does not depend on: it starts
    /// what may have to wait, and does not wait for it.
    /// </summary>
    public static SignalingSection Suspend() => new(isSuspended: true);

    private static void Enter(string? who, string? what, out string? whoBefore, out string? whatBefore)
    {
        (whoBefore, whatBefore) = (s_who, s_what);
        (s_who, s_what) = (who, what);
    }
}
