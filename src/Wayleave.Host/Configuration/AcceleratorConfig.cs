namespace Wayleave.Host.Configuration;

/// <summary>
/// A software accelerator: memory that is exported by range, stays where it is and is not taken back.
/// </summary>
public sealed record AcceleratorConfig
{
    public string Name { get; init; } = "accel0";

    /// <summary>
    /// Device memory, a multiple of <see cref="PageBytes"/>. Taken from the system only as it is touched.
    /// </summary>
    public long MemoryBytes { get; init; } = 256L << 20;

    /// <summary>The unit of device memory: a power of two of 4 KiB to 2 MiB.</summary>
    public long PageBytes { get; init; } = 64 * 1024;

    /// <inheritdoc cref="GpuConfig.VisibleBytes"/>
    public long? VisibleBytes { get; init; }

    /// <inheritdoc cref="NicConfig.Function"/>
    public string? Function { get; init; }

    internal void Validate(List<ConfigProblem> problems, string path)
    {
        const long PageBytesMax = 2 << 20;
        if (PageBytes is < 4096 or > PageBytesMax || !long.IsPow2(PageBytes))
        {
            problems.Add(new ConfigProblem(
                path + ".page_bytes", $"{PageBytes} is not a page; give a power of two of 4KiB to 2MiB"));
            return; // everything else is counted in pages
        }

        MemorySize.Check(problems, path + ".memory_bytes", MemoryBytes, PageBytes, PageBytes);
        MemorySize.CheckVisible(problems, path + ".visible_bytes", VisibleBytes, MemoryBytes, PageBytes);
    }
}
