using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A range of the machine's memory that hands out pages. Frames are made when they are first used. Host lock held.
/// </summary>
internal sealed class MemoryZone
{
    private readonly MemorySystem _memory;
    private readonly Memory<byte> _bytes;
    private readonly DeviceAddress _physical;
    private readonly ulong _firstNumber;
    private readonly PageFrame?[] _frames;
    private readonly bool[] _isFree;
    private readonly bool[] _isStacked; // so that the stack holds each page once, although some on it are in use
    private readonly Stack<int> _stack;

    public MemoryZone(
        MemorySystem memory, MemoryZoneKind kind, Memory<byte> bytes, DeviceAddress physical, ulong firstNumber)
    {
        (_memory, Kind, _bytes, _physical, _firstNumber) = (memory, kind, bytes, physical, firstNumber);
        int count = bytes.Length / PageFrame.SizeBytes;
        (_frames, _isFree, _isStacked) = (new PageFrame?[count], new bool[count], new bool[count]);
        _stack = new Stack<int>(count);
        for (int i = count - 1; i >= 0; i--)
        {
            Return(i);
        }
    }

    public MemoryZoneKind Kind { get; }

    public int PageCount => _frames.Length;

    public int FreeCount { get; private set; }

    /// <summary>One page, or 2^order pages in one piece on a boundary of their size; null when there is none.</summary>
    public PageFrame? TryTake(int order)
    {
        int index = order == 0 ? TakeOne() : TakeRun(1 << order);
        return index < 0 ? null : FrameAt(index);
    }

    public PageFrame FrameAt(int index) => _frames[index] ??= new PageFrame(
        _memory, PageFrameKind.System, _firstNumber + (ulong)index,
        _bytes.Slice(index * PageFrame.SizeBytes, PageFrame.SizeBytes),
        _physical + ((ulong)index * PageFrame.SizeBytes))
    {
        Zone = Kind,
    };

    public int IndexOf(PageFrame frame) => (int)(frame.Number - _firstNumber);

    public bool Contains(PageFrame frame) =>
        frame.Number >= _firstNumber && frame.Number - _firstNumber < (ulong)_frames.Length;

    public void Return(int index)
    {
        _isFree[index] = true;
        FreeCount++;
        if (!_isStacked[index])
        {
            _isStacked[index] = true;
            _stack.Push(index);
        }
    }

    private int TakeOne()
    {
        while (_stack.TryPop(out int index))
        {
            _isStacked[index] = false;
            if (_isFree[index])
            {
                Take(index);
                return index;
            }
        }

        return -1;
    }

    private int TakeRun(int count)
    {
        for (int first = 0; first + count <= _isFree.Length; first += count)
        {
            if (_isFree.AsSpan(first, count).IndexOf(false) < 0)
            {
                for (int i = 0; i < count; i++)
                {
                    Take(first + i);
                }

                return first;
            }
        }

        return -1;
    }

    private void Take(int index)
    {
        _isFree[index] = false;
        FreeCount--;
    }
}
