namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>How far a FLUSH brings data (<c>enum ibv_placement_type</c>, same numbers).</summary>
[Flags]
public enum FlushPlacement
{
    None = 0,

    /// <summary>Visible to every processor and device of the peer.</summary>
    Global = 1 << 0,

    /// <summary>Kept when the power fails.</summary>
    Persistent = 1 << 1,
}

/// <summary>What a FLUSH is about (<c>enum ibv_selectivity_level</c>, same numbers).</summary>
public enum FlushSelectivity
{
    /// <summary>The range of the request.</summary>
    Range = 0,

    /// <summary>The whole region; the range is ignored.</summary>
    MemoryRegion = 1,
}
