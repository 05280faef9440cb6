using Wayleave.Core.Fences;

namespace Wayleave.Core.Reservations;

/// <summary>
/// Walks over the fences of a reservation (<c>dma_resv_iter</c>). With the reservation locked it yields all of the
/// class, signalled ones too. Without, the host lock may be released between two steps: it yields what is not
/// signalled, and begins again, and says so, when the list was replaced meanwhile. A value: copy it and you have two
/// walks.
/// </summary>
public struct FenceCursor
{
    private readonly Reservation _reservation;
    private readonly bool _isLocked;
    private int _generation;
    private int _count;
    private int _index;
    private bool _hasBegun;

    internal FenceCursor(Reservation reservation, ReservationUsage usage, bool isLocked)
    {
        (_reservation, Usage, _isLocked) = (reservation, usage, isLocked);
        Current = null!;
    }

    /// <summary>What is asked for.</summary>
    public ReservationUsage Usage { get; }

    /// <summary>Valid after <see cref="MoveNext"/> returned true.</summary>
    public Fence Current { get; private set; }

    /// <summary>The class under which <see cref="Current"/> was added.</summary>
    public ReservationUsage CurrentUsage { get; private set; }

    /// <summary>
    /// <see cref="Current"/> is the first of a walk, or of a walk that begins again: whoever adds up what it saw
    /// forgets what it has.
    /// </summary>
    public bool IsRestarted { get; private set; }

    /// <summary>The next fence. Host lock held; false at the end.</summary>
    public bool MoveNext()
    {
        _reservation.AssertReadable();
        IsRestarted = false;
        while (true)
        {
            if (!_hasBegun || (!_isLocked && _generation != _reservation.Generation))
            {
                _hasBegun = true;
                _generation = _reservation.Generation;
                (_index, _count) = (0, _reservation.Count);
                IsRestarted = true;
            }

            if (_index >= (_isLocked ? _reservation.Count : _count))
            {
                return false;
            }

            (Fence fence, ReservationUsage usage) = _reservation[_index++];

            // The look may signal the fence, and what runs then may replace the list: the loop sees that.
            bool isDue = usage <= Usage
                && (_isLocked || (!fence.CheckSignaled() && _generation == _reservation.Generation));
            if (isDue)
            {
                (Current, CurrentUsage) = (fence, usage);
                return true;
            }
        }
    }
}
