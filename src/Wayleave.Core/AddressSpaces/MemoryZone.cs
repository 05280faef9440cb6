using Wayleave.Core.Topology;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// A range of the machine's memory that hands out pages. Frames are made when they are first used. Host lock held.
/// </summary>
internal sealed class MemoryZone : IFrameSource
{
    private readonly MemorySystem _memory;
    private readonly Memory<byte> _bytes;
    private readonly DeviceAddress _physical;
    private readonly ulong _firstNumber;
    private readonly PageFrame?[] _frames;
    private readonly PageIndex _free;

    public MemoryZone(
        MemorySystem memory, MemoryZoneKind kind, Memory<byte> bytes, DeviceAddress physical, ulong firstNumber)
    {
        (_memory, Kind, _bytes, _physical, _firstNumber) = (memory, kind, bytes, physical, firstNumber);
        int count = bytes.Length / PageFrame.SizeBytes;
        (_frames, _free) = (new PageFrame?[count], new PageIndex(count));
    }

    public MemoryZoneKind Kind { get; }

    public int PageCount => _frames.Length;

    public int FreeCount => _free.FreeCount;

    /// <summary>One page, or 2^order pages in one piece on a boundary of their size; null when there is none.</summary>
    public PageFrame? TryTake(int order)
    {
        int index = order == 0 ? _free.TakeOne() : _free.TakeAligned(1 << order);
        return index < 0 ? null : FrameAt(index);
    }

    /// <summary>Whether there are 2^order pages as <see cref="TryTake"/> gives them.</summary>
    public bool HasFree(int order) => _free.FindAligned(1 << order) >= 0;

    /// <summary>As <see cref="PageIndex.TakeRun"/>.</summary>
    public int TakeRun(int most, ref int cursor, out int first) => _free.TakeRun(most, ref cursor, out first);

    public PageFrame FrameAt(int index) => _frames[index] ??= new PageFrame(
        this, PageFrameKind.System, _firstNumber + (ulong)index,
        _bytes.Slice(index * PageFrame.SizeBytes, PageFrame.SizeBytes),
        _physical + ((ulong)index * PageFrame.SizeBytes))
    {
        Zone = Kind,
    };

    public int IndexOf(PageFrame frame) => (int)(frame.Number - _firstNumber);

    void IFrameSource.Free(PageFrame frame)
    {
        int count = frame.PageCount;
        _memory.HandleFree(frame);
        _free.ReturnRun(IndexOf(frame), count);
        _memory.HandleProgress();
    }

    void IFrameSource.HandleProgress() => _memory.HandleProgress();

    PageFrame IFrameSource.PageBehind(PageFrame first, int index) => FrameAt(IndexOf(first) + index);

    Memory<byte> IFrameSource.BytesFrom(PageFrame first, int count) =>
        _bytes.Slice(IndexOf(first) * PageFrame.SizeBytes, count * PageFrame.SizeBytes);
}
