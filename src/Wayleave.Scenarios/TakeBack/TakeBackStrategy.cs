using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>What is done when memory that devices use is wanted back.</summary>
/// <param name="Name">Lower case with hyphens.</param>
/// <param name="Description">One sentence: who does what.</param>
public sealed record TakeBackStrategy(string Name, string Description)
{
    /// <summary>How the second GPU uses the memory of the process.</summary>
    internal GpuUserMemory UserMemory { get; init; } = GpuUserMemory.Pinned;

    /// <summary>Its work is a user queue without fences, not jobs with fences.</summary>
    internal bool UsesUserQueue { get; init; }

    /// <summary>The processor waits for the first GPU before it hands work to the second.</summary>
    internal bool StallsBeforeHandOver { get; init; }

    /// <summary>The NIC pages the memory of the process on demand; otherwise it has pinned it.</summary>
    internal bool NicPagesOnDemand { get; init; }

    /// <summary>What the NIC is to the buffer in the first GPU's memory.</summary>
    internal ImporterKind NicKind { get; init; } = ImporterKind.Dynamic;

    /// <summary>The NIC's region over that buffer is PeerDirect's.</summary>
    internal bool IsLegacyPeer { get; init; }

    /// <summary>The owner takes that buffer back for good and makes another; otherwise it moves it.</summary>
    internal bool Revokes { get; init; }

    /// <summary>In the order of the report.</summary>
    public static IReadOnlyList<TakeBackStrategy> All { get; } =
    [
        new(
            "restartable-faults",
            "devices fault: the notifier takes entries away, waits for the block or packet under way, and for no job")
        {
            UserMemory = GpuUserMemory.Fault,
            UsesUserQueue = true,
            NicPagesOnDemand = true,
        },
        new(
            "fence-in-notifier",
            "the GPU's notifier waits for the fences of its jobs, and so for whatever these wait for elsewhere")
        {
            UserMemory = GpuUserMemory.WaitForFences,
            NicPagesOnDemand = true,
        },
        new(
            "local-drain",
            "jobs wait for other devices in the GPU's own queue; the notifier waits for the one that runs, and the "
            + "others look their pages up when they begin")
        {
            UserMemory = GpuUserMemory.DrainLocally,
            NicPagesOnDemand = true,
        },
        new(
            "queue-preemption",
            "the GPU's user queues are stopped at the next block and restored a millisecond later")
        {
            UserMemory = GpuUserMemory.WaitForFences,
            UsesUserQueue = true,
            NicPagesOnDemand = true,
        },
        new(
            "stall-before-hand-over",
            "as fence-in-notifier, but the processor waits for one device before it hands work to the next")
        {
            UserMemory = GpuUserMemory.WaitForFences,
            StallsBeforeHandOver = true,
            NicPagesOnDemand = true,
        },
        new(
            "pin-everything",
            "GPU and NIC pin all that they use, and nothing moves")
        {
            NicKind = ImporterKind.Pinned,
        },
        new(
            "revoke",
            "memory of the process is pinned; the GPU's buffer is revoked: the NIC's key dies with a proof, and the "
            + "program makes another buffer, registers it and connects anew")
        {
            NicKind = ImporterKind.PinnedRevocable,
            Revokes = true,
        },
        new(
            "legacy-peer",
            "memory of the process is pinned; the GPU's buffer moves when it must, and the NIC's region is destroyed "
            + "at once: the program registers and connects anew")
        {
            IsLegacyPeer = true,
        },
    ];
}
