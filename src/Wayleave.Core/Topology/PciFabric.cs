namespace Wayleave.Core.Topology;

/// <summary>
/// The address map of one host: which bytes answer at which device address. Windows are added and removed with the host
/// lock held; engines read an immutable snapshot without a lock, so an access never sees a half-changed map.
/// </summary>
/// <remarks>
/// All functions sit below one switch, so that a peer's BAR is reached by <see cref="PeerRoute.BusAddress"/>.
/// </remarks>
public sealed class PciFabric
{
    /// <summary>
    /// Windows are placed on this boundary, so that a carry out of a window's size never reaches the next one.
    /// </summary>
    public const ulong WindowAlignmentBytes = 1UL << 32;

    private MemoryWindow[] _windows = [];
    private ulong _next = WindowAlignmentBytes;

    internal ReadOnlySpan<MemoryWindow> Windows => Volatile.Read(ref _windows);

    /// <summary>
    /// Gives <paramref name="memory"/> an address range. The fabric does not own the memory: the caller keeps it alive
    /// until after <see cref="RemoveWindow"/>. Host lock held by the caller.
    /// </summary>
    /// <param name="memory">At most 2 GiB less one byte; a larger BAR is several windows.</param>
    /// <param name="owner">The function whose BAR this is, or null for system memory.</param>
    public MemoryWindow AddWindow(Memory<byte> memory, PciFunction? owner)
    {
        MemoryWindow window = new(new DeviceRange(new DeviceAddress(_next), (ulong)memory.Length), memory, owner);
        _next += ((ulong)memory.Length + WindowAlignmentBytes - 1) / WindowAlignmentBytes * WindowAlignmentBytes;
        Volatile.Write(ref _windows, [.. _windows, window]);
        return window;
    }

    /// <summary>
    /// Takes a window out of the map: later accesses abort as a hot-unplugged BAR does. The caller has closed and
    /// drained every gate of the memory first. Its addresses are never given out again. Host lock held by the caller.
    /// </summary>
    public void RemoveWindow(MemoryWindow window) =>
        Volatile.Write(ref _windows, [.. _windows.Where(w => !ReferenceEquals(w, window))]);
}

/// <summary>A range of device addresses and the bytes behind it: a BAR, or a part of system memory.</summary>
public sealed class MemoryWindow
{
    internal MemoryWindow(DeviceRange range, Memory<byte> memory, PciFunction? owner) =>
        (Range, Memory, Owner) = (range, memory, owner);

    public DeviceRange Range { get; }

    /// <summary>The function whose BAR this is, or null for system memory.</summary>
    public PciFunction? Owner { get; }

    internal Memory<byte> Memory { get; }
}
