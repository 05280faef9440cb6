using Wayleave.Devices.Ethernet.Tcp.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Positions count our stream in 64 bits: the SYN is 0, the first byte 1, the FIN takes the position after the last
// byte.
//
//     acknowledged        outstanding           queued
//   |--------------|--------------------|------------------|
//                 Una                  Nxt       ^        End (the FIN, once we are closed)
//                                                Una + window of the peer

/// <summary>The sending half of a connection: what may leave now, and why (RFC 9293 3.8).</summary>
internal sealed class TcpSender
{
    private readonly TcpEndpointOptions _options;
    private readonly TcpStats _stats;
    private readonly SendQueue _queue;
    private readonly LossRecovery _recovery;
    private uint _initial;
    private long _windowPosition;  // SND.WL1
    private long _windowAck;       // SND.WL2
    private bool _closes;
    private long _smallEnd;        // end of the last segment that was not full
    private TimeSpan _persistAt = TimeSpan.MaxValue;
    private int _persistBackoff;
    private bool _isPersistDue;

    public TcpSender(TcpEndpointOptions options, TcpStats stats, SendMemory memory)
    {
        (_options, _stats) = (options, stats);
        _queue = new SendQueue(memory, options.SendPiecesMax, options.SendBufferBytes);
        _recovery = new LossRecovery(options, stats);
    }

    /// <summary>SND.UNA.</summary>
    public long Una { get; private set; }

    /// <summary>SND.NXT.</summary>
    public long Nxt { get; private set; }

    /// <summary>SND.WND, scaled.</summary>
    public long Window { get; private set; }

    /// <summary>The largest window the peer ever offered (RFC 5961: MAX.SND.WND).</summary>
    public long WindowMax { get; private set; }

    /// <summary>The peer's shift.</summary>
    public int WindowShift { get; set; }

    /// <summary>Payload of a full segment, options that every segment carries taken off.</summary>
    public int SegmentBytes { get; private set; } = 536;

    /// <summary>Small segments need not wait for others to be acknowledged (TCP_NODELAY).</summary>
    public bool IsNagleOff { get; set; }

    public SendQueue Queue => _queue;

    public LossRecovery Recovery => _recovery;

    /// <summary>Probes of a zero window that had no answer.</summary>
    public int ProbesUnanswered { get; private set; }

    /// <summary>The position of our FIN; valid once <see cref="Close"/> was called.</summary>
    public long FinPosition => _queue.End;

    public bool IsFinAcked => _closes && Una > FinPosition;

    /// <summary><see cref="Close"/> was called.</summary>
    public bool IsClosing => _closes;

    /// <summary>Everything handed over was acknowledged.</summary>
    public bool IsIdle => Una == Nxt && Nxt >= _queue.End;

    public uint UnaSequence => SequenceOf(Una);

    public uint NxtSequence => SequenceOf(Nxt);

    public TimeSpan Deadline => _recovery.Deadline < _persistAt ? _recovery.Deadline : _persistAt;

    public uint SequenceOf(long position) => _initial + (uint)position;

    public long PositionOf(uint sequence) => Seq.ToPosition(sequence, NxtSequence, Nxt);

    /// <summary>Begins with a SYN.</summary>
    public void Start(uint initialSequence) => _initial = initialSequence;

    /// <summary>The SYN left.</summary>
    public void HandleSynSent() => Nxt = Math.Max(Nxt, 1);

    /// <summary>The peer's SYN said what it takes.</summary>
    public void HandleOptions(int segmentBytes, bool wasSynRetransmitted)
    {
        SegmentBytes = segmentBytes;
        _recovery.Start(segmentBytes, wasSynRetransmitted);
    }

    /// <summary>Our SYN was acknowledged.</summary>
    public void HandleSynAcked(long ack) => Una = Math.Max(Una, Math.Min(ack, 1));

    /// <summary>A router told that segments are too large (RFC 1191, RFC 8201).</summary>
    public void LowerSegmentBytes(int segmentBytes)
    {
        if (segmentBytes < SegmentBytes)
        {
            SegmentBytes = segmentBytes;
            _recovery.SetSegmentBytes(segmentBytes);
        }
    }

    /// <summary>Nothing more will be queued: the FIN follows.</summary>
    public void Close() => _closes = true;

    /// <summary>Takes the window of a segment if it is not older than the one known (RFC 9293 3.10.7.4).</summary>
    public void HandleWindow(long position, long ack, long windowBytes)
    {
        bool isNewer = _windowPosition < position || (_windowPosition == position && _windowAck <= ack);
        if (!isNewer)
        {
            return;
        }

        (_windowPosition, _windowAck, Window) = (position, ack, windowBytes);
        WindowMax = Math.Max(WindowMax, windowBytes);
        if (windowBytes > 0)
        {
            StopPersisting();
        }
    }

    /// <summary>An acceptable acknowledgement; what it covers is released.</summary>
    public void HandleAck(TimeSpan now, long ack, scoped in TcpSegment segment, bool isDuplicate, TimeSpan echoed)
    {
        ProbesUnanswered = 0;
        _recovery.HandleAck(now, Una, ack, segment, UnaSequence, isDuplicate, echoed);
        if (ack > Una)
        {
            Una = ack;
            _queue.Release(Math.Min(ack, _queue.End));
            _persistBackoff = 0;
        }
    }

    /// <summary>
    /// What leaves next, if anything: repairs first, then new data, then probes. <see cref="Commit"/> follows when the
    /// caller takes it.
    /// </summary>
    public SendChoice Choose(TimeSpan now, int optionBytes)
    {
        int segmentBytes = Math.Max(SegmentBytes - optionBytes, 1);
        if (_recovery.Sent.LostBytes > 0 && TryChooseLost(segmentBytes, out SendChoice choice))
        {
            return choice;
        }

        choice = ChooseNew(segmentBytes);
        if (choice.Kind == SendKind.None && _recovery.IsProbeDue)
        {
            return new SendChoice(SendKind.LossProbe, 0, segmentBytes, segmentBytes);
        }

        if (choice.Kind == SendKind.None && _isPersistDue)
        {
            return new SendChoice(SendKind.WindowProbe, Una - 1, 0, segmentBytes);
        }

        ArmPersist(now, choice.Kind == SendKind.None);
        return choice;
    }

    /// <summary>What was chosen leaves.</summary>
    /// <param name="now">When.</param>
    /// <param name="choice">Of <see cref="Choose"/>; a loss probe becomes what it sends.</param>
    /// <param name="hasFin">The FIN is part of it.</param>
    public void Commit(TimeSpan now, ref SendChoice choice, out bool hasFin)
    {
        switch (choice.Kind)
        {
            case SendKind.New:
                long end = choice.Position + choice.Length;
                hasFin = _closes && end == FinPosition;
                end += hasFin ? 1 : 0;
                _smallEnd = choice.Length % choice.SegmentBytes != 0 ? end : _smallEnd;
                Nxt = end;
                _recovery.HandleSent(now, choice.Position, end);
                if (_recovery.IsProbeDue)
                {
                    _recovery.NoteProbe(now, isRepetition: false);
                }

                break;
            case SendKind.Lost:
                _recovery.HandleRetransmitted(now, choice.Length);
                CountRetransmits(choice);
                CutFin(ref choice, out hasFin);
                break;
            case SendKind.LossProbe:
                _recovery.TakeProbe(now, choice.SegmentBytes, out long start, out long stop);
                choice = choice with { Position = start, Length = (int)(stop - start) };
                CountRetransmits(choice);
                CutFin(ref choice, out hasFin);
                break;
            default:
                hasFin = false;
                _isPersistDue = false;
                ProbesUnanswered++;
                _stats.WindowProbes++;
                break;
        }
    }

    /// <summary>Lets the timers that are due act. True when the retransmission time-out passed.</summary>
    public bool HandleTimeout(TimeSpan now)
    {
        if (_persistAt <= now)
        {
            _persistAt = TimeSpan.MaxValue;
            _persistBackoff = Math.Min(_persistBackoff + 1, 16);
            _isPersistDue = true;
        }

        return _recovery.HandleTimeout(now, Una);
    }

    /// <summary>The connection is over: what is queued goes back to whose it is.</summary>
    public void Stop()
    {
        _queue.Clear();
        _recovery.Stop();
        StopPersisting();
    }

    private static long FloorTo(long bytes, int segmentBytes) => bytes - (bytes % segmentBytes);

    private bool TryChooseLost(int segmentBytes, out SendChoice choice)
    {
        choice = default;
        if (!_recovery.Sent.TryGetLost(out long start, out long end))
        {
            return false;
        }

        long may = _recovery.WindowBytes - _recovery.PipeBytes(Una);
        if (may <= 0 && _recovery.PipeBytes(Una) > 0)
        {
            return false;
        }

        // An allowance of less than a segment is one, as with a window counted in segments.
        long length = Math.Min(Math.Max(FloorTo(may, segmentBytes), segmentBytes), end - start);
        length = Math.Min(length, SuperPacketBytes(segmentBytes));
        choice = new SendChoice(SendKind.Lost, start, (int)length, segmentBytes);
        return true;
    }

    private SendChoice ChooseNew(int segmentBytes)
    {
        long queued = Math.Max(_queue.End - Nxt, 0);
        bool wantsFin = _closes && Nxt <= FinPosition;
        if (queued == 0)
        {
            // The FIN alone takes no window (RFC 9293 3.8.6.1 allows it beside a closed one).
            return wantsFin ? new SendChoice(SendKind.New, Nxt, 0, segmentBytes) : default;
        }

        long usable = Una + Window - Nxt;
        long may = _recovery.WindowBytes - _recovery.PipeBytes(Una);
        bool isProbe = _recovery.IsProbeDue; // RFC 8985 7.3: one segment beyond the congestion window
        if (usable <= 0 || (may <= 0 && !isProbe))
        {
            return default;
        }

        may = isProbe ? segmentBytes : Math.Max(FloorTo(may, segmentBytes), segmentBytes);
        long length = Math.Min(Math.Min(queued, usable), Math.Min(may, SuperPacketBytes(segmentBytes)));
        long whole = FloorTo(length, segmentBytes);
        bool isLast = length == queued;
        if (whole == length)
        {
            return new SendChoice(SendKind.New, Nxt, (int)length, segmentBytes);
        }

        if (isLast ? MaySendSmall(wantsFin) : whole == 0 && MaySendPart(length))
        {
            return new SendChoice(SendKind.New, Nxt, (int)length, segmentBytes);
        }

        return whole > 0 ? new SendChoice(SendKind.New, Nxt, (int)whole, segmentBytes) : default;
    }

    // Nagle with Minshall's change: one small segment is under way at a time.
    private bool MaySendSmall(bool wantsFin) => IsNagleOff || wantsFin || _smallEnd <= Una;

    // RFC 9293 3.8.6.2.1: part of a segment because the window ends there.
    private bool MaySendPart(long length) => length >= WindowMax / 2 || Una == Nxt;

    private long SuperPacketBytes(int segmentBytes) =>
        Math.Max(FloorTo(_options.SuperPacketBytes, segmentBytes), segmentBytes);

    // The FIN has a position in what is outstanding, and no byte.
    private void CutFin(ref SendChoice choice, out bool hasFin)
    {
        hasFin = _closes && choice.Position + choice.Length > FinPosition;
        if (hasFin)
        {
            choice = choice with { Length = (int)(FinPosition - choice.Position) };
        }
    }

    private void CountRetransmits(in SendChoice choice) =>
        _stats.Retransmits += Math.Max((choice.Length + choice.SegmentBytes - 1) / choice.SegmentBytes, 1);

    // RFC 9293 3.8.6.1: the window is closed, or too small to use, and nothing is under way whose answer would reopen
    // it.
    private void ArmPersist(TimeSpan now, bool hasNothing)
    {
        bool isBlocked = hasNothing && Nxt < _queue.End && _recovery.Sent.IsEmpty && Una + Window - Nxt < SegmentBytes
            && Una > 0;
        if (!isBlocked)
        {
            _persistAt = TimeSpan.MaxValue;
            return;
        }

        if (_persistAt == TimeSpan.MaxValue)
        {
            long ticks = _recovery.Rtt.Timeout.Ticks << _persistBackoff;
            TimeSpan wait = ticks <= 0 || ticks > _options.RetransmitTimeoutMax.Ticks
                ? _options.RetransmitTimeoutMax
                : new TimeSpan(ticks);
            _persistAt = now + wait;
        }
    }

    private void StopPersisting()
    {
        _persistAt = TimeSpan.MaxValue;
        _persistBackoff = 0;
        _isPersistDue = false;
    }
}
