using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

// A frame on its way into the ring. Everything up to here only read it; from here on it is known whose it is.
//
//   ring full?          yes: dropped                                                      nothing is touched
//   headers             to the entry's head, always host memory
//   payload of TCP      bound, split, long enough, room: chunks of the binding, inside its gate
//                       otherwise:                       chunks of host memory
//   all other frames    whole, to the head or to one chunk of host memory
//
// An entry holds one reference of each piece until it is recycled; the fills hold one of the chunk they are in.

/// <summary>A receive queue: a ring of entries, and where their payload goes. Port token held by the caller.</summary>
public sealed class RxQueue
{
    private const int ScatterPauseMax = 64;

    private readonly NicOptions _options;
    private readonly DmaPort _dma;
    private readonly ChunkFill _host;
    private readonly ChunkFill _fallback;
    private ReceivedFrame[] _ring;
    private uint _head; // next to fill
    private uint _tail; // next to hand out
    private bool _isOut; // the entry at the tail is in the host's hands
    private ChunkFill? _device;
    private int _scatterPause; // frames
    private int _scatterPauseNext;
    private RxQueueStats _stats;

    internal RxQueue(int index, NicOptions options, DmaPort dma, ChunkPool host, ChunkPool fallback)
    {
        (Index, _options, _dma) = (index, options, dma);
        (_host, _fallback) = (new ChunkFill(host), new ChunkFill(fallback));
        _ring = MakeRing(options.RingEntries);
    }

    public int Index { get; }

    /// <summary>What payload is placed in; null for host memory.</summary>
    public MemoryBinding? Binding { get; private set; }

    /// <summary>
    /// Who takes the frames of this queue in place of the protocols above; such a queue cannot be bound.
    /// </summary>
    public IFrameReader? Reader { get; internal set; }

    /// <summary>Entries of the ring.</summary>
    public int RingEntries => _ring.Length;

    /// <summary>Frames that wait in the ring.</summary>
    public int Pending => (int)(_head - _tail);

    public bool IsFull => Pending == _ring.Length;

    public ref readonly RxQueueStats Stats => ref _stats;

    /// <summary>
    /// Bytes of payload that can surely still be placed: what a receiver may promise its senders, all together.
    /// </summary>
    public long RoomBytes => (_device ?? _host).RoomBytes;

    /// <summary>The chunks that these bytes are in; other queues may have the same.</summary>
    internal ChunkPool Memory => (_device ?? _host).Pool;

    /// <summary>Header bytes of the last segment with payload since it was bound; 0 before the first.</summary>
    internal int HeadGuessBytes { get; private set; }

    /// <summary>Whether the next frame may be scattered: after a wrong guess some are read as usual.</summary>
    internal bool TryUseScatter() => _scatterPause == 0 || _scatterPause-- == 0;

    /// <summary>A scatter was wrong: the next ones wait, twice as long each time, until one is right.</summary>
    internal void HandleScatterRepaired()
    {
        _scatterPauseNext = Math.Clamp(2 * _scatterPauseNext, 1, ScatterPauseMax);
        _scatterPause = _scatterPauseNext;
    }

    /// <summary>The chunks that payload of a bound queue goes to next; nobody has them.</summary>
    internal ReadOnlySpan<PayloadFragment> PeekDevice(int lengthBytes, Span<PayloadFragment> room)
    {
        _device!.Peek(lengthBytes, room, out int count);
        return room[..count];
    }

    /// <summary>Takes a segment whose payload is where <see cref="PeekDevice"/> said. The ring has room.</summary>
    internal void PlaceScattered(
        ScatterRead read,
        ReadOnlySpan<byte> frame,
        in FrameLayout layout,
        in Classification chosen,
        in VirtioNetHeader link,
        TimeSpan now)
    {
        ReceivedFrame entry = _ring[_head & (uint)(_ring.Length - 1)];
        entry.Begin(layout, chosen, GsoBytesOf(link), Binding, now);
        entry.SetHead(frame[..layout.PayloadOffset]);
        if (!_device!.TryTake(layout.PayloadBytes, entry.PayloadRoom, out int count))
        {
            throw new InvalidOperationException("the pool has fewer chunks than it showed");
        }

        entry.SetPayload(count);
        read.CountWritten(layout.PayloadBytes);
        Binding!.BytesScattered += layout.PayloadBytes;
        CountDevice(layout.PayloadBytes);
        _stats.SplitFrames++;
        _scatterPauseNext = 0;
        Count(entry, frame.Length);
    }

    /// <summary>Takes a frame that was steered here.</summary>
    internal FrameDrop Place(
        ReadOnlySpan<byte> frame,
        in FrameLayout layout,
        in Classification chosen,
        in VirtioNetHeader link,
        HeaderSplit split,
        TimeSpan now)
    {
        if (IsFull)
        {
            _stats.RingFull++;
            return FrameDrop.RingFull;
        }

        ReceivedFrame entry = _ring[_head & (uint)(_ring.Length - 1)];
        entry.Begin(layout, chosen, GsoBytesOf(link), Binding, now);
        bool isPlaced = layout.Kind == FrameKind.Tcp
            ? PlaceSegment(entry, frame, layout, split)
            : PlaceWhole(entry, frame);
        if (!isPlaced)
        {
            entry.End();
            _stats.AllocationFailures++;
            return FrameDrop.NoMemory;
        }

        Count(entry, frame.Length);
        return FrameDrop.None;
    }

    /// <summary>The oldest entry, which stays valid until it is recycled.</summary>
    internal bool TryTake(out ReceivedFrame? frame)
    {
        frame = null;
        if (_head == _tail || _isOut)
        {
            return false;
        }

        _isOut = true;
        frame = _ring[_tail & (uint)(_ring.Length - 1)];
        return true;
    }

    internal void Recycle(ReceivedFrame frame)
    {
        if (!_isOut || !ReferenceEquals(frame, _ring[_tail & (uint)(_ring.Length - 1)]))
        {
            throw new InvalidOperationException($"queue {Index} did not hand this entry out, or has it back");
        }

        frame.End();
        _isOut = false;
        _tail++;
    }

    /// <summary>
    /// Throws away what is in the ring and starts anew (<c>netdev_rx_queue_restart</c>). The binding stays: its chunks
    /// that others hold are theirs as before.
    /// </summary>
    internal void Reset(int? ringEntries = null)
    {
        if (_isOut)
        {
            throw new InvalidOperationException($"queue {Index} cannot be reset while one of its entries is in use");
        }

        for (; _tail != _head; _tail++)
        {
            ReceivedFrame entry = _ring[_tail & (uint)(_ring.Length - 1)];
            if (!_options.Defences.ResetKeepsForeignReferences)
            {
                ReleaseOthers(entry);
            }

            entry.End();
            _stats.ResetDrops++;
        }

        Flush();
        _ring = ringEntries is { } entries && entries != _ring.Length ? MakeRing(entries) : _ring;
        _stats.Resets++;
    }

    /// <summary>Payload goes to a binding from now on, or to host memory again (null). Resets the queue.</summary>
    internal void SetBinding(MemoryBinding? binding)
    {
        Reset();
        Binding = binding;
        _device = binding is null ? null : new ChunkFill(binding.Pool);
        (HeadGuessBytes, _scatterPause, _scatterPauseNext) = (0, 0, 0);
    }

    /// <summary>Gives back every reference that is the queue's own.</summary>
    internal void Flush()
    {
        _host.Flush();
        _fallback.Flush();
        _device?.Flush();
    }

    // What a driver does that takes all of its pool back at a reset, whoever still looks at it. For a test of the
    // tests.
    private static void ReleaseOthers(ReceivedFrame entry)
    {
        foreach (ref readonly PayloadFragment fragment in entry.Payload)
        {
            while (fragment.Pool.ReferencesOf(fragment.Chunk) > 1)
            {
                fragment.Release();
            }
        }
    }

    private ReceivedFrame[] MakeRing(int entries)
    {
        byte[] heads = GC.AllocateUninitializedArray<byte>(entries * _options.HeadBytes, pinned: true);
        ReceivedFrame[] ring = new ReceivedFrame[entries];
        for (int i = 0; i < entries; i++)
        {
            Memory<byte> head = heads.AsMemory(i * _options.HeadBytes, _options.HeadBytes);
            ring[i] = new ReceivedFrame(this, head, NicOptions.FragmentsMax);
        }

        return ring;
    }

    private static int GsoBytesOf(in VirtioNetHeader link) => link.Gso == GsoType.None ? 0 : link.GsoBytes;

    private void Count(ReceivedFrame entry, int frameBytes)
    {
        _head++;
        _stats.Frames++;
        _stats.Bytes += frameBytes;
        (int payload, int gsoBytes) = (entry.PayloadBytes, entry.GsoBytes);
        _stats.Segments += entry.Kind != FrameKind.Tcp ? 0
            : gsoBytes == 0 || payload == 0 ? 1
            : (payload + gsoBytes - 1) / gsoBytes;
    }

    private void CountDevice(int lengthBytes)
    {
        _stats.DeviceBytes += lengthBytes;
        Binding!.BytesPlaced += lengthBytes;
    }

    private bool PlaceWhole(ReceivedFrame entry, ReadOnlySpan<byte> frame)
    {
        if (frame.Length <= entry.HeadBytesMax)
        {
            entry.SetHead(frame);
            return true;
        }

        if (!_host.TryTakeWhole(frame.Length, out PayloadFragment piece))
        {
            return false;
        }

        frame.CopyTo(piece.Pool.Bytes(piece.Chunk, piece.Offset, piece.LengthBytes));
        entry.SetWhole(piece);
        return true;
    }

    private bool PlaceSegment(
        ReceivedFrame entry, ReadOnlySpan<byte> frame, in FrameLayout layout, HeaderSplit split)
    {
        // A header of TCP over IPv6 with all its extensions fits: they are bounded.
        entry.SetHead(frame[..layout.PayloadOffset]);
        ReadOnlySpan<byte> payload = frame[layout.PayloadOffset..layout.EndOffset];
        if (payload.Length == 0)
        {
            return true;
        }

        HeadGuessBytes = Binding is null ? 0 : layout.PayloadOffset;
        bool splits = split.Mode == HeaderSplitMode.On && frame.Length > split.ThresholdBytes;
        _stats.SplitFrames += splits ? 1 : 0;
        if (Binding is null)
        {
            _stats.HostBytes += payload.Length;
            return TryPlaceInHost(_host, entry, payload);
        }

        if (splits && payload.Length >= Binding.LinearBelowBytes && TryPlaceInDevice(entry, payload))
        {
            Binding.BytesCopied += payload.Length;
            CountDevice(payload.Length);
            return true;
        }

        Binding.BytesLinear += payload.Length;
        Binding.BytesAfterRevoke += Binding.IsRevoked ? payload.Length : 0;
        if (!Binding.FallsBack && !Binding.IsRevoked && splits)
        {
            return false; // as Linux: what finds no chunk is lost
        }

        _stats.FallbackBytes += payload.Length;
        _stats.HostBytes += payload.Length;
        return TryPlaceInHost(_fallback, entry, payload);
    }

    private static bool TryPlaceInHost(ChunkFill fill, ReceivedFrame entry, ReadOnlySpan<byte> payload)
    {
        Span<PayloadFragment> pieces = entry.PayloadRoom;
        if (!fill.TryTake(payload.Length, pieces, out int count))
        {
            return false;
        }

        foreach (ref readonly PayloadFragment piece in pieces[..count])
        {
            payload[..piece.LengthBytes].CopyTo(piece.Pool.Bytes(piece.Chunk, piece.Offset, piece.LengthBytes));
            payload = payload[piece.LengthBytes..];
        }

        entry.SetPayload(count);
        return true;
    }

    // The gate is looked at before a chunk is taken, and held for one frame.
    private bool TryPlaceInDevice(ReceivedFrame entry, ReadOnlySpan<byte> payload)
    {
        BoundMemory memory = Binding!.Memory;
        if (!memory.TryEnter(out Translation? translation))
        {
            return false;
        }

        Span<PayloadFragment> pieces = entry.PayloadRoom;
        bool isPlaced = _device!.TryTake(payload.Length, pieces, out int count);
        for (int i = 0; isPlaced && i < count; i++)
        {
            PayloadFragment piece = pieces[i];
            isPlaced = BoundMemory.Write(
                _dma, translation, piece.BufferOffset, payload[..piece.LengthBytes]) == Errno.Success;
            payload = payload[piece.LengthBytes..];
        }

        memory.Leave(translation);
        if (!isPlaced)
        {
            foreach (ref readonly PayloadFragment piece in pieces[..count])
            {
                piece.Release();
            }

            return false;
        }

        entry.SetPayload(count);
        return true;
    }
}
