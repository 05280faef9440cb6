using System.Globalization;
using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Host.Configuration;

/// <summary>
/// The compute engine of a GPU: who checks what commands name, and how much of it one client may have.
/// </summary>
public sealed record ComputeConfig
{
    /// <summary>The longest that a job may be let run.</summary>
    public static readonly TimeSpan HangLimitMax = TimeSpan.FromHours(1);

    /// <summary>The most queues of a GPU, and jobs of a queue.</summary>
    public const int CountMax = 4096;

    /// <summary>Whether commands name handles that are parsed, or addresses that a page table decides about.</summary>
    public GpuCommandMode Mode { get; init; } = GpuCommandMode.Paged;

    /// <summary>Queues of all clients together; another one is refused.</summary>
    public int QueuesMax { get; init; } = 64;

    /// <summary>Jobs in one queue; another one is refused.</summary>
    public int QueueSlots { get; init; } = 64;

    /// <summary>Blocks after which a job may have to give the engine to another queue.</summary>
    public int QuantumBlocks { get; init; } = 16;

    /// <summary>How long a job may have the engine, besides a second for each 16 MiB that it touches.</summary>
    public TimeSpan HangLimit { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long the engine may take to stop before the fences of a hung job are forced.</summary>
    public TimeSpan StopGrace { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>What is done when pages of a client's own memory are wanted.</summary>
    public GpuUserMemory UserMemory { get; init; }

    /// <summary>
    /// Pages for the memory of all clients together, a multiple of <see cref="GpuConfig.GranuleBytes"/>; as much again
    /// can be swapped out. Taken from the system only as it is touched.
    /// </summary>
    public long UserMemoryBytes { get; init; } = 16L << 20;

    /// <summary>
    /// VRAM that pages of clients migrate to when their rings fault on them, a multiple of
    /// <see cref="GpuConfig.GranuleBytes"/>; 0: they stay where they are. Only with <see cref="GpuUserMemory.Fault"/>.
    /// </summary>
    public long UserVramBytes { get; init; }

    /// <summary>
    /// How rings that fault get at pages of a client that are in another GPU's memory. Only with
    /// <see cref="GpuUserMemory.Fault"/>: in all other ways pages come home.
    /// </summary>
    public PrivatePagePolicy PrivatePages { get; init; }

    /// <summary>
    /// What of its own memory one client may have pinned at a time (<c>RLIMIT_MEMLOCK</c>), by pinned regions and by a
    /// GPU that pins what it uses; 0 forbids it. Null: no limit but the pages that there are.
    /// </summary>
    public long? PinnedBytesPerClientMax { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        CheckCount(problems, path + ".queues_max", QueuesMax);
        CheckCount(problems, path + ".queue_slots", QueueSlots);
        CheckCount(problems, path + ".quantum_blocks", QuantumBlocks);
        CheckTime(problems, path + ".hang_limit_ms", HangLimit);
        CheckTime(problems, path + ".stop_grace_ms", StopGrace);
        MemorySize.Check(
            problems, path + ".user_memory_bytes", UserMemoryBytes, GpuConfig.GranuleBytes, GpuConfig.GranuleBytes);
        if (UserVramBytes != 0)
        {
            MemorySize.Check(
                problems, path + ".user_vram_bytes", UserVramBytes, GpuConfig.GranuleBytes, GpuConfig.GranuleBytes);
        }

        if (UserVramBytes != 0 && UserMemory != GpuUserMemory.Fault)
        {
            problems.Add(new ConfigProblem(
                path + ".user_vram_bytes",
                "pages migrate when rings fault on them: \"user_memory\" must be \"fault\""));
        }

        if (PrivatePages == PrivatePagePolicy.Direct && UserMemory != GpuUserMemory.Fault)
        {
            problems.Add(new ConfigProblem(
                path + ".private_pages",
                "only rings that fault reach pages of another GPU: \"user_memory\" must be \"fault\""));
        }

        if (PinnedBytesPerClientMax is < 0)
        {
            problems.Add(new ConfigProblem(
                path + ".pinned_bytes_per_client_max", Say($"{PinnedBytesPerClientMax} is less than nothing")));
        }
    }

    private static void CheckCount(List<ConfigProblem> problems, string path, int count)
    {
        if (count is < 1 or > CountMax)
        {
            problems.Add(new ConfigProblem(path, Say($"{count} is out of range; allowed are 1 to {CountMax}")));
        }
    }

    private static void CheckTime(List<ConfigProblem> problems, string path, TimeSpan time)
    {
        if (time <= TimeSpan.Zero || time > HangLimitMax)
        {
            problems.Add(new ConfigProblem(path, Say(
                $"{time.TotalMilliseconds} is out of range; allowed are 1 to {HangLimitMax.TotalMilliseconds}")));
        }
    }

    private static string Say(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
