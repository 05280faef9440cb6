using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux;

/// <summary>
/// Memory that one frame is read into, piece after piece (<c>struct iovec</c>). Made once and used again; one thread at
/// a time.
/// </summary>
public sealed unsafe class ScatterList
{
    private readonly iovec[] _pieces;

    /// <param name="capacity">Pieces that it can have; at most 1024 (<c>UIO_MAXIOV</c>).</param>
    public ScatterList(int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(capacity, 1024);
        _pieces = GC.AllocateUninitializedArray<iovec>(capacity, pinned: true);
    }

    public int Count { get; private set; }

    public void Clear() => Count = 0;

    /// <summary>Adds a piece.</summary>
    /// <param name="memory">
    /// Mapped memory, or a pinned array: it stays where it is, and mapped, until the read is over.
    /// </param>
    /// <exception cref="IndexOutOfRangeException">It is full.</exception>
    // What refuses it must not count it: the kernel takes what lies behind the pieces for one of them.
    public void Add(Span<byte> memory)
    {
        _pieces[Count] = new iovec
        {
            iov_base = Unsafe.AsPointer(ref MemoryMarshal.GetReference(memory)),
            iov_len = (nuint)memory.Length,
        };
        Count++;
    }

    internal iovec* First => (iovec*)Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(_pieces));
}
