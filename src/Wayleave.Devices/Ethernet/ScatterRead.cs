using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet;

// Only for a link that knows, before it reads, that the next frame was steered to the queue: then whose it is is known
// before the first byte is written. How long its headers are is a guess: that of the frame before.
//
//   TryBegin        enters the gate; names where the payload would go: chunks that nobody has, none is taken
//   the link reads  [ HeadBytes of host memory | this[0], this[1], ... | host memory ], without blocking
//   Handle          the frame is what was guessed: takes exactly those chunks; leaves the gate
//                   otherwise: takes the bytes out again, wipes the chunks, leaves the gate, and places it as usual
//   Cancel          nothing was read; leaves the gate
//
// Between TryBegin and the end nothing else happens to the port, and nothing waits. A revoke meanwhile closes the gate
// and ends when it is left; the frame is one of those before the revoke.

/// <summary>
/// One frame that a link reads straight into the memory that a receive queue is bound to. Made once for a port and used
/// again; port token held by the caller.
/// </summary>
public sealed class ScatterRead
{
    private const int FirstGuessBytes = EthernetHeader.Size + Ipv4Header.Size + TcpHeader.Size + 12; // timestamps

    private readonly NicPort _port;
    private readonly PayloadFragment[] _chunks = new PayloadFragment[NicOptions.FragmentsMax];
    private readonly (DeviceAddress Address, int LengthBytes)[] _pieces = new (DeviceAddress, int)[PiecesMax];
    private RxQueue? _queue;
    private Translation? _translation;

    internal ScatterRead(NicPort port) => _port = port;

    /// <summary>Most pieces: two for each chunk, if the memory is not contiguous within.</summary>
    public const int PiecesMax = 2 * NicOptions.FragmentsMax;

    /// <summary>Bytes of the frame that go to host memory first.</summary>
    public int HeadBytes { get; private set; }

    /// <summary>Bytes of all pieces.</summary>
    public int LengthBytes { get; private set; }

    /// <summary>Pieces of device memory, in the order in which the frame fills them.</summary>
    public int Count { get; private set; }

    /// <summary>
    /// A piece, to be written by the link and by nobody else; gone with <see cref="Handle"/> and <see cref="Cancel"/>.
    /// </summary>
    public Span<byte> this[int index]
    {
        get
        {
            (DeviceAddress address, int length) = _pieces[index];
            _port.Dma.TryAim(address, length, out Span<byte> memory);
            return memory;
        }
    }

    /// <summary>
    /// Begins: false when the queue is not bound, its memory was taken back, no chunk is free, or guesses were wrong of
    /// late. Then the frame is read to host memory. Ends with <see cref="Handle"/> or <see cref="Cancel"/>.
    /// </summary>
    /// <param name="queue">The queue that the next frame of the link was steered to.</param>
    /// <param name="frameBytesMax">The longest frame that the link may read.</param>
    public bool TryBegin(RxQueue queue, int frameBytesMax)
    {
        ArgumentNullException.ThrowIfNull(queue);
        if (queue.Binding is not { } binding
            || queue.IsFull
            || _port.Split.Mode != HeaderSplitMode.On
            || !queue.TryUseScatter()
            || !binding.Memory.TryEnter(out Translation? translation))
        {
            return false;
        }

        (_queue, _translation) = (queue, translation);
        HeadBytes = queue.HeadGuessBytes == 0 ? FirstGuessBytes : queue.HeadGuessBytes;
        Aim(queue.PeekDevice(frameBytesMax - HeadBytes, _chunks));
        if (Count == 0)
        {
            Leave();
        }

        return Count > 0;
    }

    /// <summary>Nothing was read.</summary>
    public void Cancel() => Leave();

    /// <summary>Takes the frame that was read, as <see cref="NicPort.HandleFrame"/>.</summary>
    /// <param name="frame">
    /// Host memory of the length of the frame, from the Ethernet header on. It has the first <see cref="HeadBytes"/>,
    /// and what came after all pieces at its place; between them it is written here if need be.
    /// </param>
    /// <param name="link">What the link says about it.</param>
    /// <param name="now">When.</param>
    public FrameDrop Handle(Span<byte> frame, in VirtioNetHeader link, TimeSpan now)
    {
        RxQueue queue = _queue ?? throw new InvalidOperationException("no read was begun");
        int landed = Math.Min(frame.Length - HeadBytes, LengthBytes);
        if (landed <= 0)
        {
            Leave();
            return _port.HandleFrame(frame, link, now);
        }

        bool isWhole = frame.Length - HeadBytes == landed;
        if (isWhole && _port.TryTakeScattered(queue, this, frame, link, now))
        {
            Leave();
            return FrameDrop.None;
        }

        return Repair(queue, frame, landed, link, now);
    }

    /// <summary>Counts what has landed; the chunks are taken by the queue.</summary>
    internal void CountWritten(int lengthBytes)
    {
        for (int i = 0; lengthBytes > 0; i++)
        {
            (DeviceAddress address, int length) = _pieces[i];
            _port.Dma.TryWrite(address, Math.Min(length, lengthBytes), out _);
            lengthBytes -= length;
        }
    }

    // Where the chunks are, neighbours as one piece; what is not reached ends it.
    private void Aim(ReadOnlySpan<PayloadFragment> chunks)
    {
        (Count, LengthBytes) = (0, 0);
        DmaAddressList addresses = _translation!.Addresses;
        foreach (ref readonly PayloadFragment chunk in chunks)
        {
            ulong offset = chunk.BufferOffset;
            for (int left = chunk.LengthBytes; left > 0;)
            {
                if (!addresses.TryLocate(offset, out DeviceAddress address, out ulong contiguous))
                {
                    return;
                }

                int length = (int)Math.Min((ulong)left, contiguous);
                if (!TryAdd(address, length))
                {
                    return;
                }

                left -= length;
                offset += (ulong)length;
            }
        }
    }

    private bool TryAdd(DeviceAddress address, int length)
    {
        bool isBehind = Count > 0
            && _pieces[Count - 1].Address.Value + (ulong)_pieces[Count - 1].LengthBytes == address.Value;
        DeviceAddress start = isBehind ? _pieces[Count - 1].Address : address;
        int all = isBehind ? _pieces[Count - 1].LengthBytes + length : length;
        if ((!isBehind && Count == PiecesMax)
            || _port.Dma.TryAim(start, all, out Span<byte> memory) != Errno.Success
            || memory.Length != all)
        {
            return false;
        }

        Count += isBehind ? 0 : 1;
        _pieces[Count - 1] = (start, all);
        LengthBytes += length;
        return true;
    }

    private void Leave()
    {
        RxQueue queue = _queue ?? throw new InvalidOperationException("no read was begun");
        Translation translation = _translation!;
        (_queue, _translation) = (null, null);
        queue.Binding!.Memory.Leave(translation);
    }

    private FrameDrop Repair(RxQueue queue, Span<byte> frame, int landed, in VirtioNetHeader link, TimeSpan now)
    {
        MemoryBinding binding = queue.Binding!;
        CountWritten(landed);
        Span<byte> gap = frame.Slice(HeadBytes, landed);
        for (int i = 0; gap.Length > 0; i++)
        {
            Span<byte> piece = this[i];
            piece = piece[..Math.Min(piece.Length, gap.Length)];
            piece.CopyTo(gap);
            piece.Clear();
            gap = gap[piece.Length..];
        }

        Leave();
        binding.BytesCopied += landed;
        binding.ScattersRepaired++;
        queue.HandleScatterRepaired();
        binding.ScattersForeign += _port.IsSteeredTo(queue, frame, link) ? 0 : 1;
        return _port.HandleFrame(frame, link, now);
    }
}
