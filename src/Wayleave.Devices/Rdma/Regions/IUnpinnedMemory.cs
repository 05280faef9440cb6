using Wayleave.Core;

namespace Wayleave.Devices.Rdma.Regions;

/// <summary>
/// Memory of a process that nobody holds: each access asks for it, and is told when it is not there. Any thread.
/// </summary>
public interface IUnpinnedMemory
{
    /// <summary>Fills <paramref name="target"/> with the bytes from an address on.</summary>
    /// <returns>EFAULT when not all of them can be read; some may have been.</returns>
    Errno TryRead(ulong address, Span<byte> target);

    /// <summary>As the other way round.</summary>
    /// <returns>EFAULT when not all of them can be written; some may have been.</returns>
    Errno TryWrite(ulong address, ReadOnlySpan<byte> source);
}
