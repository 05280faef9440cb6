namespace Wayleave.Host.Resources;

/// <summary>What range of a device's memory is to be lent, to whom, and who uses it at once.</summary>
/// <param name="Name">At most 31 bytes of UTF-8; one at a time of that name on a device.</param>
/// <param name="SizeBytes">Positive; rounded up to whole pages.</param>
/// <param name="Holder">Who gets the handle, for people: <c>process 4711</c>.</param>
public sealed record ResourceRequest(string Name, ulong SizeBytes, string Holder)
{
    /// <summary>Whose memory; null for the published pool that is nearest to all of <see cref="Near"/>.</summary>
    public string? Device { get; init; }

    /// <summary>Devices that are to reach the memory, by name; for when no device is named.</summary>
    public IReadOnlyList<string> Near { get; init; } = [];

    /// <summary>NICs that import the resource by its handle, and what each takes out of it.</summary>
    public IReadOnlyList<ResourceImportRequest> Imports { get; init; } = [];
}

/// <summary>A NIC's use of a resource.</summary>
/// <param name="Nic">By name.</param>
/// <param name="SizeBytes">Of the chunk that it takes; rounded up to whole pages.</param>
public sealed record ResourceImportRequest(string Nic, ulong SizeBytes);
