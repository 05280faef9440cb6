using Wayleave.Core.PeerMemory;

namespace Wayleave.Core.AddressSpaces;

/// <summary>
/// Makes the frames that stand for pages of a BAR in a process. A frame that somebody pinned keeps the pages out of
/// their pool, so that the driver's unbind waits for the pin.
/// </summary>
internal sealed class PeerFrames(MemorySystem memory, PeerUserMapping mapping) : IFrameSource
{
    public PeerUserMapping Mapping => mapping;

    public static PageFrame Make(MemorySystem memory, PeerUserMapping mapping, ulong index) => new(
        new PeerFrames(memory, mapping), PageFrameKind.PeerToPeer, memory.TakeNumbers(1), default,
        mapping.Range.Start + (index * PageFrame.SizeBytes))
    {
        IsAllocated = true,
    };

    public void Free(PageFrame frame) => frame.IsAllocated = false;

    public PageFrame PageBehind(PageFrame first, int index) =>
        throw new InvalidOperationException("a page of a BAR is in no folio");

    public Memory<byte> BytesFrom(PageFrame first, int count) => default;

    public void HandleProgress() => memory.HandleProgress();

    /// <summary>A holder of that frame comes.</summary>
    public static void Hold(PageFrame frame) => (frame.Source as PeerFrames)?.Mapping.Hold();

    public static void LetGo(PageFrame frame) => (frame.Source as PeerFrames)?.Mapping.LetGo();
}
