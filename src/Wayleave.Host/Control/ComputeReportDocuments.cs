using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Host.Control;

/// <summary><c>GET /v1/compute</c>: who uses the GPUs of a host, and for what.</summary>
public sealed record ComputeDocument
{
    public string Schema { get; set; } = "wayleave.compute.v1";

    public required string Host { get; init; }

    public required IReadOnlyList<ComputeGpuDocument> Gpus { get; init; }

    /// <summary>Names by which jobs wait for each other.</summary>
    public required IReadOnlyList<SyncPointDocument> Points { get; init; }
}

/// <summary>The engines of a GPU that run commands.</summary>
public sealed record ComputeGpuDocument
{
    public required string Name { get; init; }

    public required GpuCommandMode Mode { get; init; }

    public required GpuPinPolicy PinPolicy { get; init; }

    public required long HangLimitMs { get; init; }

    /// <summary>What is done when pages of a client's own memory are wanted.</summary>
    public required GpuUserMemory UserMemory { get; init; }

    public required ulong UserMemoryFreeBytes { get; init; }

    /// <summary>Pages that were taken from a client because others needed memory.</summary>
    public required long UserMemoryReclaims { get; init; }

    /// <summary>VRAM that clients' pages migrate to; 0 when they stay where they are.</summary>
    public required ulong UserVramBytes { get; init; }

    public required ulong UserVramFreeBytes { get; init; }

    /// <summary>Pages that went to VRAM because a ring faulted on them.</summary>
    public required long PagesMigratedToVram { get; init; }

    /// <summary>Pages that came back because somebody else wanted them.</summary>
    public required long PagesMigratedHome { get; init; }

    public required int QueuesMax { get; init; }

    /// <summary>How often a job had to give its engine up before it was done.</summary>
    public required long Preemptions { get; init; }

    /// <summary>Jobs that took longer than they may, oldest first, in words.</summary>
    public required IReadOnlyList<string> Hangs { get; init; }

    public required IReadOnlyList<ComputeContextDocument> Contexts { get; init; }

    /// <summary>What stopped an engine of it, if anything did.</summary>
    public string? Failure { get; init; }
}

/// <summary>What one client has of a GPU.</summary>
public sealed record ComputeContextDocument
{
    public required ulong Id { get; init; }

    public required string Name { get; init; }

    public required IReadOnlyList<string> Buffers { get; init; }

    public required IReadOnlyList<QueueDocument> Queues { get; init; }

    /// <summary>Those that have not ended, and the last ones that have.</summary>
    public required IReadOnlyList<JobDocument> Jobs { get; init; }

    /// <summary>Memory of it that peers reach by a key.</summary>
    public required IReadOnlyList<RegionDocument> Regions { get; init; }

    /// <summary>Queue pairs of peers that are connected to it.</summary>
    public required int Connections { get; init; }

    /// <summary>Touches of its rings of pages that were not there.</summary>
    public required long Faults { get; init; }

    /// <summary>How often its rings had to stop because somebody wanted its memory.</summary>
    public required long Evictions { get; init; }

    /// <summary>Why it is ending, if it is.</summary>
    public string? Ending { get; init; }
}

/// <summary>Where the work of a name is.</summary>
public enum SyncPointState
{
    /// <summary>Somebody waits for it, and nobody has submitted it.</summary>
    Unknown,

    Pending,
    Signaled,
}

/// <summary>A name by which jobs wait for each other.</summary>
public sealed record SyncPointDocument
{
    public required string Name { get; init; }

    public required SyncPointState State { get; init; }

    /// <summary>Of the work, if it failed.</summary>
    public string? Error { get; init; }
}
