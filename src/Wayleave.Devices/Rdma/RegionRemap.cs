using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Devices.Rdma;

// lock the reservation -> RemapLocked -> unlock -> mapped, refused, or a fence to wait for and then again
//
// The reservation is not held while a fence is pending: an owner who takes the memory back must not wait for a mover's
// copy. Every step runs under the host lock, started by the edge or by a callback that takes it; nothing blocks.

/// <summary>
/// Maps a region again that a packet met while it was invalidated, or finishes a registration that had to wait
/// (<c>ib_umem_dmabuf_map_pages</c> as data). Host lock held by the caller.
/// </summary>
public sealed class RegionRemap
{
    private readonly MemoryRegion _region;
    private readonly SharedBuffer _buffer;
    private readonly AcquireTicket _ticket;
    private readonly Action<Errno>? _completed;

    private RegionRemap(MemoryRegion region, SharedBuffer buffer, Action<Errno>? completed)
    {
        (_region, _buffer, _completed) = (region, buffer, completed);
        _ticket = new AcquireTicket(buffer.Host, $"map of {region.Name}");
    }

    /// <summary>Starts to map.</summary>
    /// <param name="region">Registered; one that has been deregistered meanwhile is left alone.</param>
    /// <param name="completed">
    /// Runs once, after the host lock was released: success when the region is valid, or why it is not
    /// (<see cref="MemoryRegion.RemapLocked"/>).
    /// </param>
    public static void Start(MemoryRegion region, Action<Errno>? completed = null)
    {
        if (region.Backing is { } backing)
        {
            backing.ServeFault(completed);
        }
        else if (region.Buffer is { } buffer)
        {
            new RegionRemap(region, buffer, completed).Lock();
        }
    }

    private void Lock()
    {
        if (_buffer.Reservation.TryLock(_ticket).Wait is not { } wait)
        {
            Map();
            return;
        }

        wait.TryAddCallback(() =>
        {
            using (_buffer.Host.Enter())
            {
                Map();
            }
        });
    }

    private void Map()
    {
        MapOutcome outcome = _region.RemapLocked(_ticket);
        _buffer.Reservation.Unlock(_ticket);
        if (outcome.Kind != MapOutcomeKind.MustWait)
        {
            Complete(outcome.Errno);
            return;
        }

        bool kept = outcome.Fence!.TryAddCallback(_ =>
        {
            using (_buffer.Host.Enter())
            {
                Lock();
            }
        }) == Errno.Success;
        if (!kept)
        {
            Lock();
        }
    }

    private void Complete(Errno errno)
    {
        if (_completed is { } completed)
        {
            _buffer.Host.Defer(() => completed(errno));
        }
    }
}
