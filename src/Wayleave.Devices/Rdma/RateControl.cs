namespace Wayleave.Devices.Rdma;

// A CNP cuts the rate by half of the estimate and remembers what it was:
//
//   target := current;  current := current * (1 - estimate / 2);  estimate := (1 - g) * estimate + g
//
// Then it rises, a step each time that the timer or the bytes come round, counted separately:
//
//   both below F    fast recovery        current := (target + current) / 2
//   one beyond F    additive increase    target += additive, then as above
//   both beyond F   hyper increase       target += hyper, then as above
//
// Time is only looked at when something is sent: what would have happened meanwhile is made up for.

/// <summary>How fast one queue pair may send: the reaction point of DCQCN. Port token held by the caller.</summary>
internal sealed class RateControl
{
    // Rises are made up for one by one after a pause, and after so many there is nothing left to rise.
    private const int CatchUpMax = 64;

    private readonly CongestionOptions _options;
    private double _target;
    private double _estimate;
    private TimeSpan _estimateAt;
    private TimeSpan _increaseAt;
    private long _bytes;
    private int _timerSteps;
    private int _byteSteps;

    public RateControl(CongestionOptions options)
    {
        _options = options;
        Reset();
    }

    /// <summary>Bytes per second.</summary>
    public double CurrentRate { get; private set; }

    /// <summary>When the next super-packet may leave.</summary>
    public TimeSpan NextSend { get; private set; }

    /// <summary>Nothing slows it down.</summary>
    public bool IsAtLineRate => _increaseAt == TimeSpan.MaxValue;

    /// <summary>Forgets everything: nothing slows it down.</summary>
    public void Reset()
    {
        CurrentRate = _target = _options.LineRate;
        _estimate = 1;
        (_estimateAt, _increaseAt, NextSend) = (TimeSpan.MaxValue, TimeSpan.MaxValue, TimeSpan.Zero);
        (_bytes, _timerSteps, _byteSteps) = (0, 0, 0);
    }

    /// <summary>Congestion was reported.</summary>
    public void HandleNotification(TimeSpan now)
    {
        CatchUp(now);
        _target = CurrentRate;
        CurrentRate = Math.Max(_options.MinimumRate, CurrentRate * (1 - _estimate / 2));
        _estimate = (1 - _options.Gain) * _estimate + _options.Gain;
        _estimateAt = now + _options.EstimateTimer;
        _increaseAt = now + _options.IncreaseTimer;
        (_bytes, _timerSteps, _byteSteps) = (0, 0, 0);
    }

    /// <summary>So much was sent.</summary>
    public void NoteSent(int bytes, TimeSpan now)
    {
        if (IsAtLineRate)
        {
            return;
        }

        CatchUp(now);
        _bytes += bytes;
        while (_bytes >= _options.IncreaseBytes)
        {
            _bytes -= _options.IncreaseBytes;
            _byteSteps++;
            Increase();
        }

        TimeSpan from = NextSend > now ? NextSend : now;
        NextSend = from + TimeSpan.FromTicks((long)(bytes / CurrentRate * TimeSpan.TicksPerSecond));
    }

    private void CatchUp(TimeSpan now)
    {
        for (int i = 0; i < CatchUpMax && _estimateAt <= now; i++)
        {
            _estimate *= 1 - _options.Gain;
            _estimateAt += _options.EstimateTimer;
        }

        for (int i = 0; i < CatchUpMax && _increaseAt <= now; i++)
        {
            _timerSteps++;
            _increaseAt += _options.IncreaseTimer;
            Increase();
        }

        if (CurrentRate >= _options.LineRate)
        {
            (_increaseAt, _estimateAt) = (TimeSpan.MaxValue, TimeSpan.MaxValue);
        }
        else if (_increaseAt <= now)
        {
            (_increaseAt, _estimateAt) = (now + _options.IncreaseTimer, now + _options.EstimateTimer);
        }
    }

    private void Increase()
    {
        int most = Math.Max(_timerSteps, _byteSteps);
        int least = Math.Min(_timerSteps, _byteSteps);
        if (least > _options.FastRecoverySteps)
        {
            _target += _options.HyperStep;
        }
        else if (most > _options.FastRecoverySteps)
        {
            _target += _options.AdditiveStep;
        }

        _target = Math.Min(_target, _options.LineRate);
        CurrentRate = (_target + CurrentRate) / 2;

        // Halving never arrives; the last thousandth is nothing that could be measured.
        CurrentRate = CurrentRate > 0.999 * _options.LineRate ? _options.LineRate : CurrentRate;
    }
}
