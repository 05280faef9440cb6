using Wayleave.Core;

namespace Wayleave.Devices.Ethernet.Tcp;

// A ring of pieces in the order of the stream: blocks of host memory that were filled by copying, and references to
// device memory that is read when a segment leaves. A piece goes when its last byte is acknowledged, and only then is
// its memory the owner's again (semantics of MSG_ZEROCOPY).

/// <summary>What a connection has been given to send and has not got acknowledged.</summary>
internal sealed class SendQueue(SendMemory memory, int piecesMax, int linearBytesMax)
{
    private Piece[] _pieces = new Piece[4];
    private int _head;
    private int _count;

    /// <summary>Position after the last byte; the first one is 1, behind the SYN.</summary>
    public long End { get; private set; } = 1;

    /// <summary>Bytes copied and held.</summary>
    public long LinearBytes { get; private set; }

    /// <summary>Copies what fits and returns how much that was.</summary>
    public int Append(ReadOnlySpan<byte> bytes)
    {
        int taken = 0;
        while (!bytes.IsEmpty && LinearBytes < linearBytesMax)
        {
            if (!TryGetTail(out Span<byte> room))
            {
                break;
            }

            int count = (int)Math.Min(Math.Min(room.Length, bytes.Length), linearBytesMax - LinearBytes);
            bytes[..count].CopyTo(room);
            _pieces[IndexOf(_count - 1)].Length += count;
            bytes = bytes[count..];
            taken += count;
            End += count;
            LinearBytes += count;
        }

        return taken;
    }

    /// <summary>
    /// Queues device memory. A reference to the binding is taken until the last byte is acknowledged.
    /// </summary>
    /// <returns>EAGAIN when as many pieces as allowed are queued, or why the binding refuses.</returns>
    public Errno AppendDevice(TransmitBinding source, ulong offset, long length)
    {
        if (_count >= piecesMax)
        {
            return Errno.EAGAIN;
        }

        Errno errno = source.TryRetain(offset, (ulong)length);
        if (errno != Errno.Success)
        {
            return errno;
        }

        Push(new Piece { Start = End, Length = length, Source = source, Offset = offset });
        End += length;
        return Errno.Success;
    }

    /// <summary>The bytes from a position on, up to the end of their piece.</summary>
    public SendSlice GetSlice(long position, int lengthMax)
    {
        ref Piece piece = ref _pieces[IndexOf(Find(position))];
        long skip = position - piece.Start;
        int length = (int)Math.Min(lengthMax, piece.Length - skip);
        return piece.Block is { } block
            ? new SendSlice(block.AsSpan((int)skip, length), source: null, offset: 0, length)
            : new SendSlice(default, piece.Source, piece.Offset + (ulong)skip, length);
    }

    /// <summary>Everything before a position was acknowledged.</summary>
    public void Release(long position)
    {
        while (_count > 0 && _pieces[_head].Start + _pieces[_head].Length <= position)
        {
            // The tail block goes as well: an idle connection holds no memory.
            ReleaseHead();
        }
    }

    /// <summary>Nothing of it will be sent any more.</summary>
    public void Clear()
    {
        while (_count > 0)
        {
            ReleaseHead();
        }
    }

    private bool TryGetTail(out Span<byte> room)
    {
        if (_count > 0)
        {
            ref Piece tail = ref _pieces[IndexOf(_count - 1)];
            if (tail.Block is { } block && tail.Length < block.Length)
            {
                room = block.AsSpan((int)tail.Length);
                return true;
            }
        }

        room = default;
        if (memory.TryRent(out byte[]? rented))
        {
            Push(new Piece { Start = End, Block = rented });
            room = rented;
        }

        return rented is not null;
    }

    private void ReleaseHead()
    {
        Piece piece = _pieces[_head];
        _pieces[_head] = default;
        _head = IndexOf(1);
        _count--;
        piece.Source?.Release();
        if (piece.Block is { } block)
        {
            LinearBytes -= piece.Length;
            memory.Return(block);
        }
    }

    private int Find(long position)
    {
        int low = 0, high = _count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            (low, high) = _pieces[IndexOf(middle)].Start <= position ? (middle, high) : (low, middle - 1);
        }

        return low;
    }

    private int IndexOf(int place) => (_head + place) & (_pieces.Length - 1);

    private void Push(Piece piece)
    {
        if (_count == _pieces.Length)
        {
            Piece[] larger = new Piece[2 * _pieces.Length];
            for (int i = 0; i < _count; i++)
            {
                larger[i] = _pieces[IndexOf(i)];
            }

            (_pieces, _head) = (larger, 0);
        }

        _pieces[IndexOf(_count++)] = piece;
    }

    private struct Piece
    {
        public long Start;
        public long Length;
        public byte[]? Block;
        public TransmitBinding? Source;
        public ulong Offset;
    }
}
