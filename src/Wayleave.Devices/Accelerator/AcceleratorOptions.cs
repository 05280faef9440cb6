namespace Wayleave.Devices.Accelerator;

/// <summary>What an accelerator is. Copied at construction.</summary>
public sealed record AcceleratorOptions
{
    /// <summary>The unit of device memory; a power of two, at least 4 KiB.</summary>
    public int PageBytes { get; init; } = 64 * 1024;

    /// <summary>
    /// Whether device memory has virtual addresses, which are exported by where they were mapped. Without (Gaudi 1)
    /// memory is exported by its address in the device, and the driver does not know what the user put where.
    /// </summary>
    public bool HasVirtualMemory { get; init; } = true;

    /// <summary>
    /// How much of the memory the BAR shows; a power of two. Null shows all. A function that comes with a BAR shows as
    /// much as that holds.
    /// </summary>
    public ulong? VisibleBytes { get; init; }

    /// <summary>The address of the first byte of memory in the device.</summary>
    public ulong MemoryBase { get; init; } = 0x2000_0000_0000;

    /// <summary>Memory from the start on that is the firmware's and no user's: whole pages.</summary>
    public ulong ReservedBytes { get; init; }

    /// <summary>Off leaves the previous user's bytes in new memory: for the test that must notice.</summary>
    internal bool ClearsNewMemory { get; init; } = true;

    /// <summary>
    /// Off leaves memory to its users that could not be cleared: for the test that must notice.
    /// </summary>
    internal bool TakesBackWhatIsLost { get; init; } = true;

    /// <summary>Off lets memory be unmapped while it is exported: for the test that must notice.</summary>
    internal bool KeepsExportedMemory { get; init; } = true;

    /// <summary>Throws one exception that names everything that is wrong.</summary>
    /// <exception cref="ArgumentException">A value is out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (PageBytes < 4096 || !int.IsPow2(PageBytes))
        {
            problems.Add($"{nameof(PageBytes)} is {PageBytes}; it must be a power of two from 4096 on");
        }
        else if (ReservedBytes % (ulong)PageBytes != 0 || VisibleBytes % (ulong)PageBytes > 0)
        {
            problems.Add($"{nameof(ReservedBytes)} and {nameof(VisibleBytes)} must be multiples of {PageBytes}");
        }

        if (VisibleBytes is ulong visible && !ulong.IsPow2(visible))
        {
            problems.Add($"{nameof(VisibleBytes)} is {visible}; a BAR is a power of two");
        }

        if (MemoryBase % 4096 != 0)
        {
            problems.Add($"{nameof(MemoryBase)} is 0x{MemoryBase:x}; it must be a multiple of 4096");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
