namespace Wayleave.Devices.Rdma;

/// <summary>
/// A super-packet while it is filled. All segments have the size of the first one; a shorter one is taken once and ends
/// it.
/// </summary>
internal ref struct SuperPacket(Span<byte> buffer, int segmentsMax)
{
    private readonly Span<byte> _buffer = buffer;
    private bool _closed;

    public int LengthBytes { get; private set; }

    public int SegmentBytes { get; private set; }

    /// <summary>Segments so far; also the IPv4 identification of the next one.</summary>
    public int Count { get; private set; }

    /// <summary>Room for the next packet, or false when it has to wait for the next super-packet.</summary>
    public readonly bool TryReserve(int packetBytes, out Span<byte> packet)
    {
        bool fits = !_closed
            && Count < segmentsMax
            && packetBytes <= _buffer.Length - LengthBytes
            && (Count == 0 || packetBytes <= SegmentBytes);
        packet = fits ? _buffer.Slice(LengthBytes, packetBytes) : default;
        return fits;
    }

    /// <summary>How many packets of that size fit one that is empty.</summary>
    public readonly int CapacityFor(int packetBytes) => Math.Min(segmentsMax, _buffer.Length / packetBytes);

    /// <summary>How many packets of that size fit.</summary>
    public readonly int RoomFor(int packetBytes) =>
        _closed || packetBytes > (Count == 0 ? _buffer.Length : SegmentBytes)
            ? 0
            : packetBytes < SegmentBytes
                ? Math.Min(1, (_buffer.Length - LengthBytes) / packetBytes)
                : Math.Min(segmentsMax - Count, (_buffer.Length - LengthBytes) / packetBytes);

    /// <summary>Keeps the packet that was written into the reserved room.</summary>
    public void Commit(int packetBytes)
    {
        SegmentBytes = Count == 0 ? packetBytes : SegmentBytes;
        _closed = packetBytes < SegmentBytes;
        LengthBytes += packetBytes;
        Count++;
    }
}
