namespace Wayleave.Host.Transfers;

/// <summary>
/// Notices that a peer acknowledges nothing although something is in flight. A value; owned by one transfer.
/// </summary>
/// <param name="limit">How long that may be; infinite for ever.</param>
internal struct StallWatch(TimeSpan limit)
{
    private uint _psn;
    private TimeSpan _since;
    private bool _isRunning;

    /// <summary>Looks at the connection.</summary>
    /// <param name="oldestUnansweredPsn">Of its queue pair.</param>
    /// <param name="inFlight">Requests without a completion; with none there is nothing to acknowledge.</param>
    /// <param name="now">On the host's clock.</param>
    /// <returns>Whether nothing moved for the whole limit.</returns>
    public bool Observe(uint oldestUnansweredPsn, int inFlight, TimeSpan now)
    {
        if (inFlight == 0 || limit == Timeout.InfiniteTimeSpan)
        {
            _isRunning = false;
            return false;
        }

        if (!_isRunning || oldestUnansweredPsn != _psn)
        {
            (_isRunning, _psn, _since) = (true, oldestUnansweredPsn, now);
            return false;
        }

        return now - _since >= limit;
    }
}
