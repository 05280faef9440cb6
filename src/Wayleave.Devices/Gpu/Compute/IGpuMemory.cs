using Wayleave.Core;
using Wayleave.Core.Buffers;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>
/// Memory as the commands of one job reach it, checked at every touch. Called by the holder of the engine token; the
/// bytes are only those of the block that is under way.
/// </summary>
internal interface IGpuMemory
{
    /// <summary>
    /// The next bytes of an operand: at least four, less than asked for where the memory is in pieces.
    /// </summary>
    /// <param name="operand">Of the command.</param>
    /// <param name="offset">Within it, a multiple of four.</param>
    /// <param name="length">At most; a multiple of four, and within the operand.</param>
    /// <param name="bytes">In place.</param>
    /// <returns>
    /// <see cref="Errno.EFAULT"/> where nothing is, <see cref="Errno.EACCES"/> where it may not be read,
    /// <see cref="Errno.EAGAIN"/> where somebody has to map it first.
    /// </returns>
    Errno TryRead(in GpuOperand operand, ulong offset, int length, out ReadOnlySpan<byte> bytes);

    /// <summary>As <see cref="TryRead"/>, to be written.</summary>
    Errno TryWrite(in GpuOperand operand, ulong offset, int length, out Span<byte> bytes);

    /// <summary>
    /// The memory of a binding is elsewhere from now on. Host lock held, and no block under way.
    /// </summary>
    void Rebind(GpuBinding binding, DmaAddressList addresses);
}
