using Wayleave.Core.Retirement;

namespace Wayleave.Devices.Vfio;

/// <summary>What a VFIO driver does with its function. Copied at construction.</summary>
public sealed record VfioOptions
{
    /// <summary>Whether its driver exports BARs at all (<c>get_dmabuf_phys</c>).</summary>
    public bool ExportsBars { get; init; } = true;

    /// <summary>The BARs that it has claimed; others are not its to export. Null means all.</summary>
    public IReadOnlyList<int>? ClaimedBars { get; init; }

    /// <summary>
    /// How long it waits for importers before it names who is late. It goes on waiting after that: a BAR that somebody
    /// may still use is neither switched off nor reset.
    /// </summary>
    public TimeSpan Patience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>
    /// Off switches the BARs off, or resets, while importers are inside: for the test that must notice.
    /// </summary>
    internal bool WaitsForImporters { get; init; } = true;

    internal RevokePolicy PolicyFor(string reason) => new()
    {
        RequiredGrade = RetirementGrade.Retired,
        Timeout = Patience,
        Reason = reason,
    };
}

/// <summary>Power states of a PCI function (<c>pci_power_t</c>, same numbers).</summary>
public enum PciPowerState
{
    D0 = 0,
    D1 = 1,
    D2 = 2,

    /// <summary>Powered, and its BARs answer nothing.</summary>
    D3Hot = 3,
    D3Cold = 4,
}

/// <summary>A part of a BAR (<c>struct vfio_region_dma_range</c>).</summary>
/// <param name="Offset">Of the first byte in the BAR; whole pages.</param>
/// <param name="LengthBytes">Whole pages, not zero.</param>
public readonly record struct VfioRange(ulong Offset, ulong LengthBytes);
