using System.Diagnostics;

namespace Wayleave.Core.Topology;

/// <summary>
/// A device's DMA engine as the fabric sees it: the only way a device reaches memory. It decodes the address as the
/// bridges, the IOMMU and the host's windows would, and counts the bytes of each route. One engine, one port: not
/// thread-safe, driven by whoever holds the engine's token. A function that is not plugged into a
/// <see cref="PciFabric"/> reaches nothing.
/// </summary>
/// <remarks>
/// Access happens inside a gate: the caller has entered the <see cref="Buffers.InFlightGate"/> of the translation that
/// gave the address, uses the span at once, and lets go of it before it exits the gate.
/// </remarks>
public sealed class DmaPort
{
    private const int RouteCount = (int)PeerRoute.Staging + 1;

    private readonly bool _isPermanent;
    private readonly List<(PathTraffic Path, TrafficLane Lane)> _lanes = [];
    private LastHit _lastRead;
    private LastHit _lastWrite;
    private readonly long[] _bytesRead = new long[RouteCount];
    private readonly long[] _bytesWritten = new long[RouteCount];
    private long _aborts;
    private long _lost;

    /// <param name="function">Whose requests these are.</param>
    /// <param name="isPermanent">
    /// It stays as long as its device: it gets counters of its own on each path, which costs it no interlocked
    /// operation for each access. For a port that is made for one use they would be left behind.
    /// </param>
    public DmaPort(PciFunction function, bool isPermanent = false) =>
        (Function, _isPermanent) = (function, isPermanent);

    public PciFunction Function { get; }

    /// <summary>Accesses that no window answered: on real hardware a master abort.</summary>
    public long Aborts => Volatile.Read(ref _aborts);

    /// <summary>
    /// Bytes of requests that vanished without an error (<see cref="HostBridge.LosesPeerRequests"/>).
    /// </summary>
    public long LostBytes => Volatile.Read(ref _lost);

    /// <summary>
    /// The bytes at an address, to be read by the device. The span may be shorter than asked: a window ends there.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.Success"/>, or <see cref="Errno.EFAULT"/> when nothing answers at that address.
    /// </returns>
    public Errno TryRead(DeviceAddress address, int lengthBytes, out ReadOnlySpan<byte> bytes)
    {
        Errno errno = TryAccess(address, lengthBytes, _bytesRead, isWrite: false, out Span<byte> span, out _);
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
        TryAccess(address, lengthBytes, _bytesWritten, isWrite: true, out bytes, out _);

    /// <summary>
    /// As <see cref="TryWrite(DeviceAddress, int, out Span{byte})"/>, and keeps what lies behind: for accesses that go
    /// on there (<see cref="TryWriteNext"/>), and for hints to the processor. Only what will be written is counted.
    /// </summary>
    /// <param name="address">Of the first byte.</param>
    /// <param name="lengthBytes">What will be written.</param>
    /// <param name="reachBytes">How much from the first byte on belongs to whoever writes.</param>
    /// <param name="bytes">At the address, to be written by the device.</param>
    /// <param name="rest">What is behind, up to the end of the reach or of the window.</param>
    public Errno TryWrite(
        DeviceAddress address, int lengthBytes, ulong reachBytes, out Span<byte> bytes, out DmaRest rest)
    {
        Errno errno = TryAccess(
            address, lengthBytes, _bytesWritten, isWrite: true, out bytes, out Span<byte> window);
        ref LastHit last = ref _lastWrite;
        if (last.Table is null || address.Value - last.Start >= last.LengthBytes)
        {
            rest = default; // nothing, or memory that must be decoded each time
            return errno;
        }

        int reach = Math.Max(bytes.Length, (int)Math.Min((ulong)window.Length, reachBytes));
        rest = new DmaRest(last.Table, last.Path, last.Lane, window[bytes.Length..reach]);
        return errno;
    }

    /// <summary>
    /// Goes on where the last write of a sequence ended, without decoding its address again: nothing was plugged in or
    /// out since.
    /// </summary>
    /// <param name="rest">What is left behind that; afterwards, behind this one.</param>
    /// <param name="lengthBytes">What will be written.</param>
    /// <param name="bytes">To be written by the device.</param>
    /// <returns>False, and nothing is counted, when the address has to be decoded.</returns>
    public bool TryWriteNext(ref DmaRest rest, int lengthBytes, out Span<byte> bytes)
    {
        Span<byte> window = rest.Bytes;
        if (rest.Table is null || !ReferenceEquals(rest.Table, Function.Decode) || lengthBytes > window.Length)
        {
            bytes = default;
            return false;
        }

        bytes = window[..lengthBytes];
        rest.Bytes = window[lengthBytes..];
        _bytesWritten[(int)rest.Path!.Route] += lengthBytes;
        Count(rest.Path, rest.Lane, lengthBytes, isWrite: true);
        return true;
    }

    /// <summary>
    /// The bytes at an address, for a write that may turn out shorter, or not happen at all. Counts nothing: what was
    /// written is counted by <see cref="TryWrite(DeviceAddress, int, out Span{byte})"/> afterwards, in the same gate.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> when no window answers at that address, or what is written there would be lost.
    /// </returns>
    public Errno TryAim(DeviceAddress address, int lengthBytes, out Span<byte> bytes)
    {
        if (Function.Decode is not DecodeTable table
            || !table.TryDecode(address.Value, out DecodeEntry? entry, out Memory<byte> memory)
            || entry is null)
        {
            bytes = default;
            return Errno.EFAULT;
        }

        bytes = memory.Span[..Math.Min(lengthBytes, memory.Length)];
        return Errno.Success;
    }

    /// <summary>
    /// Which route an access to an address would take; false when nothing answers there. Counts nothing.
    /// </summary>
    public bool TryRoute(DeviceAddress address, out PeerRoute route)
    {
        route = default;
        if (Function.Decode is not DecodeTable table
            || !table.TryDecode(address.Value, out DecodeEntry? entry, out _)
            || entry is null)
        {
            return false;
        }

        route = entry.Traffic.Route;
        return true;
    }

    /// <summary>Bytes this engine read over a route since it was made.</summary>
    public long BytesRead(PeerRoute route) => Volatile.Read(ref _bytesRead[(int)route]);

    /// <summary>Bytes this engine wrote over a route since it was made.</summary>
    public long BytesWritten(PeerRoute route) => Volatile.Read(ref _bytesWritten[(int)route]);

    private Errno TryAccess(
        DeviceAddress address,
        int lengthBytes,
        long[] counters,
        bool isWrite,
        out Span<byte> bytes,
        out Span<byte> window)
    {
        Debug.Assert(lengthBytes >= 0, "a length is never negative");
        DecodeTable? table = Function.Decode;
        ref LastHit last = ref isWrite ? ref _lastWrite : ref _lastRead;
        if (table is not null && ReferenceEquals(table, last.Table) && address.Value - last.Start < last.LengthBytes)
        {
            Span<byte> rest = last.Memory.Span[(int)(address.Value - last.Start)..];
            window = rest;
            bytes = rest[..Math.Min(lengthBytes, rest.Length)];
            counters[(int)last.Path!.Route] += bytes.Length;
            Count(last.Path, last.Lane, bytes.Length, isWrite);
            return Errno.Success;
        }

        if (table is null || !table.TryDecode(address.Value, out DecodeEntry? entry, out Memory<byte> memory))
        {
            _aborts++;
            bytes = default;
            window = default;
            return Errno.EFAULT;
        }

        int length = Math.Min(lengthBytes, memory.Length);
        Span<byte> all = memory.Span;
        window = all;
        bytes = all[..length];
        if (entry is null)
        {
            _lost += length;
            return Errno.Success;
        }

        if (!ReferenceEquals(last.Path, entry.Traffic))
        {
            last.Lane = _isPermanent ? LaneOf(entry.Traffic) : null;
        }

        last = new LastHit(table.IsFixed(entry) ? table : null, entry, last.Lane);
        counters[(int)entry.Traffic.Route] += length;
        Count(entry.Traffic, last.Lane, length, isWrite);
        return Errno.Success;
    }

    private static void Count(PathTraffic path, TrafficLane? lane, int length, bool isWrite)
    {
        if (lane is not null && isWrite)
        {
            lane.AddWritten(length);
        }
        else if (lane is not null)
        {
            lane.AddRead(length);
        }
        else if (isWrite)
        {
            path.AddWritten(length);
        }
        else
        {
            path.AddRead(length);
        }
    }

    // Where the last access ended, and whose bytes it was: the next one mostly ends there too, and a walk through the
    // objects that say so, which a copy has thrown out of the cache, costs as much as a part of a block.
    private struct LastHit(DecodeTable? table, DecodeEntry entry, TrafficLane? lane)
    {
        public readonly DecodeTable? Table = table; // null: decide anew
        public readonly ulong Start = entry.Start;
        public readonly ulong LengthBytes = entry.LengthBytes;
        public readonly Memory<byte> Memory = entry.Memory;
        public readonly PathTraffic? Path = entry.Traffic;
        public TrafficLane? Lane = lane;
    }

    private TrafficLane LaneOf(PathTraffic path)
    {
        foreach ((PathTraffic known, TrafficLane lane) in _lanes)
        {
            if (ReferenceEquals(known, path))
            {
                return lane;
            }
        }

        TrafficLane added = path.AddLane();
        _lanes.Add((path, added));
        return added;
    }
}
