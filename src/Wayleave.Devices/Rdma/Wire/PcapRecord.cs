namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// One frame of a capture. <paramref name="TimestampNanoseconds"/> counts from the Unix epoch;
/// <paramref name="OriginalBytes"/> is the length on the wire, more than that of <paramref name="Frame"/> when the
/// capture kept only the start.
/// </summary>
public readonly record struct PcapRecord(long TimestampNanoseconds, ReadOnlyMemory<byte> Frame, uint OriginalBytes)
{
    /// <summary>Whether the capture kept the whole frame.</summary>
    public bool IsComplete => Frame.Length >= OriginalBytes;
}
