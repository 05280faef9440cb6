using Wayleave.Core;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Host.Objects;

/// <summary>
/// Sees one piece of a buffer at an offset, in bytes. Runs with the buffer's reservation held and without the host
/// lock.
/// </summary>
public delegate void PieceHandler(ulong offset, Span<byte> bytes);

/// <summary>
/// How the owner of a buffer looks at its bytes from the processor: piece by piece, each with the reservation held and
/// all KERNEL fences signalled, so that the bytes cannot move while they are touched; between two pieces a mover or a
/// revoke gets its turn.
/// </summary>
public sealed class OwnerAccess(HostContext host, PciFabric fabric)
{
    /// <summary>At most this much while nobody may move or revoke.</summary>
    public const int PieceBytes = 1 << 20;

    /// <summary>Walks over a range of the buffer in order.</summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: the buffer was freed meanwhile; what is at its place may be somebody else's.
    /// </exception>
    public async Task ForEachPieceAsync(
        ObjectMemory memory,
        ulong offset,
        ulong lengthBytes,
        PieceHandler handler,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(handler);
        DmaPort port = new(fabric.Processor);
        for (ulong end = offset + lengthBytes; offset < end;)
        {
            cancellation.ThrowIfCancellationRequested();
            int length = (int)Math.Min(PieceBytes, end - offset);
            AcquireTicket ticket;
            using (host.Enter())
            {
                ticket = new AcquireTicket(host, $"owner of {memory.Shared.Name}");
            }

            await memory.Shared.Reservation.LockAsync(host, ticket).ConfigureAwait(false);
            try
            {
                await memory.Shared.Reservation.WaitAsync(host, ReservationUsage.Kernel, ticket).ConfigureAwait(false);
                ThrowIfFreed(memory);
                Visit(memory, port, offset, length, handler);
            }
            finally
            {
                using (host.Enter())
                {
                    memory.Shared.Reservation.Unlock(ticket);
                }
            }

            offset += (ulong)length;
        }
    }

    // Asked with the reservation held: a free that comes later waits for it before it gives the memory away.
    private void ThrowIfFreed(ObjectMemory memory)
    {
        using (host.Enter())
        {
            if (memory.IsFreed)
            {
                throw new WayleaveException(Errno.ENODEV, $"reach {memory.Shared.Name}", "its owner has taken it back");
            }
        }
    }

    private static void Visit(ObjectMemory memory, DmaPort port, ulong offset, int length, PieceHandler handler)
    {
        while (length > 0)
        {
            if (!memory.Addresses.TryLocate(offset, out DeviceAddress address, out ulong contiguous))
            {
                throw new ArgumentOutOfRangeException(nameof(offset), $"0x{offset:x} is outside {memory.Shared.Name}");
            }

            int part = (int)Math.Min((ulong)length, contiguous);
            port.TryWrite(address, part, out Span<byte> bytes)
                .ThrowIfFailed($"reach {memory.Shared.Name} at {address}");
            handler(offset, bytes);
            offset += (ulong)bytes.Length;
            length -= bytes.Length;
        }
    }
}
