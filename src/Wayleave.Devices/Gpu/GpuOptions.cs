using Wayleave.Core.Retirement;

namespace Wayleave.Devices.Gpu;

/// <summary>Where a pin puts a buffer.</summary>
public enum GpuPinPolicy
{
    /// <summary>In VRAM it stays there if every attachment reaches it (amdgpu since 6.12).</summary>
    WhereAllReach,

    /// <summary>Always in host memory (amdgpu before that).</summary>
    HostMemory,
}

/// <summary>Limits of a software GPU. Copied at construction.</summary>
public sealed record GpuOptions
{
    /// <summary>
    /// The most bytes that one step of a copy engine moves: what an owner waits for at most when it takes memory back.
    /// </summary>
    public const int BlockBytesMax = 64 * 1024;

    /// <summary>Every allocation is a multiple of this and starts on it. A power of two.</summary>
    public int GranularityBytes { get; init; } = 4096;

    /// <summary>
    /// How much VRAM the BAR shows, in bytes: a power of two. Null shows all. A function that comes with a BAR shows as
    /// much as that holds.
    /// </summary>
    public ulong? VisibleBytes { get; init; }

    /// <summary>Jobs that the copy engine's ring holds. When it is full, work is refused with EAGAIN.</summary>
    public int CopyRingSlots { get; init; } = 256;

    /// <summary>Bytes that the copy engine moves in one step.</summary>
    public int CopyBlockBytes { get; init; } = BlockBytesMax;

    /// <summary>
    /// How long a copy may take from its first block before the engine is told to stop, besides a second for each
    /// 64 MiB.
    /// </summary>
    public TimeSpan CopyTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// How long the engine may take to stop. Afterwards the fence of the copy is forced, which proves nothing.
    /// </summary>
    public TimeSpan CopyStopGrace { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>
    /// Jobs that one queue of the compute engine holds. When it is full, work is refused with EAGAIN.
    /// </summary>
    public int ComputeQueueSlots { get; init; } = 64;

    /// <summary>Bytes of each operand that one step of the compute engine touches.</summary>
    public int ComputeBlockBytes { get; init; } = BlockBytesMax;

    /// <summary>Blocks after which a job may have to give the engine to another queue.</summary>
    public int ComputeQuantumBlocks { get; init; } = 16;

    /// <summary>
    /// How long a job may have the engine, over all times that it got it, besides a second for each 16 MiB that it
    /// touches or 16 Mi multiply-adds.
    /// </summary>
    public TimeSpan ComputeTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Pages behind one that a queue faulted on that come into reach with it, if they are there anyway.
    /// </summary>
    public int FaultAheadPages { get; init; } = 15;

    /// <summary>
    /// An extension: queues that may fault reach private pages of another device where they are, if there is a route
    /// and its driver lets them (<see cref="Core.AddressSpaces.IPeerReachableMemory"/>). Off, such a page comes home
    /// first.
    /// </summary>
    public bool ReachesPrivatePages { get; init; }

    /// <summary>
    /// How long the compute engine may take to stop. Afterwards the fence of the job is forced, which proves nothing.
    /// </summary>
    public TimeSpan ComputeStopGrace { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>Whether a pin may leave a buffer in VRAM.</summary>
    public GpuPinPolicy PinPolicy { get; init; }

    /// <summary>How much memory may be kept from this device before it lends no more.</summary>
    public QuarantineLimits QuarantineLimits { get; init; } = new();

    /// <summary>Off leaves the previous owner's bytes in new buffers: for the test that must notice.</summary>
    internal bool ClearsNewBuffers { get; init; } = true;

    /// <summary>
    /// Off leaves a buffer to its users whose bytes could not be made its own: for the test that must notice.
    /// </summary>
    internal bool TakesBackWhatIsLost { get; init; } = true;

    /// <summary>
    /// Off starts a copy before those who use the old place have stopped: for the test that must notice.
    /// </summary>
    internal bool WaitsForFences { get; init; } = true;

    /// <summary>
    /// Off gives storage back when the revoke starts, not when it is proven: for the test that must notice.
    /// </summary>
    internal bool WaitsForProof { get; init; } = true;

    /// <summary>
    /// Off lets user queues run on when their eviction fence has signalled: for the test that must notice.
    /// </summary>
    internal bool StopsQueues { get; init; } = true;

    /// <summary>
    /// Off signals the eviction fence when the first engine has left the queues: for the test that must notice.
    /// </summary>
    internal bool AwaitsEveryEngine { get; init; } = true;

    /// <summary>
    /// Off puts a queue to sleep that has missed what another engine wrote: for the test that must notice.
    /// </summary>
    internal bool LooksAgain { get; init; } = true;

    /// <summary>
    /// Off notes how often an engine was rung for when it has looked for work: for the test that must notice.
    /// </summary>
    internal bool NotesRingsFirst { get; init; } = true;

    /// <summary>Off returns from a notifier while jobs still run: for the test that must notice.</summary>
    internal bool WaitsInNotifier { get; init; } = true;

    /// <summary>Less than all of a mirror's defences: for the test that must notice.</summary>
    internal Compute.MirrorDefences MirrorDefences { get; init; } = Compute.MirrorDefences.All;

    /// <summary>
    /// Freed memory is not handed out for a lower grade, whatever the owner asks for, because somebody may still be
    /// inside. Less is for the test that must notice.
    /// </summary>
    internal RetirementGrade ReleaseGradeMin { get; init; } = RetirementGrade.Drained;

    /// <summary>Throws one exception that names everything that is wrong.</summary>
    /// <exception cref="ArgumentException">A value is out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (GranularityBytes <= 0 || (GranularityBytes & (GranularityBytes - 1)) != 0)
        {
            problems.Add($"{nameof(GranularityBytes)} is {GranularityBytes}; it must be a power of two");
        }

        if (VisibleBytes is ulong visible && (!ulong.IsPow2(visible) || visible < (ulong)GranularityBytes))
        {
            problems.Add(
                $"{nameof(VisibleBytes)} is {visible}; it must be a power of two from {nameof(GranularityBytes)} on");
        }

        if (CopyRingSlots <= 0)
        {
            problems.Add($"{nameof(CopyRingSlots)} is {CopyRingSlots}; it must be positive");
        }

        if (CopyBlockBytes is <= 0 or > BlockBytesMax)
        {
            problems.Add($"{nameof(CopyBlockBytes)} is {CopyBlockBytes}; it must be between 1 and {BlockBytesMax}");
        }

        if (ComputeQueueSlots <= 0 || ComputeQuantumBlocks <= 0)
        {
            problems.Add($"{nameof(ComputeQueueSlots)} and {nameof(ComputeQuantumBlocks)} must be positive");
        }

        if (ComputeTimeout <= TimeSpan.Zero || ComputeStopGrace <= TimeSpan.Zero)
        {
            problems.Add($"{nameof(ComputeTimeout)} and {nameof(ComputeStopGrace)} must be positive");
        }

        if (FaultAheadPages is < 0 or > 1 << 18)
        {
            problems.Add($"{nameof(FaultAheadPages)} is {FaultAheadPages}; it must be from 0 to {1 << 18}");
        }

        if (ComputeBlockBytes is < 64 or > BlockBytesMax)
        {
            problems.Add($"{nameof(ComputeBlockBytes)} is {ComputeBlockBytes}; it must be from 64 to {BlockBytesMax}");
        }

        if (CopyTimeout <= TimeSpan.Zero || CopyStopGrace <= TimeSpan.Zero)
        {
            problems.Add($"{nameof(CopyTimeout)} and {nameof(CopyStopGrace)} must be positive");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
