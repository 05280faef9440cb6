using System.Diagnostics.CodeAnalysis;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Wire;

namespace Wayleave.Devices.Ethernet.Tcp;

// Who drives it. One thread at a time holds the token of the port behind it and calls, in this order: HandleSegment for
// what has arrived, HandleTimeout, PollTransmit until false, PollConnection and PollListener until false. Handle...
// records, PollTransmit acts: what a batch of segments asks for is answered once.
//
//   segment --> connection by both ends --> listener by port --> reset
//   connection with something to send --> ready list --> PollTransmit, one super-packet a turn
//   connection with a deadline        --> timer heap --> HandleTimeout

/// <summary>
/// A TCP endpoint (RFC 9293), sans I/O: takes segments in, hands segments out, owns no socket, thread or clock. It
/// allocates nothing per segment.
/// </summary>
public sealed class TcpEndpoint
{
    private readonly Dictionary<TcpFlow, TcpConnection> _connections = new(new FlowComparer());
    private readonly Dictionary<(IpAddress Address, ushort Port), TcpListener> _listeners = [];
    private readonly List<TcpListener> _listenerList = [];
    private readonly Queue<TcpConnection> _timeWait = new();
    private readonly List<TcpConnection> _starved = [];
    private readonly Queue<TcpConnection> _events = new();
    private readonly Queue<TcpListener> _listenerEvents = new();
    private readonly TimerHeap _timers = new();
    private readonly ReadyList _ready = new();
    private readonly RoomShares _shares;
    private readonly IReceiveRoom _room;
    private long _seenRoom;
    private ushort _portsGiven;

    /// <param name="options">Copied.</param>
    /// <param name="key">16 bytes of a cryptographic source, for sequence numbers and cookies; copied.</param>
    /// <param name="random">Blurs the budgets of answers.</param>
    /// <param name="room">What windows are promised from.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    public TcpEndpoint(TcpEndpointOptions options, ReadOnlySpan<byte> key, IRandomChoice random, IReceiveRoom room)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        Options = options;
        Secrets = new ConnectionSecrets(key);
        Cookies = new SynCookies(Secrets);
        SendMemory = new SendMemory(options.SendBlockBytes, options.SendMemoryBytes);
        Answers = new StatelessAnswers(options, Stats, random);
        _shares = new RoomShares(room);
        (_room, _seenRoom) = (room, room.Version);
        while (WindowShift < Wire.SegmentOptions.WindowScaleMax
            && (long)ushort.MaxValue << WindowShift < options.ReceiveBufferBytes)
        {
            WindowShift++;
        }
    }

    public TcpStats Stats { get; } = new();

    /// <summary>Connections in any state but half-open.</summary>
    public int ConnectionCount => _connections.Count;

    /// <summary>
    /// When <see cref="HandleTimeout"/> has something to do; null when no timer runs. May be early, never late.
    /// </summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan deadline = _timers.Deadline;
            foreach (TcpListener listener in _listenerList)
            {
                deadline = listener.Half.Deadline < deadline ? listener.Half.Deadline : deadline;
            }

            return deadline == TimeSpan.MaxValue ? null : deadline;
        }
    }

    internal TcpEndpointOptions Options { get; }

    internal ConnectionSecrets Secrets { get; }

    internal SynCookies Cookies { get; }

    internal SendMemory SendMemory { get; }

    /// <summary>Answers to those without a connection, and the budgets of all answers.</summary>
    internal StatelessAnswers Answers { get; }

    /// <summary>The shift with which the whole receive buffer can be promised.</summary>
    internal int WindowShift { get; }

    /// <summary>The latest time that anybody told: commands of the user happen then.</summary>
    internal TimeSpan Now { get; private set; }

    /// <summary>Listens at an address, or at each one of the host.</summary>
    /// <param name="address">Null for each.</param>
    /// <param name="port">Not zero.</param>
    /// <param name="backlog">Connections that may wait to be accepted.</param>
    /// <param name="listener">The listener.</param>
    /// <returns>EADDRINUSE when somebody listens there.</returns>
    public Errno Listen(IpAddress? address, ushort port, int backlog, [NotNullWhen(true)] out TcpListener? listener)
    {
        ArgumentOutOfRangeException.ThrowIfZero(port);
        ArgumentOutOfRangeException.ThrowIfNegative(backlog);
        listener = new TcpListener(this, address, port, backlog);
        if (!_listeners.TryAdd((address ?? default, port), listener))
        {
            listener = null;
            return Errno.EADDRINUSE;
        }

        _listenerList.Add(listener);
        return Errno.Success;
    }

    /// <summary>
    /// Opens a connection; <see cref="TcpEvents.Connected"/> or <see cref="TcpEvents.Closed"/> follows.
    /// </summary>
    /// <param name="now">On the clock of everything else here.</param>
    /// <param name="local">One of the host's addresses.</param>
    /// <param name="localPort">Zero to choose one (RFC 6056).</param>
    /// <param name="remote">Of the same family.</param>
    /// <param name="remotePort">Not zero.</param>
    /// <param name="connection">The connection, with its SYN to be sent.</param>
    /// <returns>
    /// EADDRNOTAVAIL when all ports are taken, EADDRINUSE when the two ends are connected already, ENOBUFS when there
    /// are as many connections as allowed, EAFNOSUPPORT for two families.
    /// </returns>
    public Errno Connect(
        TimeSpan now,
        IpAddress local,
        ushort localPort,
        IpAddress remote,
        ushort remotePort,
        out TcpConnection? connection)
    {
        ArgumentOutOfRangeException.ThrowIfZero(remotePort);
        Advance(now);
        connection = null;
        if (local.IsIPv4 != remote.IsIPv4)
        {
            return Errno.EAFNOSUPPORT;
        }

        TcpFlow flow = new(local, localPort, remote, remotePort);
        if (localPort == 0 && !TryChoosePort(ref flow))
        {
            return Errno.EADDRNOTAVAIL;
        }

        if (_connections.ContainsKey(flow))
        {
            return Errno.EADDRINUSE;
        }

        if (!TryAdd(flow, out connection))
        {
            return Errno.ENOBUFS;
        }

        Stats.ActiveOpens++;
        connection.Connect(now, Secrets.InitialSequence(flow, now));
        return Errno.Success;
    }

    /// <summary>Takes a segment whose checksum is right. Never throws for what is inside.</summary>
    /// <param name="now">Does not go back; earlier times count as the latest.</param>
    /// <param name="flow">Our end is where it was sent.</param>
    /// <param name="segment">Not used after the return.</param>
    public void HandleSegment(TimeSpan now, in TcpFlow flow, scoped in TcpSegment segment)
    {
        now = Advance(now);
        Stats.SegmentsReceived += segment.SegmentBytes > 0
            ? Math.Max((segment.PayloadBytes + segment.SegmentBytes - 1) / segment.SegmentBytes, 1)
            : 1;
        bool isLand = flow.Local == flow.Remote && flow.LocalPort == flow.RemotePort;
        if (isLand || flow.LocalPort == 0 || flow.RemotePort == 0)
        {
            return;
        }

        if (_connections.TryGetValue(flow, out TcpConnection? connection))
        {
            if (!MayReopen(now, connection, segment))
            {
                connection.HandleSegment(now, segment);
                return;
            }

            connection.Terminate(TcpEvent.Expired, Errno.Success);
        }

        if (FindListener(flow) is { } listener)
        {
            listener.HandleSegment(now, flow, segment);
        }
        else
        {
            Answers.ToStranger(now, flow, segment);
        }
    }

    /// <summary>
    /// The next segment to send. Call until false. What was handed out counts as sent: a driver that cannot send it now
    /// keeps it or loses it, and does not say so.
    /// </summary>
    public bool PollTransmit(TimeSpan now, out TcpTransmit transmit)
    {
        now = Advance(now);
        transmit = default;
        if (Answers.TryTake(out transmit) || TryBuildAnswer(now, ref transmit))
        {
            Stats.SegmentsSent++;
            return true;
        }

        while (_ready.TryTake(out TcpConnection? connection))
        {
            transmit = default;
            bool built = connection.TryBuild(now, ref transmit);
            _timers.Note(connection, connection.Deadline);
            if (built)
            {
                Schedule(connection);
                Stats.SegmentsSent += transmit.SegmentBytes == 0
                    ? 1
                    : (transmit.PayloadBytes + transmit.SegmentBytes - 1) / transmit.SegmentBytes;
                Stats.BytesSent += transmit.PayloadBytes;
                return true;
            }
        }

        return false;
    }

    /// <summary>
    /// The payload of a segment just polled cannot be had: the owner took the memory back, or nothing answers there any
    /// more. The peer is reset, since the bytes that were promised will never be sent, and the connection has ended
    /// with <paramref name="errno"/>: it was not the peer.
    /// </summary>
    /// <param name="now">Time of the port.</param>
    /// <param name="transmit">What was polled.</param>
    /// <param name="errno">As <see cref="SuperFrame.AppendDevice"/> says.</param>
    public void HandleTransmitFailure(TimeSpan now, in TcpTransmit transmit, Errno errno)
    {
        Advance(now);
        if (transmit.Connection is { } connection)
        {
            connection.Abort(errno);
            Stats.Revoked++;
        }
    }

    /// <summary>Lets the timers that are due act. Cheap when none is.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        now = Advance(now);
        while (_timers.TryTake(now, out TcpConnection connection))
        {
            if (connection.Deadline <= now)
            {
                connection.HandleTimeout(now);
            }

            if (connection.State != TcpState.Closed)
            {
                _timers.Note(connection, connection.Deadline);
            }
        }

        foreach (TcpListener listener in _listenerList)
        {
            listener.HandleTimeout(now);
        }
    }

    /// <summary>A connection to which something happened, and what; each once until it is polled.</summary>
    public bool PollConnection([NotNullWhen(true)] out TcpConnection? connection, out TcpEvents events)
    {
        events = TcpEvents.None;
        if (_events.TryDequeue(out connection))
        {
            (events, connection.PendingEvents) = (connection.PendingEvents, TcpEvents.None);
        }

        return connection is not null;
    }

    /// <summary>A listener that has a connection to accept.</summary>
    public bool PollListener([NotNullWhen(true)] out TcpListener? listener) => _listenerEvents.TryDequeue(out listener);

    /// <summary>Chunks came back: connections whose peers wait for a window may have one.</summary>
    public void HandleRoom()
    {
        foreach (TcpConnection connection in _starved)
        {
            connection.IsStarved = false;
            connection.HandleRead();
        }

        _starved.Clear();
    }

    /// <summary>
    /// Memory was taken back: connections that hold unread, acknowledged data there are reset, others forget what came
    /// too early. Returns how many were reset.
    /// </summary>
    public int HandleRevoked(TimeSpan now, MemoryBinding binding)
    {
        Advance(now);
        List<TcpConnection> reset = [];
        foreach (TcpConnection connection in _connections.Values)
        {
            if (connection.Received.HoldsUnreadOf(binding))
            {
                reset.Add(connection);
            }
            else if (connection.Receiver.HoldsOutOfOrderOf(binding))
            {
                connection.Receiver.ForgetOutOfOrder();
            }
        }

        // In the order of their ports: nothing may depend on how a dictionary is walked.
        reset.Sort((left, right) => left.Flow.ToString().CompareTo(right.Flow.ToString(), StringComparison.Ordinal));
        foreach (TcpConnection connection in reset)
        {
            connection.Abort();
        }

        Stats.Revoked += reset.Count;
        return reset.Count;
    }

    /// <summary>
    /// An ICMP error about a segment of ours (RFC 5927): believed only when the sequence number that it quotes is
    /// outstanding.
    /// </summary>
    /// <param name="now">On the clock of everything else here.</param>
    /// <param name="flow">Of the segment, our end first.</param>
    /// <param name="sequence">Quoted from its header.</param>
    /// <param name="mtuBytes">Of the next hop for packet-too-big, else 0.</param>
    /// <param name="error">ECONNREFUSED or EHOSTUNREACH for an unreachable peer, else success.</param>
    /// <returns>False when it is ignored.</returns>
    public bool HandleIcmpError(TimeSpan now, in TcpFlow flow, uint sequence, int mtuBytes, Errno error)
    {
        Advance(now);
        if (!_connections.TryGetValue(flow, out TcpConnection? connection))
        {
            return false;
        }

        long position = connection.Sender.PositionOf(sequence);
        if (position < connection.Sender.Una || position >= connection.Sender.Nxt)
        {
            return false;
        }

        if (mtuBytes > 0)
        {
            connection.HandlePathMtu(mtuBytes);
        }
        else if (connection.State == TcpState.SynSent)
        {
            // RFC 5927 4: a connection that exists outlives what may be forged or pass.
            connection.Terminate(TcpEvent.Reset, error);
        }

        return true;
    }

    /// <summary>The connection between two ends, in any state; null when there is none.</summary>
    public TcpConnection? Find(in TcpFlow flow) => _connections.GetValueOrDefault(flow);

    internal bool TryAdd(in TcpFlow flow, [NotNullWhen(true)] out TcpConnection? connection)
    {
        connection = null;
        if (_connections.Count >= Options.ConnectionsMax || _connections.ContainsKey(flow))
        {
            return false;
        }

        connection = new TcpConnection(this, flow);
        _connections.Add(flow, connection);
        _shares.Add(connection);
        return true;
    }

    internal void Remove(TcpConnection connection)
    {
        _timers.Remove(connection);
        if (_connections.Remove(connection.Flow))
        {
            _shares.Remove(connection);
        }
    }

    internal void Remove(TcpListener listener)
    {
        _listeners.Remove((listener.Address ?? default, listener.Port));
        _listenerList.Remove(listener);
    }

    internal long GetRoom(TcpConnection connection)
    {
        FollowSteering();
        return _shares.GetRoom(connection);
    }

    // A connection that was steered elsewhere shares other memory from now on, and not only from its next segment: who
    // comes there first would be promised what belongs to the others.
    private void FollowSteering()
    {
        long version = _room.Version;
        if (version == _seenRoom)
        {
            return;
        }

        _seenRoom = version;
        foreach (TcpConnection connection in _connections.Values)
        {
            connection.HandleSteered(_room.GetQueue(connection.Flow, connection.Queue));
            _shares.GetRoom(connection);
        }
    }

    /// <summary>The window of an answer to a SYN.</summary>
    internal int FirstWindow(int queue) =>
        (int)Math.Min(Math.Min(Options.ReceiveBufferBytes, _shares.GetRoom(queue)), ushort.MaxValue);

    internal uint TimestampOf(in TcpFlow flow, TimeSpan now) =>
        new TimestampClock(Secrets.TimestampOffset(flow)).Value(now);

    internal void Schedule(TcpConnection connection)
    {
        if (connection.State != TcpState.Closed)
        {
            _ready.Add(connection);
        }
    }

    internal void Reschedule(TcpConnection connection)
    {
        if (connection.State != TcpState.Closed)
        {
            _timers.Note(connection, connection.Deadline);
            Schedule(connection);
        }
    }

    internal void Raise(TcpConnection connection, TcpEvents events)
    {
        if (connection.IsOrphan)
        {
            return;
        }

        if (connection.PendingEvents == TcpEvents.None)
        {
            _events.Enqueue(connection);
        }

        connection.PendingEvents |= events;
    }

    internal void Raise(TcpListener listener) => _listenerEvents.Enqueue(listener);

    internal void NoteWindow(TcpConnection connection, long windowBytes)
    {
        if (windowBytes < 2L * connection.Receiver.SegmentBytes && !connection.IsStarved)
        {
            connection.IsStarved = true;
            _starved.Add(connection);
        }
    }

    internal void HandleTimeWait(TcpConnection connection)
    {
        _timeWait.Enqueue(connection);
        while (_timeWait.TryPeek(out TcpConnection? oldest)
            && (oldest.State != TcpState.TimeWait || _timeWait.Count > Options.TimeWaitMax))
        {
            _timeWait.Dequeue();
            if (oldest.State == TcpState.TimeWait)
            {
                Stats.TimeWaitEvictions++;
                oldest.Terminate(TcpEvent.Expired, Errno.Success);
            }
        }
    }

    /// <summary>
    /// RFC 5961: what does not fit is told where we are, and proves by its answer that it is not forged.
    /// </summary>
    internal void Challenge(TcpConnection connection, TimeSpan now)
    {
        if (Answers.TryTakeChallenge(now))
        {
            connection.Receiver.RequestAckOnce();
        }
    }

    /// <summary>
    /// An answer to what is outside the window: at once for data, which cannot make two ends answer each other for
    /// ever, and every half second for anything else (Linux: <c>tcp_oow_rate_limited</c>).
    /// </summary>
    internal bool TryAnswerInvalid(TcpConnection connection, TimeSpan now, bool isData)
    {
        bool may = isData || !Options.Defences.LimitsChallenges || connection.Timers.TryAnswerInvalid(now);
        if (may)
        {
            connection.Receiver.RequestAck();
        }
        else
        {
            Stats.AnswersWithheld++;
        }

        return may;
    }

    private TimeSpan Advance(TimeSpan now) => Now = now > Now ? now : Now;

    private bool TryBuildAnswer(TimeSpan now, ref TcpTransmit transmit)
    {
        foreach (TcpListener listener in _listenerList)
        {
            if (listener.TryBuild(now, ref transmit))
            {
                return true;
            }
        }

        return false;
    }

    private TcpListener? FindListener(in TcpFlow flow) =>
        _listeners.GetValueOrDefault((flow.Local, flow.LocalPort))
        ?? _listeners.GetValueOrDefault((default, flow.LocalPort));

    // RFC 9293 3.10.7.4, RFC 6191: a SYN beyond the old connection opens a new one.
    private bool MayReopen(TimeSpan now, TcpConnection connection, scoped in TcpSegment segment)
    {
        bool opens = connection.State == TcpState.TimeWait && segment.HasSyn && !segment.HasAck && !segment.HasRst;
        if (!opens || FindListener(connection.Flow) is null || connection.Timestamps.IsOld(segment.Options, now))
        {
            return false;
        }

        bool isNewer = connection.Timestamps.IsOn && segment.Options.HasTimestamps
            && segment.Options.TimestampValue != connection.Timestamps.Recent;
        return isNewer || connection.Receiver.PositionOf(segment.Sequence) >= connection.Receiver.Next;
    }

    private bool TryChoosePort(ref TcpFlow flow)
    {
        (ushort first, ushort last) = Options.EphemeralPorts;
        int count = last - first + 1;
        uint offset = Secrets.PortOffset(flow) + _portsGiven++;
        for (int i = 0; i < count; i++)
        {
            flow = flow with { LocalPort = (ushort)(first + ((offset + i) % count)) };
            if (!_connections.ContainsKey(flow) && FindListener(flow) is null)
            {
                return true;
            }
        }

        return false;
    }
}
