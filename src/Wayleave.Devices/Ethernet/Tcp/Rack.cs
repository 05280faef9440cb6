namespace Wayleave.Devices.Ethernet.Tcp;

// RFC 8985 section 6. What was sent before something that has arrived meanwhile is lost once it is late by more than
// the reordering that this path is known for.

/// <summary>Loss detection by time: the state of RACK that one connection keeps.</summary>
internal struct Rack
{
    private const int PersistRounds = 16;
    private const int DupThreshold = 3;

    private TimeSpan _sentAt;
    private long _end;
    private long _highestDelivered;
    private bool _reorderingSeen;
    private int _windowMultiple;
    private int _persist;
    private long _dsackRound;

    /// <summary>Something was delivered since the connection began.</summary>
    public bool HasSample { get; private set; }

    /// <summary>Round trip of what was sent last among the delivered.</summary>
    public TimeSpan RoundTrip { get; private set; }

    /// <summary>Delivered out of the order in which it was sent.</summary>
    public readonly bool HasSeenReordering => _reorderingSeen;

    /// <summary>
    /// Section 6.2, steps 1 to 3, for each run of bytes that was newly acknowledged, selectively or not.
    /// </summary>
    public void HandleDelivered(TimeSpan sentAt, long end, bool wasRetransmitted, TimeSpan now, TimeSpan roundTripLeast)
    {
        TimeSpan roundTrip = now - sentAt;
        if (end > _highestDelivered)
        {
            _highestDelivered = end;
        }
        else if (end < _highestDelivered && !wasRetransmitted)
        {
            _reorderingSeen = true;
        }

        // An acknowledgement this soon after a retransmission is one for the original.
        if (wasRetransmitted && roundTrip < roundTripLeast)
        {
            return;
        }

        if (!HasSample || IsAfter(sentAt, end, _sentAt, _end))
        {
            (HasSample, _sentAt, _end, RoundTrip) = (true, sentAt, end, roundTrip);
        }
    }

    /// <summary>Step 4: the peer got something twice, so a segment was called lost too soon.</summary>
    public void HandleDuplicate(long una, long nxt)
    {
        if (una >= _dsackRound)
        {
            // Once per round trip.
            _dsackRound = nxt;
            _windowMultiple++;
            _persist = PersistRounds;
        }
    }

    /// <summary>A recovery has ended; after sixteen without duplicates the window shrinks again.</summary>
    public void HandleRecoveryEnd()
    {
        if (_persist > 0 && --_persist == 0)
        {
            _windowMultiple = 0;
        }
    }

    /// <summary>How much later than its successors a segment may be.</summary>
    public readonly TimeSpan ReorderingWindow(
        in RttEstimator rtt, bool isRecovering, long sackedBytes, int segmentBytes)
    {
        if (!_reorderingSeen && (isRecovering || sackedBytes >= DupThreshold * (long)segmentBytes))
        {
            return TimeSpan.Zero;
        }

        TimeSpan window = (1 + _windowMultiple) * (rtt.HasSample ? rtt.Least : TimeSpan.Zero) / 4;
        return window < rtt.Smoothed ? window : rtt.Smoothed;
    }

    /// <summary>Whether something sent later than this was delivered.</summary>
    public readonly bool IsOvertaken(TimeSpan sentAt, long end) => HasSample && IsAfter(_sentAt, _end, sentAt, end);

    private static bool IsAfter(TimeSpan leftAt, long leftEnd, TimeSpan rightAt, long rightEnd) =>
        leftAt > rightAt || (leftAt == rightAt && leftEnd > rightEnd);
}
