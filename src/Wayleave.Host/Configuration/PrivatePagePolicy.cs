namespace Wayleave.Host.Configuration;

/// <summary>What a device does that wants a page of a process which is in another device's memory.</summary>
public enum PrivatePagePolicy
{
    /// <summary>The page migrates to the machine's memory first: the kernel of today.</summary>
    BringHome,

    /// <summary>
    /// It stays, and is reached over the bus, where there is a route between the two devices; otherwise as the other.
    /// </summary>
    Direct,
}
