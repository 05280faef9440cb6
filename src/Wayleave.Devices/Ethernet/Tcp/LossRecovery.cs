using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Open: nothing is missing. Recovery: acknowledgements told of a loss (RFC 6675, RFC 8985; RFC 6582 without SACK), and
// what leaves follows what arrives. Loss: a time-out, and everything outstanding is doubtful.
//
//   Open --loss detected--> Recovery --all of it acknowledged--> Open
//   Open, Recovery --time-out--> Loss --all of it acknowledged--> Open

internal enum RecoveryPhase
{
    Open,
    Recovery,
    Loss,
}

/// <summary>What is outstanding, what of it is lost, and how much may be under way.</summary>
internal sealed class LossRecovery(TcpEndpointOptions options, TcpStats stats)
{
    private const int DupThreshold = 3;

    private readonly SentSegments _sent = new(options.ScoreboardEntriesMax);
    private Rack _rack;
    private ProportionalRate _rate;
    private RttEstimator _rtt = new(options.RetransmitTimeoutMin, options.RetransmitTimeoutMax);
    private CubicWindow _window = new(options.MinimumSegmentBytes, options.InitialWindowSegments);
    private long _recoveryPoint;
    private int _duplicateAcks;
    private long _probeEnd = -1;
    private bool _isProbeRepetition;
    private TimeSpan _retransmitAt = TimeSpan.MaxValue;
    private TimeSpan _probeAt = TimeSpan.MaxValue;
    private TimeSpan _reorderAt = TimeSpan.MaxValue;
    private TimeSpan _lastSent;
    private long _nxt = 1;

    public RecoveryPhase Phase { get; private set; }

    /// <summary>The peer sends SACK blocks.</summary>
    public bool UsesSack { get; set; }

    public SentSegments Sent => _sent;

    public ref RttEstimator Rtt => ref _rtt;

    public long WindowBytes => _window.Bytes;

    public long Threshold => _window.Threshold;

    public bool HasSeenReordering => _rack.HasSeenReordering;

    /// <summary>Time-outs since something new was acknowledged.</summary>
    public int Timeouts { get; private set; }

    /// <summary>When <see cref="HandleTimeout"/> has something to do.</summary>
    public TimeSpan Deadline => Min(_retransmitAt, Min(_probeAt, _reorderAt));

    /// <summary>A loss probe is due (RFC 8985 section 7).</summary>
    public bool IsProbeDue { get; private set; }

    /// <summary>Bytes believed to be in the network.</summary>
    public long PipeBytes(long una) =>
        _nxt - Math.Max(una, 1) - _sent.SackedBytes - _sent.LostBytes
        - (UsesSack ? 0 : Math.Min((long)_duplicateAcks * _window.SegmentBytes, _nxt - Math.Max(una, 1)));

    /// <summary>The handshake is over: what a segment carries is known.</summary>
    public void Start(int segmentBytes, bool wasSynRetransmitted)
    {
        // RFC 6928 2, RFC 5681 3.1: a SYN that had to be sent again leaves one segment.
        _window = new CubicWindow(segmentBytes, wasSynRetransmitted ? 1 : options.InitialWindowSegments);
        if (wasSynRetransmitted)
        {
            _rtt.StartAfterSynTimeout();
        }
    }

    /// <summary>The path carries less than was thought: what is outstanding is sent again in smaller pieces.</summary>
    public void SetSegmentBytes(int segmentBytes)
    {
        _window.SetSegmentBytes(segmentBytes);
        if (!_sent.IsEmpty)
        {
            _sent.MarkAllLost();
            (Phase, _recoveryPoint) = (RecoveryPhase.Loss, _nxt);
        }
    }

    /// <summary>New data leaves.</summary>
    public void HandleSent(TimeSpan now, long start, long end)
    {
        if (_sent.IsEmpty && _lastSent != TimeSpan.Zero && now - _lastSent > _rtt.Timeout)
        {
            _window.Restart();
        }

        _sent.Append(start, end, now);
        _nxt = end;
        _lastSent = now;
        _rate.HandleSent(end - start);
        ArmRetransmit(now, restart: false);
        ArmProbe(now);
    }

    /// <summary>The first bytes that were given up leave again.</summary>
    public void HandleRetransmitted(TimeSpan now, long length)
    {
        _sent.Retransmit(length, now);
        _rate.HandleSent(length);
        _lastSent = now;
        ArmRetransmit(now, restart: true);
    }

    /// <summary>What a loss probe sends when there is nothing new: the end of what is outstanding.</summary>
    public void TakeProbe(TimeSpan now, int segmentBytes, out long start, out long end)
    {
        _sent.RetransmitLast(segmentBytes, now, out start, out end);
        NoteProbe(now, isRepetition: true);
    }

    /// <summary>A loss probe left that was new data.</summary>
    public void NoteProbe(TimeSpan now, bool isRepetition)
    {
        stats.LossProbes++;
        IsProbeDue = false;
        (_probeEnd, _isProbeRepetition) = (_nxt, isRepetition);
        _probeAt = TimeSpan.MaxValue;
        ArmRetransmit(now, restart: true);
    }

    /// <summary>An acceptable acknowledgement, new or not.</summary>
    /// <param name="now">For samples and timers.</param>
    /// <param name="una">SND.UNA before.</param>
    /// <param name="ack">What it acknowledges; not below <paramref name="una"/>, not beyond what was sent.</param>
    /// <param name="segment">Its SACK blocks.</param>
    /// <param name="near">Sequence number of <paramref name="una"/>.</param>
    /// <param name="isDuplicate">RFC 5681 section 2: nothing but a repetition.</param>
    /// <param name="echoed">Round trip by the echoed timestamp, or zero.</param>
    public void HandleAck(
        TimeSpan now, long una, long ack, scoped in TcpSegment segment, uint near, bool isDuplicate, TimeSpan echoed)
    {
        AckSample sample = default;
        long flightBefore = PipeBytes(una), lostBefore = _sent.LostBytes;
        _sent.Acknowledge(ack, now, in _rtt, ref _rack, ref sample);
        bool hasDuplicate = UsesSack && HandleSack(now, una, ack, segment, near, ref sample);
        if (sample.HasRoundTrip && !sample.HasRetransmitted)
        {
            _rtt.AddSample(now - sample.SentAt);
        }
        else if (ack > una && echoed > TimeSpan.Zero)
        {
            _rtt.AddSample(echoed);
        }

        if (hasDuplicate)
        {
            stats.DuplicatesReported++;
            _rack.HandleDuplicate(ack, _nxt);
        }

        bool isProgress = ack > una;
        if (isProgress)
        {
            _rtt.EndBackoff();
            Timeouts = 0;
        }

        bool isBare = !isProgress && segment.LengthInSequence == 0 && segment.Options.SackCount == 0;
        EndProbe(ack, hasDuplicate, isBare);
        bool repairs = EndPhase(ack);
        CountDuplicates(isProgress, isDuplicate, ref sample);
        DetectLosses(now);
        bool isFirst = EnterRecovery(ack);
        Adjust(now, ack, sample.DeliveredBytes, flightBefore, isFirst, isProgress && !repairs);
        if (isProgress || _sent.LostBytes != lostBefore)
        {
            ArmRetransmit(now, restart: true);
        }

        if (sample.DeliveredBytes > 0)
        {
            ArmProbe(now);
        }
    }

    /// <summary>Lets the timers that are due act. True when the retransmission time-out passed.</summary>
    public bool HandleTimeout(TimeSpan now, long una)
    {
        if (_reorderAt <= now)
        {
            _reorderAt = TimeSpan.MaxValue;
            DetectLosses(now);
            bool isFirst = EnterRecovery(una);
            Adjust(now, una, delivered: 0, PipeBytes(una), isFirst, isProgress: false);
        }

        if (_probeAt <= now)
        {
            _probeAt = TimeSpan.MaxValue;
            IsProbeDue = !_sent.IsEmpty;
        }

        if (_retransmitAt > now)
        {
            return false;
        }

        _retransmitAt = TimeSpan.MaxValue;
        if (_sent.IsEmpty)
        {
            return false;
        }

        TimeOut(now, una);
        return true;
    }

    /// <summary>Nothing is outstanding or awaited any more.</summary>
    public void Stop()
    {
        _sent.Clear();
        _retransmitAt = _probeAt = _reorderAt = TimeSpan.MaxValue;
        IsProbeDue = false;
    }

    private static TimeSpan Min(TimeSpan left, TimeSpan right) => left < right ? left : right;

    private void TimeOut(TimeSpan now, long una)
    {
        stats.Timeouts++;
        Timeouts++;
        if (Phase != RecoveryPhase.Loss)
        {
            // RFC 5681 (4): once per loss, not for each doubling.
            _window.HandleLoss(_nxt - una);
        }

        if (_sent.IsOldestSacked)
        {
            _sent.ForgetSacks(); // the peer renounced what it had announced (RFC 2018 section 8)
        }

        _window.Collapse();
        _sent.MarkAllLost();
        _duplicateAcks = 0;
        (Phase, _recoveryPoint, _probeEnd) = (RecoveryPhase.Loss, _nxt, -1);
        IsProbeDue = false;
        _probeAt = _reorderAt = TimeSpan.MaxValue;
        _rtt.BackOff();
        ArmRetransmit(now, restart: true);
    }

    // RFC 2883: a first block below the acknowledgement, or inside the second block, reports a duplicate. The others
    // count when they lie within what is outstanding; whatever else they say is ignored.
    private bool HandleSack(
        TimeSpan now, long una, long ack, scoped in TcpSegment segment, uint near, ref AckSample sample)
    {
        Span<(long Left, long Right)> blocks = stackalloc (long, long)[SackBlocks.CountMax];
        int count = 0;
        bool hasDuplicate = false;
        for (int i = 0; i < segment.Options.SackCount; i++)
        {
            SackBlock block = segment.Options.GetSackBlock(i);
            long left = Seq.ToPosition(block.Left, near, una), right = Seq.ToPosition(block.Right, near, una);
            if (left >= right || right > _nxt || right - left > int.MaxValue / 2)
            {
                continue;
            }

            if (i == 0 && (right <= ack || IsInside(segment, near, una, left, right)))
            {
                hasDuplicate = left >= 1;
            }
            else if (left >= ack)
            {
                blocks[count++] = (left, right);
            }
        }

        blocks[..count].Sort();
        foreach ((long left, long right) in blocks[..count])
        {
            _sent.Sack(left, right, now, in _rtt, ref _rack, ref sample);
        }

        return hasDuplicate;
    }

    private static bool IsInside(scoped in TcpSegment segment, uint near, long una, long left, long right)
    {
        if (segment.Options.SackCount < 2)
        {
            return false;
        }

        SackBlock second = segment.Options.GetSackBlock(1);
        return left >= Seq.ToPosition(second.Left, near, una) && right <= Seq.ToPosition(second.Right, near, una);
    }

    // RFC 8985 7.4.2: a probe that was needed repaired a loss, and the window must notice. An acknowledgement of its
    // end may be that of the original, which was only late: then the probe is reported as a duplicate, or acknowledged
    // again bare. What is acknowledged beyond it without such a word says that there was but one.
    private void EndProbe(long ack, bool hasDuplicate, bool isBare)
    {
        if (_probeEnd < 0 || ack < _probeEnd)
        {
            return;
        }

        bool wasOnce = !_isProbeRepetition || hasDuplicate || (ack == _probeEnd && isBare);
        if (!wasOnce && ack == _probeEnd)
        {
            return;
        }

        if (!wasOnce && Phase == RecoveryPhase.Open)
        {
            _window.HandleLoss(_window.Bytes);
            _window.Bytes = Math.Min(_window.Bytes, _window.Threshold);
        }

        _probeEnd = -1;
    }

    // True when this ends a recovery: the window is what the recovery left, and does not grow by the same
    // acknowledgement.
    private bool EndPhase(long ack)
    {
        if (Phase == RecoveryPhase.Open || ack < _recoveryPoint)
        {
            return false;
        }

        bool wasRecovery = Phase == RecoveryPhase.Recovery;
        if (wasRecovery)
        {
            _window.Bytes = Math.Max(_window.Threshold, _window.SegmentBytes);
            _rack.HandleRecoveryEnd();
        }

        Phase = RecoveryPhase.Open;
        _duplicateAcks = 0;
        return wasRecovery;
    }

    private void CountDuplicates(bool isProgress, bool isDuplicate, ref AckSample sample)
    {
        if (UsesSack)
        {
            return;
        }

        if (isDuplicate && !_sent.IsEmpty)
        {
            // A segment left the network, wherever it was.
            _duplicateAcks++;
            sample.DeliveredBytes += _window.SegmentBytes;
            if (_duplicateAcks == DupThreshold && Phase == RecoveryPhase.Open)
            {
                _sent.MarkFirstLost(_window.SegmentBytes);
            }
        }
        else if (isProgress)
        {
            // RFC 6582 3.2 (5): a partial acknowledgement shows the next hole.
            _duplicateAcks = 0;
            if (Phase == RecoveryPhase.Recovery)
            {
                _sent.MarkFirstLost(_window.SegmentBytes);
            }
        }
    }

    private void DetectLosses(TimeSpan now)
    {
        if (!UsesSack)
        {
            return;
        }

        TimeSpan reordering = _rack.ReorderingWindow(
            in _rtt, Phase != RecoveryPhase.Open, _sent.SackedBytes, _window.SegmentBytes);
        TimeSpan wait = _sent.DetectLosses(now, in _rack, reordering);
        _reorderAt = wait > TimeSpan.Zero ? now + wait : TimeSpan.MaxValue;
    }

    private bool EnterRecovery(long ack)
    {
        if (Phase != RecoveryPhase.Open || _sent.LostBytes == 0)
        {
            return false;
        }

        stats.FastRecoveries++;
        long flight = _nxt - Math.Max(ack, 1);
        _window.HandleLoss(flight);
        _rate.Start(flight);
        (Phase, _recoveryPoint) = (RecoveryPhase.Recovery, _nxt);
        return true;
    }

    private void Adjust(TimeSpan now, long ack, long delivered, long flightBefore, bool isFirst, bool isProgress)
    {
        if (Phase == RecoveryPhase.Recovery)
        {
            _window.Bytes = Math.Max(
                _rate.Window(delivered, PipeBytes(ack), _window.Threshold, _window.SegmentBytes, isFirst),
                _window.SegmentBytes);
            return;
        }

        // RFC 7661 in short: a window that is not used says nothing about the path.
        bool isUsed = flightBefore + _window.SegmentBytes >= _window.Bytes
            || (_window.Bytes < _window.Threshold && 2 * flightBefore >= _window.Bytes);
        if (isProgress && (isUsed || Phase == RecoveryPhase.Loss))
        {
            _window.Grow(now, delivered, _rtt.Smoothed);
        }
    }

    private void ArmRetransmit(TimeSpan now, bool restart)
    {
        if (_sent.IsEmpty)
        {
            _retransmitAt = _probeAt = _reorderAt = TimeSpan.MaxValue;
            IsProbeDue = false;
        }
        else if (restart || _retransmitAt == TimeSpan.MaxValue)
        {
            _retransmitAt = now + _rtt.Timeout;
        }
    }

    // RFC 8985 7.2: not while something is repaired, one at a time, and never later than the time-out.
    private void ArmProbe(TimeSpan now)
    {
        IsProbeDue = false;
        bool may = UsesSack && Phase == RecoveryPhase.Open && _probeEnd < 0 && !_sent.IsEmpty && _sent.SackedBytes == 0;
        if (!may)
        {
            _probeAt = TimeSpan.MaxValue;
            return;
        }

        TimeSpan wait = _rtt.HasSample ? 2 * _rtt.Smoothed : TimeSpan.FromSeconds(1);
        if (_sent.OutstandingBytes <= _window.SegmentBytes)
        {
            wait += options.PeerDelayedAckMax;
        }

        _probeAt = now + wait < _retransmitAt ? now + wait : TimeSpan.MaxValue;
    }
}
