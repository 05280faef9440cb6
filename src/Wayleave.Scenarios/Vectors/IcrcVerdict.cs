namespace Wayleave.Scenarios.Vectors;

/// <summary>What the last four bytes of a captured packet say about the rest of it.</summary>
public enum IcrcVerdict
{
    /// <summary>All 32 bits agree; a capture shows every header the ICRC covers.</summary>
    Ok,

    /// <summary>The packet is damaged: the ICRC differs, or there is no room for one.</summary>
    Bad,

    /// <summary>The capture kept only the start of the packet, so nothing can be said.</summary>
    Truncated,
}
