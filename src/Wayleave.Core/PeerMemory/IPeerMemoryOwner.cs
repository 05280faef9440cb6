using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Whoever allocates a device's memory, and stays the only one who does: a GPU's block allocator, or the pool of a
/// controller memory buffer. It lends ranges and gets them back; what happens inside a range is the borrower's business
/// (<see cref="PeerResource"/>). Called with the host lock held.
/// </summary>
public interface IPeerMemoryOwner
{
    /// <summary>
    /// Whether it allocates the memory behind a BAR. Then <see cref="PeerDevice.TryAddResource"/> refuses that BAR: two
    /// allocators of one memory are one too many.
    /// </summary>
    bool Allocates(PciBar bar);

    /// <summary>
    /// Takes memory out of the owner's allocator and lends it as a revocable buffer. Its bytes are zero once its KERNEL
    /// fences have signalled.
    /// </summary>
    /// <param name="name">At most 31 characters.</param>
    /// <param name="sizeBytes">Whole pages, positive.</param>
    /// <param name="buffer">The borrower's until <see cref="TakeBack"/>.</param>
    /// <returns>What the allocator says when there is not that much: ENOSPC or ENOMEM.</returns>
    Errno TryLend(string name, ulong sizeBytes, out SharedBuffer? buffer);

    /// <summary>
    /// Revokes what was lent. The memory is in the owner's allocator again when the operation has retired, and not
    /// before.
    /// </summary>
    RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy);
}
