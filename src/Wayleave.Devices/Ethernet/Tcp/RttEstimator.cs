namespace Wayleave.Devices.Ethernet.Tcp;

/// <summary>The retransmission time-out of RFC 6298, and the shortest round trip of late (RFC 8985 6.1).</summary>
internal struct RttEstimator(TimeSpan rtoMin, TimeSpan rtoMax)
{
    // Section 2: before a sample the time-out is one second.
    private static readonly TimeSpan s_initial = TimeSpan.FromSeconds(1);

    private TimeSpan _rto = s_initial;
    private TimeSpan _variation;
    private int _backoff;

    /// <summary>Zero before the first sample.</summary>
    public TimeSpan Smoothed { get; private set; }

    /// <summary>The shortest sample; <see cref="TimeSpan.MaxValue"/> before the first.</summary>
    public TimeSpan Least { get; private set; } = TimeSpan.MaxValue;

    public readonly bool HasSample => Smoothed > TimeSpan.Zero;

    /// <summary>Doublings since the last progress.</summary>
    public readonly int Backoff => _backoff;

    /// <summary>With its doublings.</summary>
    public readonly TimeSpan Timeout
    {
        get
        {
            long ticks = _rto.Ticks << Math.Min(_backoff, 16);
            return ticks > rtoMax.Ticks || ticks < 0 ? rtoMax : new TimeSpan(ticks);
        }
    }

    /// <summary>A round trip of something sent once (section 3: Karn), or told by a timestamp.</summary>
    public void AddSample(TimeSpan sample)
    {
        sample = sample < TimeSpan.FromMicroseconds(1) ? TimeSpan.FromMicroseconds(1) : sample;
        Least = sample < Least ? sample : Least;
        if (!HasSample)
        {
            Smoothed = sample;
            _variation = sample / 2;
        }
        else
        {
            // Section 2.3: the variation first, with the old smoothed value.
            _variation = new TimeSpan(((3 * _variation.Ticks) + Math.Abs((Smoothed - sample).Ticks)) / 4);
            Smoothed = new TimeSpan(((7 * Smoothed.Ticks) + sample.Ticks) / 8);
        }

        TimeSpan rto = Smoothed + (4 * _variation);
        _rto = rto < rtoMin ? rtoMin : rto > rtoMax ? rtoMax : rto;
    }

    /// <summary>Section 5.5.</summary>
    public void BackOff() => _backoff = Math.Min(_backoff + 1, 30);

    /// <summary>The peer acknowledged something new.</summary>
    public void EndBackoff() => _backoff = 0;

    /// <summary>Section 5.7: the SYN had to be sent again, and nothing was measured since.</summary>
    public void StartAfterSynTimeout()
    {
        _backoff = 0;
        _rto = HasSample ? _rto : TimeSpan.FromSeconds(3);
    }
}
