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
        for (ulong end = offset + lengthBytes; offset < end;)
        {
            cancellation.ThrowIfCancellationRequested();
            ulong length = Math.Min(PieceBytes, end - offset);
            await VisitAsync(memory, [(offset, length)], handler).ConfigureAwait(false);
            offset += length;
        }
    }

    /// <summary>Walks over several ranges, in the order in which they are named, in one hold after the other.</summary>
    /// <exception cref="WayleaveException">As <see cref="ForEachPieceAsync"/>.</exception>
    public async Task ForEachRangeAsync(
        ObjectMemory memory,
        IReadOnlyList<(ulong Offset, ulong LengthBytes)> ranges,
        PieceHandler handler,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(ranges);
        ArgumentNullException.ThrowIfNull(handler);
        List<(ulong Offset, ulong LengthBytes)> hold = [];
        ulong held = 0;
        foreach ((ulong start, ulong lengthBytes) in ranges)
        {
            (ulong offset, ulong end) = (start, start + lengthBytes);
            while (offset < end)
            {
                ulong length = Math.Min(PieceBytes - held, end - offset);
                hold.Add((offset, length));
                held += length;
                offset += length;
                if (held == PieceBytes)
                {
                    await VisitHoldAsync().ConfigureAwait(false);
                }
            }
        }

        await VisitHoldAsync().ConfigureAwait(false);

        async Task VisitHoldAsync()
        {
            cancellation.ThrowIfCancellationRequested();
            if (hold.Count > 0)
            {
                await VisitAsync(memory, hold, handler).ConfigureAwait(false);
                hold.Clear();
                held = 0;
            }
        }
    }

    private async Task VisitAsync(
        ObjectMemory memory, IReadOnlyList<(ulong Offset, ulong LengthBytes)> ranges, PieceHandler handler)
    {
        DmaPort port = new(fabric.Processor);
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
            foreach ((ulong offset, ulong lengthBytes) in ranges)
            {
                Visit(memory, port, offset, (int)lengthBytes, handler);
            }
        }
        finally
        {
            using (host.Enter())
            {
                memory.Shared.Reservation.Unlock(ticket);
            }
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
