namespace Wayleave.Devices.Ethernet.Tcp;

internal enum LifeEvent
{
    None,

    /// <summary>The SYN is sent again.</summary>
    SynRetry,

    /// <summary>Nobody answered the SYN.</summary>
    SynFailed,

    KeepAliveProbe,

    /// <summary>Probes, or the user's patience, are used up.</summary>
    PeerIsDead,

    /// <summary>TIME-WAIT, or the wait of an orphan for a FIN, is over.</summary>
    Expired,
}

/// <summary>The timers that end a connection: handshake, keep-alive, user time-out, orphan and TIME-WAIT.</summary>
internal sealed class LifeTimers(TcpEndpointOptions options)
{
    private static readonly TimeSpan s_synInitial = TimeSpan.FromSeconds(1);

    private TimeSpan _synAt = TimeSpan.MaxValue;
    private TimeSpan _endAt = TimeSpan.MaxValue;
    private TimeSpan _lastReceived;
    private TimeSpan _lastProgress;
    private TimeSpan _lastSent;
    private TimeSpan _keepAliveAt;
    private TimeSpan _invalidAt = TimeSpan.MinValue;
    private int _synsSent;
    private int _keepAlivesSent;

    public bool IsKeepAliveOn { get; set; }

    public TimeSpan UserTimeout { get; set; }

    /// <summary>More than one SYN was needed.</summary>
    public bool WasSynRetransmitted => _synsSent > 1;

    /// <summary>When the first SYN left.</summary>
    public TimeSpan SynSentAt { get; private set; }

    public TimeSpan GetDeadline(TcpState state, bool isStuck, bool isOrphan)
    {
        TimeSpan deadline = state is TcpState.SynSent or TcpState.SynReceived ? _synAt : _endAt;
        if (state is TcpState.Closed or TcpState.TimeWait || !state.IsSynchronized())
        {
            return deadline;
        }

        if (isStuck && Patience(isOrphan) > TimeSpan.Zero)
        {
            deadline = Min(deadline, _lastProgress + Patience(isOrphan));
        }

        return IsKeepAliveOn && !isStuck ? Min(deadline, KeepAliveAt()) : deadline;
    }

    public LifeEvent HandleTimeout(TimeSpan now, TcpState state, bool isStuck, bool isOrphan)
    {
        if (!state.IsSynchronized())
        {
            return HandleSynTimeout(now);
        }

        if (_endAt <= now)
        {
            return LifeEvent.Expired;
        }

        if (state is TcpState.TimeWait)
        {
            return LifeEvent.None;
        }

        TimeSpan patience = Patience(isOrphan);
        if (isStuck)
        {
            return patience > TimeSpan.Zero && _lastProgress + patience <= now
                ? LifeEvent.PeerIsDead
                : LifeEvent.None;
        }

        if (!IsKeepAliveOn || KeepAliveAt() > now)
        {
            return LifeEvent.None;
        }

        if (_keepAlivesSent == options.KeepAliveProbes)
        {
            return LifeEvent.PeerIsDead;
        }

        _keepAlivesSent++;
        _keepAliveAt = now;
        return LifeEvent.KeepAliveProbe;
    }

    public void StartSyn(TimeSpan now) => _synAt = now + s_synInitial;

    public void HandleSynSent(TimeSpan now)
    {
        SynSentAt = _synsSent == 0 ? now : SynSentAt;
        _synAt = now + (s_synInitial * (1 << Math.Min(_synsSent, 6)));
        _synsSent++;
    }

    public void HandleReceived(TimeSpan now)
    {
        _lastReceived = now;
        _keepAlivesSent = 0;
    }

    /// <summary>Whether another segment outside the window may be answered now.</summary>
    public bool TryAnswerInvalid(TimeSpan now)
    {
        bool may = now >= _invalidAt;
        _invalidAt = may ? now + options.InvalidInterval : _invalidAt;
        return may;
    }

    /// <summary>Something left while nothing was outstanding, or was acknowledged.</summary>
    public void HandleProgress(TimeSpan now) => _lastProgress = now;

    public void HandleSent(TimeSpan now) => _lastSent = now;

    public void StartTimeWait(TimeSpan now) => _endAt = now + options.TimeWait;

    /// <summary>
    /// Our FIN was acknowledged, or the user left, whichever is later: nobody waits for ever for the FIN of a peer.
    /// </summary>
    public void StartOrphan(TimeSpan now) => _endAt = now + options.OrphanTimeout;

    public void Stop() => (_synAt, _endAt) = (TimeSpan.MaxValue, TimeSpan.MaxValue);

    private TimeSpan Patience(bool isOrphan) =>
        UserTimeout > TimeSpan.Zero ? UserTimeout : isOrphan ? options.OrphanTimeout : TimeSpan.Zero;

    private TimeSpan KeepAliveAt()
    {
        TimeSpan idle = Max(_lastReceived, _keepAlivesSent == 0 ? _lastSent : TimeSpan.Zero) + options.KeepAliveIdle;
        return _keepAlivesSent == 0 ? idle : _keepAliveAt + options.KeepAliveInterval;
    }

    private LifeEvent HandleSynTimeout(TimeSpan now)
    {
        if (_synAt > now)
        {
            return LifeEvent.None;
        }

        // What is sent again sets the time anew.
        _synAt = TimeSpan.MaxValue;
        return _synsSent > options.SynRetries ? LifeEvent.SynFailed : LifeEvent.SynRetry;
    }

    private static TimeSpan Max(TimeSpan left, TimeSpan right) => left > right ? left : right;

    private static TimeSpan Min(TimeSpan left, TimeSpan right) => left < right ? left : right;
}
