using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma.Verbs;

/// <summary>
/// A send queue, a receive queue, and the machines that drive them (<c>struct ibv_qp</c>). Posting is for any thread;
/// everything else is called by the holder of the port token.
/// </summary>
public sealed class QueuePair : Numbered
{
    // Attributes that IBTA has and this adapter has not.
    private const QueuePairAttributeMask NotHere = QueuePairAttributeMask.AlternatePath
        | QueuePairAttributeMask.PathMigrationState;

    private static readonly QueuePairAttributes s_none = new();

    private readonly SendQueue _sends;
    private readonly ReceiveQueue _receives;
    private volatile QueuePairState _state;
    private ListLink _requestLink;
    private ListLink _responseLink;
    private Peer? _peer;

    /// <param name="port">Drives it.</param>
    /// <param name="request">What it is made of.</param>
    /// <param name="number">Free.</param>
    /// <param name="agent">For queue pair 1: who takes its datagrams.</param>
    internal QueuePair(RdmaPort port, QueuePairRequest request, uint number, IManagementAgent? agent = null)
        : base(number)
    {
        Port = port;
        PortLink = port.Links[0];
        Type = request.Type;
        Domain = request.Domain;
        SendCompletionQueue = request.SendCompletions;
        ReceiveCompletionQueue = request.ReceiveCompletions;
        Capabilities = request.Capabilities;
        SharedReceives = request.SharedReceives;
        bool isDatagram = Type == QueuePairType.UnreliableDatagram;
        MtuBytes = isDatagram ? 128 << (int)port.Options.PortMtu : 256;
        _sends = new SendQueue(
            Type,
            Capabilities,
            isDatagram ? (uint)MtuBytes : Reth.LengthMax,
            request.SignalsAll ? SendFlags.Signaled : SendFlags.None,
            port.Options.Defences.OrdersPosters);
        _receives = new ReceiveQueue(Capabilities.MaxReceiveWr, Capabilities.MaxReceiveSge, SharedReceives);
        Memory = new LocalMemory(Domain.Device, Domain, port.Memory);
        Remote = new RemoteMemory(this);
        Congestion = port.Options.Congestion is { } congestion && agent is null
            ? new Congestion(this, port, congestion)
            : null;
        Reliable = Type == QueuePairType.ReliableConnection ? new Requester(this, _sends, port) : null;
        Requester = Reliable is { } reliable ? reliable : new UnreliableRequester(this, _sends, port);
        Responder = Type switch
        {
            QueuePairType.ReliableConnection => new Responder(this, _receives, port),
            QueuePairType.UnreliableConnection => new UnreliableResponder(this, _receives, port),
            _ when agent is not null => new ManagementResponder(agent),
            _ => new DatagramResponder(this, _receives, port),
        };
    }

    /// <summary>The number that the peer sends to; 24 bits.</summary>
    public uint QpNumber => Number;

    public QueuePairType Type { get; }

    /// <summary>Readable from any thread.</summary>
    public QueuePairState State => _state;

    public ProtectionDomain Domain { get; }

    public CompletionQueue SendCompletionQueue { get; }

    public CompletionQueue ReceiveCompletionQueue { get; }

    public QueuePairCapabilities Capabilities { get; }

    /// <summary>Where its receives come from, if they are shared.</summary>
    public SharedReceiveQueue? SharedReceives { get; }

    /// <summary>For people and traces; made when it is asked for.</summary>
    public string Name => $"{Domain.Device.Name} qp 0x{Number:x6}";

    /// <summary>
    /// The attributes in force (<c>ibv_query_qp</c>): what each modify since RESET has set. The state is that after the
    /// last modify; <see cref="State"/> also knows errors.
    /// </summary>
    public QueuePairAttributes Attributes { get; private set; } = s_none;

    /// <summary>PSN that the responder expects next, and its count of completed messages. Port token held.</summary>
    public (uint ExpectedPsn, uint Msn) ResponderProgress => (Responder.ExpectedPsn, Responder.Msn);

    /// <summary>
    /// The oldest PSN of a request without an answer: it moves when the peer acknowledges something, and stays while
    /// the peer is silent or says RNR. Readable from any thread, a moment old.
    /// </summary>
    public uint OldestUnansweredPsn => Requester.OldestUnansweredPsn;

    /// <summary>
    /// How many requests were posted to the send queue and have not completed, started or not; of an RC queue pair, 0
    /// for one that nobody answers. Readable from any thread, a moment old.
    /// </summary>
    public int UncompletedSends => Reliable?.UncompletedCount ?? 0;

    /// <summary>
    /// For tests of what runs over it: the request with that PSN ends the queue pair with NAK 0x63, once. Port token
    /// held by the caller.
    /// </summary>
    public uint? FailAtPsn { get; set; }

    internal RdmaPort Port { get; }

    /// <summary>The port that it is on (<c>IBV_QP_PORT</c>): what the modify to INIT said, and port 1 before.</summary>
    internal PortLink PortLink { get; private set; }

    internal RdmaDevice Device => Domain.Device;

    internal SendQueue Sends => _sends;

    internal LocalMemory Memory { get; }

    internal RemoteMemory Remote { get; }

    /// <summary>Null where congestion is not controlled.</summary>
    internal Congestion? Congestion { get; }

    /// <summary>
    /// What congestion lets it send, bytes per second; null where that is not controlled. Port token held.
    /// </summary>
    public double? SendRate => Congestion?.Rate.CurrentRate;

    internal SendSide Requester { get; }

    /// <summary>The requester, where something is answered: RC.</summary>
    internal Requester? Reliable { get; }

    internal ReceiveSide Responder { get; }

    /// <summary>The transport of the packets it takes.</summary>
    internal TransportService Service => Type switch
    {
        QueuePairType.ReliableConnection => TransportService.ReliableConnection,
        QueuePairType.UnreliableConnection => TransportService.UnreliableConnection,
        _ => TransportService.UnreliableDatagram,
    };

    /// <summary>UD: what a datagram must bring.</summary>
    internal uint QKey { get; private set; }

    internal AccessFlags Access { get; private set; }

    internal int MtuBytes { get; private set; }

    internal uint DestQpNumber { get; private set; }

    internal int MaxRdAtomic { get; private set; }

    internal int MaxDestRdAtomic { get; private set; }

    internal int MinRnrTimer { get; private set; }

    internal int Timeout { get; private set; }

    internal int RetryCount { get; private set; }

    internal int RnrRetry { get; private set; }

    internal PeerProfile Profile { get; private set; } = PeerProfile.Default;

    internal TimeSpan RetransmitFloor => Profile.RetransmitFloor ?? Port.Options.RetransmitFloor;

    /// <summary>It is among those whose timers the port looks at. Port token held.</summary>
    internal bool IsTimed { get; set; }

    internal bool HasPeer => _peer is not null;

    /// <summary>Set from RTR on; of a datagram queue pair, whoever its next datagram goes to.</summary>
    internal Peer Peer => _peer!;

    internal bool IsStalled { get; set; }

    /// <summary>The first request of the peer says that the connection is made.</summary>
    internal bool AwaitsFirstPacket { get; set; }

    /// <summary>Multicast groups that it is attached to. Port token held.</summary>
    public int GroupCount { get; internal set; }

    /// <summary>Next in the stack of rung doorbells; see <see cref="RdmaPort.RingDoorbell"/>.</summary>
    internal QueuePair? NextDoorbell;

    internal int DoorbellRung;

    /// <summary>
    /// SQD, and what was started before has not finished (<c>sq_draining</c> of <c>ibv_query_qp</c>): the event
    /// <see cref="AsyncEventType.SendQueueDrained"/> is still to come. Port token held by the caller.
    /// </summary>
    public bool IsDraining => _state == QueuePairState.SendQueueDrained && !Requester.IsDrained;

    /// <summary>
    /// Changes state or attributes (<c>ibv_modify_qp</c>). Port token held by the caller.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when the step does not exist, an attribute is missing, not allowed or out of range,
    /// or the queue pair <see cref="IsDraining"/> and goes neither to ERR nor to RESET (<c>rxe_qp_chk_attr</c>; it
    /// takes ERR only); then nothing changed.
    /// </returns>
    public Errno Modify(QueuePairAttributes attributes, QueuePairAttributeMask mask)
    {
        Port.AssertHeld();
        QueuePairState from = _state;
        QueuePairState to = (mask & QueuePairAttributeMask.State) != 0 ? attributes.State : from;
        bool isCurrent = (mask & QueuePairAttributeMask.CurrentState) == 0 || attributes.CurrentState == from;
        bool isTooEarly = IsDraining && to is not (QueuePairState.Error or QueuePairState.Reset);
        if (!isCurrent
            || isTooEarly
            || !QueuePairTransitions.IsAllowed(from, to, Type, mask)
            || !IsInRange(attributes, mask))
        {
            return Errno.EINVAL;
        }

        Apply(attributes, mask);
        Attributes = (to == QueuePairState.Reset ? s_none : Attributes.With(attributes, mask)) with { State = to };
        Enter(from, to);
        return Errno.Success;
    }

    /// <summary>
    /// Queues a request whose data is in registered memory (<c>ibv_post_send</c>). The memory belongs to the request
    /// until its completion. Any thread; ring nothing else: the post rings the doorbell.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> before RTS, for too many pieces, more than 2 GiB, or an opcode this type does not
    /// have;
    /// <see cref="Errno.ENOMEM"/> when the queue is full.
    /// </returns>
    public Errno PostSend(in SendWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        using SendPost post = BeginSend();
        return post.Add(request, sges);
    }

    /// <summary>As the other form, with one piece of memory.</summary>
    public Errno PostSend(in SendWorkRequest request, in Sge sge) => PostSend(request, new ReadOnlySpan<Sge>(in sge));

    /// <summary>
    /// Queues a request whose data is copied now (IBV_SEND_INLINE); the caller may reuse it at once. Any thread.
    /// </summary>
    /// <returns>
    /// As <see cref="PostSend(in SendWorkRequest, ReadOnlySpan{Sge})"/>; EINVAL also for too much data.
    /// </returns>
    public Errno PostSendInline(in SendWorkRequest request, ReadOnlySpan<byte> data)
    {
        using SendPost post = BeginSend();
        return post.AddInline(request, data);
    }

    /// <summary>
    /// Begins a chain of requests that are handed over together (a list of <c>ibv_send_wr</c>, or <c>ibv_wr_start</c>).
    /// Other threads that post to this queue pair wait until its end, so be brief.
    /// </summary>
    public SendPost BeginSend() => new(this, _sends);

    /// <summary>
    /// Queues a bind of a window (<c>ibv_bind_mw</c>, or IBV_WR_BIND_MW). It is done once everything posted before has
    /// completed, and before anything posted later starts. Any thread.
    /// </summary>
    /// <param name="window">Of this device.</param>
    /// <param name="bind">To what.</param>
    /// <param name="wrId">Comes back in the completion.</param>
    /// <param name="flags">Of those of a send: Signaled and Fence.</param>
    /// <param name="key">
    /// The window's key from then on: it may differ from the present one in its tag. Null takes the next tag.
    /// </param>
    /// <returns>
    /// As <see cref="PostSend(in SendWorkRequest, ReadOnlySpan{Sge})"/>. What is wrong with the bind itself is found
    /// when it is executed, and ends with <see cref="WorkCompletionStatus.MemoryWindowBindError"/> and in ERR.
    /// </returns>
    public Errno PostBind(
        MemoryWindow window,
        in WindowBind bind,
        ulong wrId,
        SendFlags flags = SendFlags.Signaled,
        uint? key = null)
    {
        using SendPost post = BeginSend();
        return post.AddBind(window, bind, wrId, flags, key);
    }

    /// <summary>
    /// Queues a receive (<c>ibv_post_recv</c>). Its memory belongs to it until its completion. Any thread.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> in RESET or for too many pieces, <see cref="Errno.ENOMEM"/> when the queue is full.
    /// </returns>
    public Errno PostReceive(in ReceiveWorkRequest request, ReadOnlySpan<Sge> sges)
    {
        Interleave.Point("qp: receive is posted");
        Errno errno = _state != QueuePairState.Reset ? _receives.TryPost(request, sges) : Errno.EINVAL;

        // Either the flush of ERR sees what was just published, or the state is seen here: one of the two comes second.
        Interlocked.MemoryBarrier();
        if (errno == Errno.Success && _state == QueuePairState.Error && Port.Options.Defences.RingsAfterReceive)
        {
            Port.RingDoorbell(this);
        }

        return errno;
    }

    /// <summary>As the other form, with one piece of memory.</summary>
    public Errno PostReceive(in ReceiveWorkRequest request, in Sge sge) =>
        PostReceive(request, new ReadOnlySpan<Sge>(in sge));

    public override string ToString() => Name;

    internal ref ListLink Link(QueuePairListKind kind) =>
        ref kind == QueuePairListKind.Requests ? ref _requestLink : ref _responseLink;

    /// <summary>To ERR, from any state but RESET: flush both queues, answer nothing any more. Idempotent.</summary>
    internal void EnterError()
    {
        if (_state is QueuePairState.Error or QueuePairState.Reset)
        {
            return;
        }

        _state = QueuePairState.Error;
        Interlocked.MemoryBarrier();
        Port.Host.Trace("rdma.qp_error", Name, QpNumber);
        Requester.Flush();
        Responder.Flush();
        Congestion?.Reset();
        if (SharedReceives is not null)
        {
            Port.RaiseEvent(new AsyncEvent(AsyncEventType.LastReceiveReached, QpNumber));
        }
    }

    /// <summary>
    /// A send of an unreliable queue pair failed: the others are flushed, and receives go on (SQE). Idempotent.
    /// </summary>
    internal void EnterSendQueueError()
    {
        if (_state is QueuePairState.ReadyToSend or QueuePairState.SendQueueDrained)
        {
            _state = QueuePairState.SendQueueError;
            Interlocked.MemoryBarrier();
            Port.Host.Trace("rdma.qp_send_error", Name, QpNumber);
            Requester.Flush();
        }
    }

    /// <summary>The next datagram goes there. The address handle keeps the peer.</summary>
    internal void Aim(Peer peer) => _peer = peer;

    /// <summary>The peer that the next datagram was to go to is gone.</summary>
    internal void HandlePeerGone()
    {
        Port.Forget(this);
        _peer = null;
        Wake();
    }

    /// <summary>Work was posted, a region was mapped, or the state changed.</summary>
    internal void Wake()
    {
        Requester.Wake();
        if (_state == QueuePairState.Error)
        {
            Responder.Flush();
        }
        else
        {
            Responder.Wake();
        }
    }

    /// <summary>RTS or later. Readable from any thread.</summary>
    internal bool MaySend => _state >= QueuePairState.ReadyToSend;

    private bool IsInRange(QueuePairAttributes attributes, QueuePairAttributeMask mask)
    {
        bool Holds(QueuePairAttributeMask bit, bool condition) => (mask & bit) == 0 || condition;
        return Holds(QueuePairAttributeMask.PKeyIndex, attributes.PKeyIndex == 0)
            && Holds(QueuePairAttributeMask.Port, Port.HasPort(attributes.Port))
            && Holds(QueuePairAttributeMask.AccessFlags, (attributes.AccessFlags & ~AccessRules.QueuePairFlags) == 0)
            && Holds(QueuePairAttributeMask.AddressVector, IsPath(attributes, mask))
            && Holds(QueuePairAttributeMask.AddressVector, !attributes.AddressVector.Destination.IsMulticast)
            && Holds(QueuePairAttributeMask.PathMtu, attributes.PathMtu is >= PathMtu.Mtu256 and <= PathMtu.Mtu4096)
            && Holds(QueuePairAttributeMask.DestQpNumber, attributes.DestQpNumber is > 0 and < Psn.Mask)
            && Holds(QueuePairAttributeMask.RqPsn, attributes.RqPsn <= Psn.Mask)
            && Holds(QueuePairAttributeMask.SqPsn, attributes.SqPsn <= Psn.Mask)
            && Holds(QueuePairAttributeMask.MaxRdAtomic, IsDepth(attributes.MaxRdAtomic))
            && Holds(QueuePairAttributeMask.MaxDestRdAtomic, IsDepth(attributes.MaxDestRdAtomic))
            && Holds(QueuePairAttributeMask.MinRnrTimer, attributes.MinRnrTimer is >= 0 and <= 31)
            && Holds(QueuePairAttributeMask.Timeout, attributes.Timeout is >= 0 and <= 31)
            && Holds(QueuePairAttributeMask.RetryCount, attributes.RetryCount is >= 0 and <= 7)
            && Holds(QueuePairAttributeMask.RnrRetry, attributes.RnrRetry is >= 0 and <= 7)
            && (mask & NotHere) == 0;
    }

    // A port has one address, so what is of the other family is nowhere.
    private bool IsPath(QueuePairAttributes attributes, QueuePairAttributeMask mask)
    {
        bool moves = (mask & QueuePairAttributeMask.Port) != 0;
        PortLink? link = !moves ? PortLink
            : Port.HasPort(attributes.Port) ? Port.Links[attributes.Port - 1] : null;
        return link?.Gid.IsIPv4 == attributes.AddressVector.Destination.IsIPv4
            && attributes.PeerWindowBytes is null or > 0;
    }

    private static bool IsDepth(int count) => count is >= 0 and <= RdmaDevice.MaxRdAtomic;

    private void Apply(QueuePairAttributes attributes, QueuePairAttributeMask mask)
    {
        bool Sets(QueuePairAttributeMask bit) => (mask & bit) != 0;
        if (Sets(QueuePairAttributeMask.QKey))
        {
            (QKey, Profile) = (attributes.QKey, attributes.Profile);
        }

        PortLink = Sets(QueuePairAttributeMask.Port) ? Port.Links[attributes.Port - 1] : PortLink;
        Access = Sets(QueuePairAttributeMask.AccessFlags) ? attributes.AccessFlags : Access;
        MtuBytes = Sets(QueuePairAttributeMask.PathMtu) ? 128 << (int)attributes.PathMtu : MtuBytes;
        DestQpNumber = Sets(QueuePairAttributeMask.DestQpNumber) ? attributes.DestQpNumber : DestQpNumber;
        MaxRdAtomic = Sets(QueuePairAttributeMask.MaxRdAtomic) ? attributes.MaxRdAtomic : MaxRdAtomic;
        MaxDestRdAtomic = Sets(QueuePairAttributeMask.MaxDestRdAtomic) ? attributes.MaxDestRdAtomic : MaxDestRdAtomic;
        MinRnrTimer = Sets(QueuePairAttributeMask.MinRnrTimer) ? attributes.MinRnrTimer : MinRnrTimer;
        Timeout = Sets(QueuePairAttributeMask.Timeout) ? attributes.Timeout : Timeout;
        RetryCount = Sets(QueuePairAttributeMask.RetryCount) ? attributes.RetryCount : RetryCount;
        RnrRetry = Sets(QueuePairAttributeMask.RnrRetry) ? attributes.RnrRetry : RnrRetry;
        if (Sets(QueuePairAttributeMask.AddressVector))
        {
            MoveTo(Port.Peers.Join(PortLink, attributes.AddressVector));
            Peer.Window.LimitBytes = attributes.PeerWindowBytes ?? Port.Options.WindowBytes;
            Profile = attributes.Profile;
        }
        else if (Type != QueuePairType.UnreliableDatagram && HasPeer && !ReferenceEquals(Peer.Link, PortLink))
        {
            MoveTo(Port.Peers.Join(PortLink, Peer.Address)); // drained, and now by another port
        }
    }

    private void MoveTo(Peer peer)
    {
        LeavePeer();
        _peer = peer;
    }

    // What is on its way is charged to the window of the peer it went to, and the lists of work are that peer's.
    private void LeavePeer()
    {
        if (_peer is not { } old)
        {
            return;
        }

        Requester.HandlePathChange();
        Port.Forget(this);
        _peer = null;
        if (Type != QueuePairType.UnreliableDatagram)
        {
            Port.Peers.Leave(old);
        }
    }

    private void Enter(QueuePairState from, QueuePairState to)
    {
        uint sqPsn = Attributes.SqPsn;
        if (to is QueuePairState.Error or QueuePairState.Reset)
        {
            Port.LastWords.Settle(this);
        }

        if (to == QueuePairState.Error)
        {
            EnterError();
            return;
        }

        if (to == QueuePairState.Reset)
        {
            Requester.Reset(0);
            SendCompletionQueue.Forget(_sends);
            ReceiveCompletionQueue.Forget(_receives);
            Port.Completions.Forget(this);
            _sends.Clear();
            _receives.Clear();
            MaxDestRdAtomic = 0;
            Responder.Reset(0);
            Congestion?.Reset();
            Port.Forget(this);
            LeavePeer();
            PortLink = Port.Links[0];
            Device.ReleaseWindows(this);
        }
        else if (to == QueuePairState.ReadyToReceive)
        {
            Responder.Reset(Attributes.RqPsn);
            if (Port.Faults is { FailAtPacket: { } packet })
            {
                FailAtPsn = Psn.Add(Attributes.RqPsn, (uint)packet);
            }
        }
        else if (from == QueuePairState.ReadyToReceive && to == QueuePairState.ReadyToSend)
        {
            Requester.Reset(sqPsn);
        }

        _state = to;
        if (to == QueuePairState.SendQueueDrained)
        {
            Requester.HandleAttributeChange();
            Responder.HandleAttributeChange();
            if (from != QueuePairState.SendQueueDrained)
            {
                Requester.HandleDrain();
            }
        }

        Wake();
    }
}
