namespace Wayleave.Devices.Ethernet.Steering;

/// <summary>What the steering of a NIC can do. Copied at construction.</summary>
public sealed record SteeringOptions
{
    /// <summary>Entries of an indirection table; a power of two.</summary>
    public int TableEntries { get; init; } = 128;

    /// <summary>
    /// The table follows the number of channels, four entries for each (rounded up to a power of two), instead of
    /// having <see cref="TableEntries"/> always.
    /// </summary>
    public bool TableFollowsChannels { get; init; }

    /// <summary>Locations of n-tuple rules.</summary>
    public int Rules { get; init; } = 1024;

    /// <summary>RSS contexts besides context 0.</summary>
    public int Contexts { get; init; } = 31;

    /// <summary>Whether each context may have a key of its own.</summary>
    public bool HasContextKeys { get; init; } = true;

    /// <summary>Whether the device has symmetric transforms.</summary>
    public bool HasTransforms { get; init; } = true;

    /// <summary>Whether the ring cookie of a rule with a context is added to the queue of the table.</summary>
    public bool AddsCookieToContext { get; init; } = true;
}
