using Wayleave.Core;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Read RFC 9293 3.10.7 first: SegmentArrival has its order. This type holds the state and what both halves share;
// everything happens in calls of the endpoint, with its token held.

/// <summary>
/// One connection of a <see cref="TcpEndpoint"/>. Every member is called by whoever holds the endpoint's token. A
/// command only notes what is wanted: <see cref="TcpEndpoint.PollTransmit"/> sends it.
/// </summary>
public sealed class TcpConnection
{
    private readonly TcpEndpoint _endpoint;
    private readonly TcpReceiver _receiver;
    private readonly TcpSender _sender;
    private readonly LifeTimers _timers;
    private TimestampClock _timestamps;
    private bool _isSynDue;
    private bool _isKeepAliveDue;
    private bool _isOrphan;
    private bool _madeRoom;
    private int _peerSegmentBytes;

    internal TcpConnection(TcpEndpoint endpoint, in TcpFlow flow)
    {
        (_endpoint, Flow) = (endpoint, flow);
        Received = new DevmemReceiveQueue();
        _receiver = new TcpReceiver(endpoint.Options, endpoint.Stats, Received);
        _sender = new TcpSender(endpoint.Options, endpoint.Stats, endpoint.SendMemory);
        _timers = new LifeTimers(endpoint.Options);
        _timestamps = new TimestampClock(endpoint.Secrets.TimestampOffset(flow));
        PathMtuBytes = endpoint.Options.MtuBytes;
    }

    public TcpFlow Flow { get; }

    public TcpState State { get; private set; }

    /// <summary>Why the connection is over: ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, or success.</summary>
    public Errno Error { get; private set; }

    /// <summary>
    /// In-order data that was not read. Call <see cref="HandleRead"/> after taking from it or returning tokens.
    /// </summary>
    public DevmemReceiveQueue Received { get; }

    /// <summary>The peer has nothing more to say, and everything it said is in <see cref="Received"/>.</summary>
    public bool IsAtEnd => _receiver.HasFin;

    /// <summary>Bytes of ours that the peer acknowledged since the connection began.</summary>
    public long AcknowledgedBytes => Math.Max(Math.Min(_sender.Una, _sender.FinPosition) - 1, 0);

    /// <summary>Bytes queued since the connection began.</summary>
    public long QueuedBytes => _sender.Queue.End - 1;

    /// <summary>The last queue that a segment came by.</summary>
    public int Queue { get; private set; }

    /// <summary>Small segments need not wait for an acknowledgement (TCP_NODELAY).</summary>
    public bool NoDelay
    {
        get => _sender.IsNagleOff;
        set => _sender.IsNagleOff = value;
    }

    /// <summary>A silent peer is asked whether it is still there (SO_KEEPALIVE).</summary>
    public bool KeepAlive
    {
        get => _timers.IsKeepAliveOn;
        set => _timers.IsKeepAliveOn = value;
    }

    /// <summary>
    /// How long data may stay unacknowledged before the connection is given up (TCP_USER_TIMEOUT); zero for as long as
    /// retries last.
    /// </summary>
    public TimeSpan UserTimeout
    {
        get => _timers.UserTimeout;
        set => _timers.UserTimeout = value;
    }

    /// <summary>What <c>ss -i</c> shows.</summary>
    public TcpConnectionInfo Info => new()
    {
        SmoothedRtt = _sender.Recovery.Rtt.Smoothed,
        RetransmitTimeout = _sender.Recovery.Rtt.Timeout,
        CongestionWindowBytes = _sender.Recovery.WindowBytes,
        ThresholdBytes = _sender.Recovery.Threshold,
        SegmentBytes = _sender.SegmentBytes,
        ReceiveSegmentBytes = _receiver.SegmentBytes,
        SendWindowBytes = _sender.Window,
        ReceiveWindowBytes = _receiver.Window,
        OutOfOrderBytes = _receiver.OutOfOrderBytes,
        HasSeenReordering = _sender.Recovery.HasSeenReordering,
        UsesSack = _sender.Recovery.UsesSack,
        UsesTimestamps = _timestamps.IsOn,
        SendWindowShift = _sender.WindowShift,
        ReceiveWindowShift = _receiver.WindowShift,
    };

    /// <summary>An object of the user; the endpoint does not look at it.</summary>
    public object? Tag { get; set; }

    // Links of the endpoint's lists.
    internal TcpConnection? NextReady { get; set; }
    internal bool IsReady { get; set; }
    internal TcpEvents PendingEvents { get; set; }
    internal int TimerIndex { get; set; } = -1;
    internal TimeSpan ScheduledAt { get; set; }
    internal bool IsStarved { get; set; }

    internal RoomAccount? Room { get; set; } // null once the connection is over

    internal int PathMtuBytes { get; private set; }

    internal TcpReceiver Receiver => _receiver;

    internal TcpSender Sender => _sender;

    internal ref TimestampClock Timestamps => ref _timestamps;

    internal LifeTimers Timers => _timers;

    internal bool IsOrphan => _isOrphan;

    internal TcpEndpoint Endpoint => _endpoint;

    internal TimeSpan Deadline
    {
        get
        {
            TimeSpan deadline = _timers.GetDeadline(State, isStuck: !_sender.IsIdle, _isOrphan);
            deadline = _receiver.Deadline < deadline ? _receiver.Deadline : deadline;
            return _sender.Deadline < deadline ? _sender.Deadline : deadline;
        }
    }

    /// <summary>
    /// Copies bytes to be sent. Fewer than given are taken when the buffer is full; <see
    /// cref="TcpEvents.Acknowledged"/> says when there is room again.
    /// </summary>
    /// <returns>
    /// EAGAIN when none was taken, EPIPE after <see cref="Shutdown"/>, or why the connection is over.
    /// </returns>
    public Errno Send(ReadOnlySpan<byte> bytes, out int taken)
    {
        taken = 0;
        Errno errno = CheckSend();
        if (errno != Errno.Success)
        {
            return errno;
        }

        bool wasIdle = _sender.IsIdle;
        taken = _sender.Queue.Append(bytes);
        HandleQueued(wasIdle);
        return taken == 0 && bytes.Length > 0 ? Errno.EAGAIN : Errno.Success;
    }

    /// <summary>
    /// Queues a range of device memory, which is read when a segment leaves and again when it is repeated: the owner
    /// changes it only once <see cref="AcknowledgedBytes"/> has reached <paramref name="completesAt"/>, or the
    /// connection is over. A reference to <paramref name="source"/> is held until then.
    /// </summary>
    /// <returns>
    /// EAGAIN when too many ranges wait, EPIPE, why the connection is over, or why the binding refuses: EINVAL, ENODEV,
    /// EFAULT as <see cref="TransmitBinding.TryRetain"/> says.
    /// </returns>
    public Errno SendDevice(TransmitBinding source, ulong offset, long lengthBytes, out long completesAt)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(lengthBytes);
        completesAt = 0;
        Errno errno = CheckSend();
        if (errno != Errno.Success)
        {
            return errno;
        }

        bool wasIdle = _sender.IsIdle;
        errno = _sender.Queue.AppendDevice(source, offset, lengthBytes);
        completesAt = QueuedBytes;
        HandleQueued(wasIdle);
        return errno;
    }

    /// <summary>The reader has taken data or returned tokens: the peer may have to hear of the room.</summary>
    public void HandleRead()
    {
        _madeRoom = true;
        _endpoint.Schedule(this);
    }

    /// <summary>Nothing more will be sent: a FIN follows what is queued. The peer may go on (half-close).</summary>
    public void Shutdown()
    {
        if (State == TcpState.SynSent)
        {
            Terminate(TcpEvent.Close, Errno.Success);
        }
        else if (State.CanSend())
        {
            _sender.Close();
            if (State != TcpState.SynReceived)
            {
                Enter(TcpEvent.Close); // else once the handshake is over
            }

            _endpoint.Schedule(this);
        }
    }

    /// <summary>
    /// The user is done: tokens and unread data go back at once. With unread data the peer is reset (RFC 1122
    /// 4.2.2.13), else what is queued is still sent, with a FIN behind it, and no user is needed for that.
    /// </summary>
    public void Close()
    {
        if (_isOrphan)
        {
            return;
        }

        bool hasUnread = Received.UnreadBytes > 0 || _receiver.OutOfOrderBytes > 0;
        if (State != TcpState.Closed && State != TcpState.TimeWait && hasUnread)
        {
            Abort();
        }
        else
        {
            Shutdown();
        }

        _isOrphan = true;
        _receiver.Close();
        _timers.HandleProgress(_endpoint.Now);
        if (State == TcpState.FinWait2)
        {
            _timers.StartOrphan(_endpoint.Now);
        }

        _endpoint.Reschedule(this);
    }

    /// <summary>Resets the peer and drops everything.</summary>
    public void Abort() => Abort(Errno.ECONNRESET);

    /// <summary>As the other, and says why it ended.</summary>
    internal void Abort(Errno error)
    {
        if (State is not (TcpState.Closed or TcpState.SynSent))
        {
            _endpoint.Answers.Reset(Flow, _sender.NxtSequence, _receiver.NextSequence, hasAck: true);
        }

        Terminate(TcpEvent.Reset, error);
    }

    internal void Connect(TimeSpan now, uint initialSequence)
    {
        _sender.Start(initialSequence);
        Enter(TcpEvent.Connect);
        _isSynDue = true;
        _timers.StartSyn(now);
        _endpoint.Schedule(this);
    }

    /// <summary>The third packet of a handshake came; see <see cref="SynQueue"/>.</summary>
    internal void Accept(TimeSpan now, in HalfOpen half)
    {
        _sender.Start(half.InitialSequence);
        _sender.HandleSynSent();
        _receiver.Start(half.PeerSequence);
        _receiver.StartWindow(half.WindowBytes);
        Queue = half.Queue;
        AdoptOptions(now, half.Offered, wasSynRetransmitted: half.Attempts > 1);
        _sender.HandleSynAcked(1);
        if (half.Attempts == 1)
        {
            _sender.Recovery.Rtt.AddSample(now - half.AnsweredAt);
        }

        Enter(TcpEvent.Accept);
        _timers.HandleReceived(now);
    }

    internal void HandleSegment(TimeSpan now, scoped in TcpSegment segment)
    {
        Queue = segment.Queue;
        _timers.HandleReceived(now);
        _receiver.BeginSegment();
        if (State == TcpState.SynSent)
        {
            SegmentArrival.InSynSent(this, now, segment);
        }
        else
        {
            SegmentArrival.InSynchronized(this, now, segment);
        }

        _endpoint.Schedule(this);
    }

    internal void HandleTimeout(TimeSpan now)
    {
        LifeEvent life = _timers.HandleTimeout(now, State, isStuck: !_sender.IsIdle, _isOrphan);
        switch (life)
        {
            case LifeEvent.SynRetry:
                _isSynDue = true;
                break;
            case LifeEvent.KeepAliveProbe:
                _isKeepAliveDue = true;
                _endpoint.Stats.KeepAlives++;
                break;
            case LifeEvent.PeerIsDead:
                Abort();
                Error = Errno.ETIMEDOUT;
                return;
            case LifeEvent.SynFailed:
                Terminate(TcpEvent.Expired, Errno.ETIMEDOUT);
                return;
            case LifeEvent.Expired:
                Terminate(TcpEvent.Expired, Errno.Success);
                return;
            default:
                break;
        }

        _receiver.HandleTimeout(now);
        bool timedOut = _sender.HandleTimeout(now);
        bool isHopeless = (timedOut && _sender.Recovery.Timeouts > _endpoint.Options.DataRetries)
            || _sender.ProbesUnanswered > _endpoint.Options.DataRetries;
        if (isHopeless)
        {
            Terminate(TcpEvent.Expired, Errno.ETIMEDOUT);
            return;
        }

        _endpoint.Schedule(this);
    }

    /// <summary>Its segments will come by this queue.</summary>
    internal void HandleSteered(int queue) => Queue = queue;

    /// <summary>The next segment, if one may leave now.</summary>
    internal bool TryBuild(TimeSpan now, ref TcpTransmit transmit)
    {
        transmit.Flow = Flow;
        transmit.Connection = this;
        if (State is TcpState.SynSent or TcpState.SynReceived)
        {
            return TryBuildSyn(now, ref transmit);
        }

        if (State == TcpState.Closed)
        {
            return false;
        }

        long room = _endpoint.GetRoom(this);
        if (_madeRoom)
        {
            _madeRoom = false;
            _receiver.HandleRoom(room);
        }

        SegmentOptions options = MakeOptions(now);
        int optionBytes = options.SizeBytes - (_timestamps.IsOn ? SegmentOptions.TimestampBytes : 0);
        bool acknowledgesFirst = _receiver.AcksOwed > 0 && _receiver.OutOfOrderRanges > 0;
        SendChoice choice = acknowledgesFirst ? default : _sender.Choose(now, optionBytes);
        if (choice.Kind == SendKind.None)
        {
            return TryBuildAck(now, room, options, ref transmit);
        }

        _sender.Commit(now, ref choice, out bool hasFin);
        transmit.Flags = TcpFlags.Ack;
        transmit.Sequence = _sender.SequenceOf(choice.Position);
        transmit.Position = choice.Position;
        transmit.PayloadBytes = choice.Length;
        transmit.SegmentBytes = choice.Length > choice.SegmentBytes ? choice.SegmentBytes : 0;
        bool isEnd = choice.Position + choice.Length == _sender.Queue.End;
        transmit.Flags |= choice.Length > 0 && isEnd ? TcpFlags.Psh : TcpFlags.None;
        transmit.Flags |= hasFin ? TcpFlags.Fin : TcpFlags.None;
        Complete(room, options, ref transmit);
        _timers.HandleSent(now);
        return true;
    }

    internal SendSlice GetPayload(long position, int lengthMax) => _sender.Queue.GetSlice(position, lengthMax);

    internal void Enter(TcpEvent ev)
    {
        State = State.Next(ev) ?? throw new InvalidOperationException($"{ev} does not apply in {State}");
        if (State == TcpState.TimeWait)
        {
            _sender.Stop();
            _timers.StartTimeWait(_endpoint.Now);
            _endpoint.HandleTimeWait(this);
        }
        else if (State == TcpState.FinWait2 && _isOrphan)
        {
            _timers.StartOrphan(_endpoint.Now);
        }
    }

    /// <summary>
    /// The connection is over. After an error unread data is gone; after a proper end it can be read.
    /// </summary>
    internal void Terminate(TcpEvent ev, Errno error)
    {
        if (State == TcpState.Closed)
        {
            return;
        }

        Enter(ev);
        Error = error;
        _sender.Stop();
        _receiver.ForgetOutOfOrder();
        if (error != Errno.Success)
        {
            _receiver.Close();
        }

        _timers.Stop();
        _endpoint.Remove(this);
        _endpoint.Raise(this, TcpEvents.Closed);
    }

    /// <summary>The peer's SYN said what it can do, and what it can have been told is known.</summary>
    internal void AdoptOptions(TimeSpan now, in SegmentOptions offered, bool wasSynRetransmitted)
    {
        TcpEndpointOptions ours = _endpoint.Options;
        _peerSegmentBytes = SegmentSizes.OfPeer(Flow, offered.MaximumSegment);
        _timestamps.IsOn = ours.UsesTimestamps && offered.HasTimestamps;
        if (_timestamps.IsOn)
        {
            _timestamps.Start(offered.TimestampValue, now);
        }

        _sender.Recovery.UsesSack = ours.UsesSack && offered.IsSackPermitted;
        bool scales = ours.UsesWindowScale && offered.HasWindowScale;
        _sender.WindowShift = scales ? Math.Min(offered.WindowScale, (byte)SegmentOptions.WindowScaleMax) : 0;
        _receiver.WindowShift = scales ? _endpoint.WindowShift : 0;
        _sender.HandleOptions(
            SegmentSizes.Payload(Flow, PathMtuBytes, _peerSegmentBytes, _timestamps.IsOn), wasSynRetransmitted);
    }

    /// <summary>A router's packet-too-big, already found to be about a segment that is outstanding.</summary>
    internal void HandlePathMtu(int mtuBytes)
    {
        PathMtuBytes = Math.Min(PathMtuBytes, Math.Max(mtuBytes, SegmentSizes.PathMtuMin(Flow)));
        _sender.LowerSegmentBytes(SegmentSizes.Payload(Flow, PathMtuBytes, _peerSegmentBytes, _timestamps.IsOn));
        _endpoint.Schedule(this);
    }

    internal void RequestSyn() => _isSynDue = true;

    private Errno CheckSend() => Error != Errno.Success ? Error
        : !State.CanSend() || _isOrphan ? Errno.EPIPE
        : Errno.Success;

    private void HandleQueued(bool wasIdle)
    {
        if (wasIdle)
        {
            _timers.HandleProgress(_endpoint.Now);
        }

        _endpoint.Schedule(this);
    }

    private bool TryBuildSyn(TimeSpan now, ref TcpTransmit transmit)
    {
        bool isDue = _isSynDue || (State == TcpState.SynReceived && _receiver.IsAckDue(now));
        if (!isDue)
        {
            return false;
        }

        _isSynDue = false;
        bool answers = State == TcpState.SynReceived;
        transmit.Flags = TcpFlags.Syn | (answers ? TcpFlags.Ack : TcpFlags.None);
        transmit.Sequence = _sender.SequenceOf(0);
        transmit.Acknowledgement = answers ? _receiver.NextSequence : 0;
        transmit.Options = new SegmentOptions
        {
            MaximumSegment = (ushort)SegmentSizes.Ours(Flow, _endpoint.Options.MtuBytes),
            IsSackPermitted = _endpoint.Options.UsesSack && (!answers || _sender.Recovery.UsesSack),
            HasTimestamps = _endpoint.Options.UsesTimestamps && (!answers || _timestamps.IsOn),
            TimestampValue = _timestamps.Value(now),
            TimestampEcho = answers ? _timestamps.Recent : 0,
            HasWindowScale = _endpoint.Options.UsesWindowScale && (!answers || _receiver.WindowShift > 0),
            WindowScale = (byte)_endpoint.WindowShift,
        };
        transmit.Window = _receiver.TakeWindow(_endpoint.GetRoom(this), isSyn: true);
        _sender.HandleSynSent();
        _receiver.HandleAckSent();
        _timers.HandleSynSent(now);
        return true;
    }

    private bool TryBuildAck(TimeSpan now, long room, in SegmentOptions options, ref TcpTransmit transmit)
    {
        if (!_receiver.IsAckDue(now) && !_isKeepAliveDue)
        {
            return false;
        }

        // RFC 1122 4.2.3.6: a number that the peer has acknowledged makes it answer.
        transmit.Sequence = _isKeepAliveDue ? _sender.SequenceOf(_sender.Nxt - 1) : _sender.NxtSequence;
        transmit.Flags = TcpFlags.Ack;
        _isKeepAliveDue = false;
        Complete(room, options, ref transmit);
        return true;
    }

    private void Complete(long room, in SegmentOptions options, ref TcpTransmit transmit)
    {
        transmit.Options = options;
        transmit.Acknowledgement = _receiver.NextSequence;
        transmit.Window = _receiver.TakeWindow(room, isSyn: false);
        _receiver.HandleAckSent();
        _endpoint.NoteWindow(this, _receiver.Window);
    }

    private SegmentOptions MakeOptions(TimeSpan now)
    {
        SegmentOptions options = new()
        {
            HasTimestamps = _timestamps.IsOn,
            TimestampValue = _timestamps.IsOn ? _timestamps.Value(now) : 0,
            TimestampEcho = _timestamps.IsOn ? _timestamps.Recent : 0,
        };
        if (_sender.Recovery.UsesSack)
        {
            _receiver.AddSackBlocks(ref options, _timestamps.IsOn ? 3 : SackBlocks.CountMax);
        }

        return options;
    }
}
