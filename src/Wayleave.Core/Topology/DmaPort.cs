using System.Diagnostics;

namespace Wayleave.Core.Topology;

/// <summary>
/// A device's DMA engine as the fabric sees it: the only way a device reaches memory. It decodes the address against
/// the host's windows and counts the bytes of each route. One engine, one port: not thread-safe, driven by whoever
/// holds the engine's token.
/// </summary>
/// <remarks>
/// Access happens inside a gate: the caller has entered the <see cref="Buffers.InFlightGate"/> of the translation that
/// gave the address, uses the span at once, and lets go of it before it exits the gate.
/// </remarks>
public sealed class DmaPort(PciFabric fabric, PciFunction function)
{
    private const int RouteCount = (int)PeerRoute.Staging + 1;

    private readonly long[] _bytesRead = new long[RouteCount];
    private readonly long[] _bytesWritten = new long[RouteCount];
    private long _aborts;

    public PciFunction Function { get; } = function;

    /// <summary>Accesses that no window answered: on real hardware a master abort.</summary>
    public long Aborts => Volatile.Read(ref _aborts);

    /// <summary>
    /// The bytes at an address, to be read by the device. The span may be shorter than asked: a window ends there.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.Success"/>, or <see cref="Errno.EFAULT"/> when nothing answers at that address.
    /// </returns>
    public Errno TryRead(DeviceAddress address, int lengthBytes, out ReadOnlySpan<byte> bytes)
    {
        Errno errno = TryAccess(address, lengthBytes, _bytesRead, out Span<byte> span);
        bytes = span;
        return errno;
    }

    /// <summary>
    /// The bytes at an address, to be written by the device. The span may be shorter than asked: a window ends there.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.Success"/>, or <see cref="Errno.EFAULT"/> when nothing answers at that address.
    /// </returns>
    public Errno TryWrite(DeviceAddress address, int lengthBytes, out Span<byte> bytes) =>
        TryAccess(address, lengthBytes, _bytesWritten, out bytes);

    /// <summary>Bytes this engine read over a route since it was made.</summary>
    public long BytesRead(PeerRoute route) => Volatile.Read(ref _bytesRead[(int)route]);

    /// <summary>Bytes this engine wrote over a route since it was made.</summary>
    public long BytesWritten(PeerRoute route) => Volatile.Read(ref _bytesWritten[(int)route]);

    private Errno TryAccess(DeviceAddress address, int lengthBytes, long[] counters, out Span<byte> bytes)
    {
        Debug.Assert(lengthBytes >= 0, "a length is never negative");
        foreach (MemoryWindow window in fabric.Windows)
        {
            ulong offset = address.Value - window.Range.Start.Value;
            if (offset < window.Range.LengthBytes)
            {
                int length = (int)Math.Min((ulong)lengthBytes, window.Range.LengthBytes - offset);
                bytes = window.Memory.Span.Slice((int)offset, length);
                counters[(int)RouteTo(window)] += length;
                return Errno.Success;
            }
        }

        _aborts++;
        bytes = default;
        return Errno.EFAULT;
    }

    private PeerRoute RouteTo(MemoryWindow window) =>
        window.Owner is null ? PeerRoute.HostMemory
        : ReferenceEquals(window.Owner, Function) ? PeerRoute.SameDevice
        : PeerRoute.BusAddress;
}
