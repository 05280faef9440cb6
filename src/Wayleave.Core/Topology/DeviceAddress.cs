namespace Wayleave.Core.Topology;

/// <summary>
/// An address as a device's DMA engine puts it on the bus: the <c>dma_addr_t</c> of Linux. Never a pointer.
/// </summary>
public readonly record struct DeviceAddress(ulong Value)
{
    public static DeviceAddress operator +(DeviceAddress address, ulong bytes) => new(address.Value + bytes);

    public static DeviceAddress Add(DeviceAddress left, ulong right) => left + right;

    public override string ToString() => $"0x{Value:x}";
}

/// <summary>A range of device addresses; <see cref="LengthBytes"/> is in bytes and may be zero.</summary>
public readonly record struct DeviceRange(DeviceAddress Start, ulong LengthBytes)
{
    /// <summary>
    /// Whether the whole of <paramref name="address"/>..+<paramref name="lengthBytes"/> lies inside, without overflow.
    /// </summary>
    public bool Contains(DeviceAddress address, ulong lengthBytes) =>
        address.Value >= Start.Value && lengthBytes <= LengthBytes
            && address.Value - Start.Value <= LengthBytes - lengthBytes;

    /// <summary>Whether the two ranges share a byte.</summary>
    public bool Overlaps(DeviceRange other) =>
        LengthBytes != 0 && other.LengthBytes != 0
        && Start.Value <= other.Start.Value + (other.LengthBytes - 1)
        && other.Start.Value <= Start.Value + (LengthBytes - 1);

    public override string ToString() => $"{Start}+0x{LengthBytes:x}";
}
