namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>
/// Whole frames that wait to be sent: a ring whose buffers are made when first needed and used again.
/// </summary>
internal sealed class FrameQueue(int framesMax, int frameBytesMax)
{
    private readonly byte[][] _frames = new byte[framesMax][];
    private readonly int[] _lengths = new int[framesMax];
    private int _head;
    private int _count;

    /// <summary>
    /// Room for a frame, to be written by the caller at once; false when the queue is full or the frame too long.
    /// </summary>
    public bool TryAdd(int lengthBytes, out Span<byte> room)
    {
        room = default;
        if (_count == framesMax || lengthBytes > frameBytesMax)
        {
            return false;
        }

        int place = (_head + _count++) % framesMax;
        _frames[place] ??= new byte[frameBytesMax];
        _lengths[place] = lengthBytes;
        room = _frames[place].AsSpan(0, lengthBytes);
        return true;
    }

    public bool TryTake(out ReadOnlySpan<byte> frame)
    {
        frame = default;
        if (_count == 0)
        {
            return false;
        }

        frame = _frames[_head].AsSpan(0, _lengths[_head]);
        _head = (_head + 1) % framesMax;
        _count--;
        return true;
    }
}
