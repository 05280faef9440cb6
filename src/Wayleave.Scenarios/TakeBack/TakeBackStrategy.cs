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

    /// <summary>
    /// What real machines do at once, because each device does what it can: who is which is in the description.
    /// </summary>
    public static IReadOnlyList<TakeBackStrategy> Mixes { get; } =
    [
        Mix("faults-and-revoke", "restartable-faults", "restartable-faults", "revoke"),
        Mix("faults-beside-pins", "restartable-faults", "pin-everything", "pin-everything"),
        Mix("fences-and-revoke", "fence-in-notifier", "restartable-faults", "revoke"),
        Mix("preemption-and-legacy", "queue-preemption", "pin-everything", "legacy-peer"),
    ];

    /// <summary>A strategy or a mix by its name, or a mix by its three parts: GPU+MEMORY+BUFFER.</summary>
    /// <returns>Null when there is no such.</returns>
    public static TakeBackStrategy? Find(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        string[] parts = name.Split('+');
        return parts.Length == 3 && Array.TrueForAll(parts, p => All.Any(s => s.Name == p))
            ? Mix(name, parts[0], parts[1], parts[2])
            : All.Concat(Mixes).FirstOrDefault(s => s.Name == name);
    }

    private static TakeBackStrategy Mix(string name, string gpu, string memory, string buffer)
    {
        TakeBackStrategy nic = Of(memory), peer = Of(buffer);
        return Of(gpu) with
        {
            Name = name,
            Description = $"the second GPU does {gpu}, the NIC with the process's memory {memory}, and with the first "
                + $"GPU's buffer {buffer}",
            NicPagesOnDemand = nic.NicPagesOnDemand,
            NicKind = peer.NicKind,
            IsLegacyPeer = peer.IsLegacyPeer,
            Revokes = peer.Revokes,
        };
    }

    private static TakeBackStrategy Of(string name) => All.First(s => s.Name == name);
}
