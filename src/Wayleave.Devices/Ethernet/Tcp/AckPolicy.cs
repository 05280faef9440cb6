namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// When an acknowledgement is due (RFC 9293 3.8.6.3, RFC 5681 4.2): at once for whatever the peer must hear of, else
/// after two full segments or a delay.
/// </summary>
internal struct AckPolicy(TimeSpan delay)
{
    // As many as the burst of a peer without SACK needs to see three duplicates, and no more: what a batch brought is
    // answered in one go.
    private const int OwedMax = 4;

    private long _unacknowledgedBytes;
    private bool _isAnswered;

    /// <summary>Acknowledgements to send now.</summary>
    public int Owed { get; private set; }

    /// <summary>When one is due without further reason; <see cref="TimeSpan.MaxValue"/> when none is.</summary>
    public TimeSpan Deadline { get; private set; } = TimeSpan.MaxValue;

    /// <summary>The next segment to leave says something that the peer does not know.</summary>
    public readonly bool IsDue(TimeSpan now) => Owed > 0 || Deadline <= now;

    /// <summary>Another segment came: it has at most one answer, whatever is the matter with it.</summary>
    public void BeginSegment() => _isAnswered = false;

    /// <summary>Out of order, or a duplicate: one acknowledgement for each such segment.</summary>
    public void RequestNow()
    {
        Owed = _isAnswered ? Math.Max(Owed, 1) : Math.Min(Owed + 1, OwedMax);
        _isAnswered = true;
    }

    /// <summary>At least one acknowledgement; several reasons of one batch are one answer.</summary>
    public void RequestOnce()
    {
        Owed = Math.Max(Owed, 1);
        _isAnswered = true;
    }

    /// <summary>Data came in order.</summary>
    public void HandleInOrder(TimeSpan now, long bytes, int segmentBytes)
    {
        _unacknowledgedBytes += bytes;
        if (_unacknowledgedBytes >= 2L * segmentBytes)
        {
            RequestOnce();
        }
        else if (Deadline == TimeSpan.MaxValue)
        {
            Deadline = now + delay;
        }
    }

    /// <summary>A segment with an acknowledgement left.</summary>
    public void HandleSent()
    {
        Owed = Math.Max(Owed - 1, 0);
        Deadline = TimeSpan.MaxValue;
        _unacknowledgedBytes = 0;
    }

    /// <summary>The delay is over.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        if (Deadline <= now)
        {
            Deadline = TimeSpan.MaxValue;
            RequestOnce();
        }
    }

    /// <summary>Nothing is acknowledged any more.</summary>
    public void Stop() => (Owed, Deadline, _unacknowledgedBytes) = (0, TimeSpan.MaxValue, 0);
}
