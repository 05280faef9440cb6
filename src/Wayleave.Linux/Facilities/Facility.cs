namespace Wayleave.Linux.Facilities;

/// <summary>Whether this process can use a facility.</summary>
public enum FacilityState
{
    /// <summary>It can be used.</summary>
    Present,

    /// <summary>The kernel or the machine does not have it now.</summary>
    Absent,

    /// <summary>It is there, and this process may not use it.</summary>
    Denied,
}

/// <summary>One thing of a machine that Wayleave can use.</summary>
/// <param name="Area">What it belongs to: <c>memory</c>, <c>dma-buf</c>, <c>peer to peer</c>, <c>network</c>.</param>
/// <param name="Name">Short and unique, for tables and scripts.</param>
/// <param name="State">Whether this process can use it.</param>
/// <param name="Found">What exactly was found; of what cannot be used, why not.</param>
/// <param name="Remedy">What somebody can do about it, also where more could be had; null: nothing.</param>
public sealed record Facility(string Area, string Name, FacilityState State, string Found, string? Remedy = null);
