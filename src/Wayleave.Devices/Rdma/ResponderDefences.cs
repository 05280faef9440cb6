namespace Wayleave.Devices.Rdma;

/// <summary>
/// The defences against late access, and against a flood or a silence that a peer did not deserve, each of which a
/// test, or <c>demo --break</c>, can take away to show that its absence is noticed. Everything is on in a product.
/// </summary>
public sealed record ResponderDefences
{
    public static ResponderDefences All { get; } = new();

    /// <summary>
    /// What <c>demo --break revoke-gate</c> runs: the port keeps the translation and the key it saw first, for ever.
    /// </summary>
    public static ResponderDefences BrokenRevokeGate { get; } = new()
    {
        ReadsTranslationPerPacket = false,
        EntersGate = false,
        RefusesDeadKeys = false,
    };

    /// <summary>
    /// What <c>demo --break key-reuse</c> runs: the number of a dead key is free although its region still holds it.
    /// </summary>
    public static ResponderDefences BrokenKeyReuse { get; } = new() { HoldsDeadNumbers = false };

    /// <summary>
    /// Every packet looks for the current translation; without it, the first one ever is good enough.
    /// </summary>
    public bool ReadsTranslationPerPacket { get; init; } = true;

    /// <summary>
    /// A packet of a run that finds another translation than the one before it looks for its place anew; without it, it
    /// goes on where that one ended.
    /// </summary>
    public bool ForgetsPlaces { get; init; } = true;

    /// <summary>Every access goes through the gate of its translation.</summary>
    public bool EntersGate { get; init; } = true;

    /// <summary>
    /// A run of packets out of one piece of memory ends when its gate was closed, not when it is over.
    /// </summary>
    public bool EndsRuns { get; init; } = true;

    /// <summary>A dead key is refused.</summary>
    public bool RefusesDeadKeys { get; init; } = true;

    /// <summary>A dead key keeps its number until its region is deregistered.</summary>
    public bool HoldsDeadNumbers { get; init; } = true;

    /// <summary>
    /// Where keys cannot die under traffic, the owner waits until the port stands still; without it, a driver says that
    /// the key is dead while the hardware goes on.
    /// </summary>
    public bool StandsStill { get; init; } = true;

    /// <summary>The range and rights of a message are checked on its first packet, before a byte is placed.</summary>
    public bool ChecksRange { get; init; } = true;

    /// <summary>
    /// Every packet of a WRITE looks whether the window that its First named is still bound; without it, the First
    /// decides for all of them.
    /// </summary>
    public bool ChecksWindowPerPacket { get; init; } = true;

    /// <summary>
    /// The limit of a shared receive queue is taken back only if it is still the one that was compared with.
    /// </summary>
    public bool TakesLimitOnce { get; init; } = true;

    /// <summary>
    /// Whoever posts a receive looks at the state again when it is published: the flush may have gone by before.
    /// </summary>
    public bool RingsAfterReceive { get; init; } = true;

    /// <summary>
    /// A queue pair that was detached from a group gets nothing more from it, whoever else is attached.
    /// </summary>
    public bool ForgetsDetached { get; init; } = true;

    /// <summary>Threads that post to one queue pair do it one after the other.</summary>
    public bool OrdersPosters { get; init; } = true;

    /// <summary>An atomic that was seen before is answered with what was stored, not executed again.</summary>
    public bool ReplaysAtomics { get; init; } = true;

    /// <summary>
    /// What is sent again to a peer has a bound; without it, 60 bytes of anybody who knows a READ are worth its answer.
    /// </summary>
    public bool CapsReplays { get; init; } = true;

    /// <summary>
    /// Some of what may be sent again is kept for others than who asked for the rest; without it, one forged packet a
    /// round trip keeps a peer that lost something from getting on.
    /// </summary>
    public bool KeepsReplayReserve { get; init; } = true;

    /// <summary>
    /// A key that was refused is looked up again; without it, one that exists is refused sooner the second time than
    /// one that does not.
    /// </summary>
    public bool ForgetsRefused { get; init; } = true;

    /// <summary>A packet that was seen before is not placed again.</summary>
    public bool RefusesDuplicates { get; init; } = true;

    /// <summary>A packet that comes before its turn is held until then; without it, it is placed at once.</summary>
    public bool HoldsEarly { get; init; } = true;

    /// <summary>
    /// Who asks for a READ again lets go of what it holds of the answer; without it, bytes of two times are mixed.
    /// </summary>
    public bool ForgetsHeld { get; init; } = true;

    /// <summary>
    /// What is held makes room in the window of READs when it comes, and not again in its turn; without it, more is
    /// asked for than the socket has room for.
    /// </summary>
    public bool FreesHeldOnce { get; init; } = true;

    /// <summary>
    /// In its turn, what is held gives back what it did not when it came; without it, a late answer keeps room in the
    /// window of READs until its queue pair goes back again, which an idle one never does.
    /// </summary>
    public bool CountsFreed { get; init; } = true;

    /// <summary>
    /// A socket that was found empty counts as that until something is taken from it; without it, for ever, and more is
    /// asked for than its buffer has room for while the kernel has not given back what was read.
    /// </summary>
    public bool NoticesArrivals { get; init; } = true;

    /// <summary>
    /// An acknowledgement that a queue pair owes leaves although it is reset, stopped or destroyed: its peer was
    /// served, and would ask in vain.
    /// </summary>
    public bool SettlesBeforeEnd { get; init; } = true;

    /// <summary>
    /// A probe leaves the window as it is until its own answer comes; without it, a peer that was merely not running is
    /// sent another window on top of what is still in its socket.
    /// </summary>
    public bool ProbesKeepCharges { get; init; } = true;

    /// <summary>
    /// The second answer to a question that a time-out repeated is not taken for that of a probe; without it, a peer
    /// that was merely not running is sent everything again.
    /// </summary>
    public bool SkipsSecondAnswers { get; init; } = true;

    /// <summary>
    /// How long an answer is waited for counts from the question; without it, from what was sent first, and a queue
    /// pair that waits for its turn among others takes that for a silence, and asks though nothing is lost.
    /// </summary>
    public bool WaitsFromQuestions { get; init; } = true;
}
