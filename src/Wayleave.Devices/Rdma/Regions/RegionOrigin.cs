namespace Wayleave.Devices.Rdma.Regions;

/// <summary>Where <see cref="RegionCache"/> has a region from.</summary>
public enum RegionOrigin
{
    /// <summary>Registered now.</summary>
    Made,

    /// <summary>Registered before; nothing has happened to its range since.</summary>
    Found,

    /// <summary>
    /// Registered before; its range has changed since and still has the same pages, so that nothing was made again.
    /// </summary>
    Kept,
}
