namespace Wayleave.Core.Buffers;

/// <summary>What a test takes away from a buffer, to see that its absence is noticed.</summary>
internal sealed record BufferDefences
{
    public static BufferDefences All { get; } = new();

    /// <summary>A map that fails gives back the pin it began with.</summary>
    public bool UndoesPinOfFailedMap { get; init; } = true;

    /// <summary>A poll reports ready only what no fence keeps busy.</summary>
    public bool PollLooksAtFences { get; init; } = true;
}
