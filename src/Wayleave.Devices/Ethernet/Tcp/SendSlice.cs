namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>A run of bytes of a segment's payload: host memory, or a range of a transmit binding.</summary>
public readonly ref struct SendSlice
{
    internal SendSlice(ReadOnlySpan<byte> bytes, TransmitBinding? source, ulong offset, int lengthBytes)
    {
        Bytes = bytes;
        (Source, Offset, LengthBytes) = (source, offset, lengthBytes);
    }

    /// <summary>The bytes, when they are in host memory; good until the endpoint is told anything.</summary>
    public ReadOnlySpan<byte> Bytes { get; }

    /// <summary>Where they are otherwise, or null.</summary>
    public TransmitBinding? Source { get; }

    /// <summary>The first byte within the source.</summary>
    public ulong Offset { get; }

    public int LengthBytes { get; }
}
