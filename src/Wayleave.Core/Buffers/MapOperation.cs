using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

//   lock the reservation --> map --> unlock --> wait for KERNEL fences --> hand over
//          |                  |                        |
//          +--- waits as data +--- refused: ENODEV ... +--- invalidated meanwhile: start again
//
// The reservation is not held while a copy runs: an owner who takes the memory back must not wait for a mover's copy. So the mapping
// may be invalidated before it was ever handed over; then this operation asks again, and finds the new place or the refusal.

/// <summary>
/// Maps an attachment and waits until the memory may be touched, without blocking (<c>ib_umem_dmabuf_map_pages</c>): what a
/// dynamic importer does on first use and after every invalidation. Host lock held by the caller.
/// </summary>
public sealed class MapOperation
{
    private readonly Attachment _attachment;
    private readonly DmaDirection _direction;
    private readonly AcquireTicket _ticket;
    private readonly Action<MapOutcome> _completed;
    private DmaAddressList? _addresses;

    private MapOperation(Attachment attachment, DmaDirection direction, Action<MapOutcome> completed)
    {
        _attachment = attachment;
        _direction = direction;
        _completed = completed;
        _ticket = new AcquireTicket(attachment.Buffer.Host, $"map of {attachment.Name}");
    }

    /// <summary>Starts to map.</summary>
    /// <param name="attachment">Not mapped; an invalidated mapping that still drains is waited for.</param>
    /// <param name="direction">Who writes.</param>
    /// <param name="completed">
    /// Runs once, with the host lock held, perhaps before this method returns. Mapped: the importer makes its translation from the
    /// list before it returns. Refused: the mapping does not exist.
    /// </param>
    public static void Start(Attachment attachment, DmaDirection direction, Action<MapOutcome> completed)
    {
        attachment.Buffer.Host.AssertHeld();
        new MapOperation(attachment, direction, completed).Lock();
    }

    private void Lock()
    {
        if (_attachment.State == MappingState.Invalidated)
        {
            _attachment.ObserveUnmap(Lock);
            return;
        }

        if (_attachment.Buffer.Reservation.TryLock(_ticket).Wait is { } wait)
        {
            wait.Observe(Map);
        }
        else
        {
            Map();
        }
    }

    private void Map()
    {
        if (_attachment.State != MappingState.Unmapped)
        {
            // Somebody else mapped, or an invalidation came while this operation was queued.
            bool draining = _attachment.State == MappingState.Invalidated;
            _attachment.Buffer.Reservation.Unlock(_ticket);
            if (draining)
            {
                Lock();
            }
            else
            {
                _completed(MapOutcome.Refused(Errno.EBUSY));
            }

            return;
        }

        MapOutcome outcome = _attachment.MapLocked(_ticket, _direction);
        _addresses = outcome.Addresses;
        _attachment.Buffer.Reservation.Unlock(_ticket);
        switch (outcome.Kind)
        {
            case MapOutcomeKind.Refused:
                _completed(outcome);
                break;
            case MapOutcomeKind.MustWait when !outcome.Fence!.TryObserve(_ => Lock()):
                Lock();
                break;
            case MapOutcomeKind.Mapped:
                WaitForKernel();
                break;
            default:
                break;
        }
    }

    private void WaitForKernel()
    {
        if (_attachment.State != MappingState.Mapped || !ReferenceEquals(_attachment.Addresses, _addresses))
        {
            Lock();
            return;
        }

        Fence? fence = _attachment.Buffer.Reservation.FirstUnsignaled(ReservationUsage.Kernel);
        if (fence is null || !fence.TryObserve(_ => WaitForKernel()))
        {
            _completed(MapOutcome.Mapped(_addresses!));
        }
    }
}
