namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>
/// Proportional rate reduction (RFC 6937): while losses are repaired, what may be sent follows what was delivered, so
/// that the window comes down to the threshold within one round trip and without a burst.
/// </summary>
internal struct ProportionalRate
{
    private long _delivered;
    private long _sent;
    private long _flightAtStart;

    /// <summary>A recovery begins.</summary>
    public void Start(long flightBytes)
    {
        _delivered = _sent = 0;
        _flightAtStart = Math.Max(flightBytes, 1);
    }

    /// <summary>Something was sent during the recovery.</summary>
    public void HandleSent(long bytes) => _sent += bytes;

    /// <summary>
    /// The window after an acknowledgement that delivered something: what is under way and what may join it.
    /// </summary>
    public long Window(long deliveredBytes, long pipeBytes, long threshold, int segmentBytes, bool isFirst)
    {
        _delivered += deliveredBytes;
        long may;
        if (pipeBytes > threshold)
        {
            may = (((_delivered * threshold) + _flightAtStart - 1) / _flightAtStart) - _sent;
        }
        else
        {
            // Slow start, but no faster than the threshold allows (PRR-SSRB).
            long limit = Math.Max(_delivered - _sent, deliveredBytes) + segmentBytes;
            may = Math.Min(threshold - pipeBytes, limit);
        }

        // The retransmission that begins the recovery is always allowed (section 3, "fast retransmit").
        may = Math.Max(may, isFirst ? segmentBytes : 0);
        return pipeBytes + may;
    }
}
