namespace Wayleave.Core.Topology;

/// <summary>
/// What lies behind a write of a <see cref="DmaPort"/>, in the same window, for the next one of a sequence. It says
/// nothing about who may use the bytes: like every address, it is worth something only inside the gate of the
/// translation that it came from.
/// </summary>
public ref struct DmaRest
{
    internal DmaRest(DecodeTable? table, PathTraffic? path, TrafficLane? lane, Span<byte> bytes)
    {
        Table = table;
        Path = path;
        Lane = lane;
        Bytes = bytes;
    }

    /// <summary>How much is left.</summary>
    public readonly int LengthBytes => Bytes.Length;

    internal DecodeTable? Table { get; }

    internal PathTraffic? Path { get; }

    internal TrafficLane? Lane { get; }

    internal Span<byte> Bytes { get; set; }

    /// <summary>The first of the bytes, for a hint to the processor: neither read nor written.</summary>
    public readonly ReadOnlySpan<byte> Ahead(int lengthBytes) => Bytes[..Math.Min(Bytes.Length, lengthBytes)];
}
