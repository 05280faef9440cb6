namespace Wayleave.Devices.Gpu;

/// <summary>Counters of a GPU at one moment. Bytes are in bytes; counts run since the device was made.</summary>
public readonly record struct GpuStats
{
    public ulong VramTotalBytes { get; init; }

    public ulong VramFreeBytes { get; init; }

    public ulong VramUsedBytes { get; init; }

    public ulong VramQuarantinedBytes { get; init; }

    /// <summary>VRAM beyond the BAR; not part of the VRAM that the numbers above are about.</summary>
    public ulong HiddenVramTotalBytes { get; init; }

    public ulong HiddenVramFreeBytes { get; init; }

    public ulong HiddenVramUsedBytes { get; init; }

    public ulong HiddenVramQuarantinedBytes { get; init; }

    public ulong SystemTotalBytes { get; init; }

    public ulong SystemFreeBytes { get; init; }

    public ulong SystemUsedBytes { get; init; }

    public ulong SystemQuarantinedBytes { get; init; }

    /// <summary>Buffers that their owners have not freed.</summary>
    public int Buffers { get; init; }

    /// <summary>Moves that brought their bytes to the target: evictions and restores.</summary>
    public long Moves { get; init; }

    /// <summary>Moves from VRAM to system memory.</summary>
    public long Evictions { get; init; }

    /// <summary>Moves from system memory to VRAM.</summary>
    public long Restores { get; init; }

    public ulong MovedBytes { get; init; }

    /// <summary>Bytes of new buffers that were cleared.</summary>
    public ulong ClearedBytes { get; init; }

    /// <summary>Jobs in the copy engine's ring.</summary>
    public int CopyJobs { get; init; }
}
