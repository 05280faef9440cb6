using System.Runtime.InteropServices;

namespace Wayleave.Host.Runners;

/// <summary>
/// Where a thread ran last, for another one that waits for it: who spins on the processor of whom he waits for only
/// keeps him from running, and yields instead. A guess, for either may be moved at any time. Callable without any lock.
/// </summary>
internal sealed class ProcessorMark
{
    private const int Nowhere = -1;

    private Line _line = new() { Processor = Nowhere };

    /// <summary>Whether the marked thread, when it ran last, had the processor of the calling one.</summary>
    public bool IsHere => Volatile.Read(ref _line.Processor) == Thread.GetCurrentProcessorId();

    /// <summary>
    /// The calling thread is the marked one. Writes only when it has moved: others read this all the time.
    /// </summary>
    public void Note()
    {
        int processor = Thread.GetCurrentProcessorId();
        if (_line.Processor != processor)
        {
            Volatile.Write(ref _line.Processor, processor);
        }
    }

    // On a cache line of its own, wherever the object begins.
    [StructLayout(LayoutKind.Explicit, Size = 128)]
    private struct Line
    {
        [FieldOffset(64)]
        public int Processor;
    }
}
