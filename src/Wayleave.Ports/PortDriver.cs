using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;

namespace Wayleave.Ports;

// Progress by whoever polls (docs/adr/0005).
//
//   application thread   TryProgress after a post and from every poll: takes the port token if it is free, else does
//                        nothing: the holder looks at the doorbell again before it lets go. After some polls that
//                        found nothing it offers the processor with each: its peer may be waiting for that one.
//   engine thread        stands back while an application polls (StandBack: for how long) or has the token; else
//                        progresses, spins for 50 us, then sleeps in poll(2) on the socket and the wake event, at
//                        most until the port's next deadline. A holder that was put off the processor may wait for
//                        ours, so nobody spins for it. PortEngine has that loop; its turns are Drive, as everybody's
//
// Under the token: this object's buffers, the sockets' message headers, the sockets of groups (GroupSockets says how
// those come and go beside a sleeper), what the engine is told of a turn (PortEngine), and all of the port's machine.
// The token holder may take the host lock (a fault is handed to the remap operation); a thread that holds the host lock
// never takes the token. Neither is held while sleeping.

/// <summary>
/// Moves datagrams between the machine of a device's ports and their UDP sockets, one each, and gives the machine its
/// time.
/// </summary>
public sealed class PortDriver : IDisposable
{
    private const int SuperPacketBytes = 65536;
    private const int AnswerAtOnceBytes = 4096;

    private readonly RdmaPort _port;
    private readonly UdpEndpoint[] _endpoints; // by port number less one
    private readonly IDatagramTap?[] _taps;
    private readonly HostContext _host;
    private readonly PortDriverOptions _options;
    private readonly MappedMemory _buffers;
    private readonly Memory<byte> _receive;
    private readonly SendBatch _batch;
    private readonly GroupSockets _groups;
    private readonly Action<Errno> _handleRemapped;
    private readonly bool[] _isStreaming; // the last look at that socket found something
    private int _receiveNext; // whose turn it was to be looked at first
    private int _controlWaiters;
    private int _idlePolls; // since one did something; several threads may lose a count
    private volatile bool _closed; // the token is never given back

    /// <summary>As the other, for a device with one port.</summary>
    /// <param name="port">The machine; driven by this object alone from now on.</param>
    /// <param name="endpoint">Owned by this object and closed with it.</param>
    /// <param name="host">The host whose clock and lock the port uses.</param>
    /// <param name="options">How to drive.</param>
    /// <param name="tap">Sees every datagram in both directions, for captures; or null.</param>
    public PortDriver(
        RdmaPort port,
        UdpEndpoint endpoint,
        HostContext host,
        PortDriverOptions? options = null,
        IDatagramTap? tap = null)
        : this(port, [new PortSocket(endpoint, tap)], host, options)
    {
    }

    /// <param name="port">The machine; driven by this object alone from now on.</param>
    /// <param name="sockets">One for each port, port 1 first.</param>
    /// <param name="host">The host whose clock and lock the port uses.</param>
    /// <param name="options">How to drive.</param>
    /// <exception cref="ArgumentException">There are more ports than sockets, or fewer.</exception>
    public PortDriver(
        RdmaPort port, IReadOnlyList<PortSocket> sockets, HostContext host, PortDriverOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(port);
        ArgumentNullException.ThrowIfNull(sockets);
        if (sockets.Count != port.Links.Count)
        {
            throw new ArgumentException(
                $"{sockets.Count} sockets cannot serve {port.Links.Count} ports", nameof(sockets));
        }

        _port = port;
        _endpoints = [.. sockets.Select(s => s.Endpoint)];
        _taps = [.. sockets.Select(s => s.Tap)];
        _isStreaming = new bool[sockets.Count];
        _host = host;
        _options = options ?? new PortDriverOptions();
        _handleRemapped = _ => HandleRemapped();
        _buffers = MappedMemory.AllocateAnonymous((1L + SendBatch.Size) * SuperPacketBytes, hugePages: true);
        _receive = _buffers.Memory[..SuperPacketBytes];
        _batch = new SendBatch(port, _endpoints, _taps, _buffers.Memory[SuperPacketBytes..]);
        _groups = new GroupSockets(port, _endpoints, _taps, _receive);
        Engine = new PortEngine(this, _endpoints, _groups, host, _options);
        port.AttentionNeeded = Engine.Wake;
        Engine.Start();
    }

    /// <summary>
    /// Called at the end of every turn, under the port token: takes what the port has for others, and returns at once.
    /// Set before anybody waits for it; a turn that is under way may still miss it.
    /// </summary>
    public Action? TurnEnded { get; set; }

    /// <summary>
    /// Gets every async event of the port, in order, under the port token: returns at once. Set as
    /// <see cref="TurnEnded"/>.
    /// </summary>
    public Action<AsyncEvent>? EventRaised { get; set; }

    /// <summary>What stopped the engine thread, or null.</summary>
    public Exception? Failure => Engine.Failure;

    /// <summary>Times a super-packet found a socket's send buffer full.</summary>
    public long SendStalls { get; private set; }

    /// <summary>Threads in <see cref="WithToken"/> that have not got the token.</summary>
    internal int ControlWaiters => Volatile.Read(ref _controlWaiters);

    /// <summary>Drives when nobody else does. Without a thread it only keeps what turns note.</summary>
    internal PortEngine Engine { get; }

    /// <summary>What the kernel counts about the socket of a port; one system call, any thread.</summary>
    public UdpSocketStats ReadSocketStats(int port = 1) => _endpoints[port - 1].ReadStats();

    /// <summary>
    /// Does what the port has to do now, if nobody else is at it. Called after posting and while polling; any thread,
    /// without the host lock. Never blocks, allocates nothing.
    /// </summary>
    /// <returns>Whether something was done: a caller that polls goes on at once.</returns>
    public bool TryProgress()
    {
        Engine.NotePoll();
        if (Progress())
        {
            _idlePolls = 0;
            return true;
        }

        if (++_idlePolls > _options.IdlePollsBeforeYield)
        {
            _idlePolls = _options.IdlePollsBeforeYield;
            Thread.Yield();
        }

        return false;
    }

    /// <summary>
    /// As <see cref="TryProgress"/>, by somebody who has posted and may not come back to poll: the engine does not
    /// stand back. An application that waits for bytes to change in its memory is served by the engine alone.
    /// </summary>
    public void ProgressAfterPost() => Progress();

    /// <summary>
    /// An application that has polled is about to wait for an event instead, or may be: it has asked for one
    /// (<see cref="CompletionQueue.RequestNotify"/>). The engine does not rely on its polls for longer than
    /// <see cref="PortDriverOptions.EngineStandBack"/>. Any thread; a system call only if the engine stays away for
    /// longer at that moment.
    /// </summary>
    public void ExpectWait() => Engine.ExpectWait();

    private bool Progress()
    {
        bool worked = Drive(byApplication: true, out _);
        Engine.WakeForWorkLeft();
        return worked;
    }

    /// <summary>
    /// Runs control work that needs the port token, such as making a queue pair. It waits for the turn in progress, a
    /// few super-packets at most: while somebody waits, nobody begins another. Never with the host lock held.
    /// </summary>
    public void WithToken(Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        TakeToken();
        try
        {
            action();
        }
        finally
        {
            _port.Exit();
        }

        TryProgress();
    }

    /// <summary>
    /// Attaches a queue pair to a multicast group (<see cref="MulticastGroups.TryAttach"/>), whose socket is opened
    /// with the first. As <see cref="WithToken"/>, for as long as the kernel takes to join.
    /// </summary>
    /// <returns>
    /// As there; also <see cref="Errno.ENOMEM"/> where the kernel gives no socket more.
    /// </returns>
    /// <exception cref="LinuxException">Why the group could not be joined, if for another reason.</exception>
    public Errno Attach(QueuePair pair, Gid group)
    {
        Errno errno = Errno.EINVAL;
        WithToken(() => errno = _groups.Attach(pair, group));
        Engine.Wake(); // one that sleeps does not know of the socket yet
        return errno;
    }

    /// <summary>
    /// Detaches it (<see cref="MulticastGroups.TryDetach"/>); with the last, the group is left. As
    /// <see cref="WithToken"/>.
    /// </summary>
    public Errno Detach(QueuePair pair, Gid group)
    {
        Errno errno = Errno.EINVAL;
        WithToken(() => errno = _groups.Detach(pair, group));
        return errno;
    }

    private void TakeToken()
    {
        Interlocked.Increment(ref _controlWaiters);
        try
        {
            SpinWait spin = default;
            while (!_port.TryEnter())
            {
                ObjectDisposedException.ThrowIf(_closed, this);
                spin.SpinOnce(sleep1Threshold: -1);
            }
        }
        finally
        {
            Interlocked.Decrement(ref _controlWaiters);
        }
    }

    /// <summary>
    /// Stops the engine thread, then closes the socket. Work in flight is not finished: destroy the queue pairs first.
    /// </summary>
    public void Dispose()
    {
        if (!Engine.TryStop())
        {
            return;
        }

        // An application thread may still be inside: the token is kept for ever, so that nobody touches the closed
        // socket.
        SpinWait spin = default;
        while (!_port.TryEnter())
        {
            spin.SpinOnce(sleep1Threshold: -1);
        }

        _closed = true;
        _groups.Dispose();
        foreach (UdpEndpoint endpoint in _endpoints)
        {
            endpoint.Dispose();
        }

        ((IDisposable)_buffers).Dispose();
    }

    /// <summary>
    /// One turn after the other, until there is nothing that only we know of; takes the token for each. A turn sends
    /// first: what was posted should not wait for a look at an empty socket, which costs as much as a small packet.
    /// </summary>
    /// <param name="byApplication">A thread that polls, and not the engine.</param>
    /// <param name="isTaken">Somebody else has the token.</param>
    /// <returns>Whether a turn did something.</returns>
    internal bool Drive(bool byApplication, out bool isTaken)
    {
        bool worked = false;
        isTaken = false;
        while (true)
        {
            if (Volatile.Read(ref _controlWaiters) != 0 || !_port.TryEnter())
            {
                isTaken = true;
                return worked;
            }

            bool leavesWork = false;
            try
            {
                worked |= TakeTurn(byApplication, out leavesWork);
            }
            finally
            {
                Engine.NoteTurn(leavesWork ? 0 : _port.NextDeadline?.Ticks ?? long.MaxValue, _batch.HasPending);
                _port.Exit();
            }

            // Somebody who found the token taken left a doorbell: it is ours to answer, unless the socket takes nothing
            // more.
            if (!_port.HasDoorbell || Engine.AwaitsSendRoom)
            {
                return worked;
            }
        }
    }

    private bool TakeTurn(bool byApplication, out bool leavesWork)
    {
        int room = _options.BatchSuperPackets;
        TimeSpan now = _host.Now;
        if (byApplication)
        {
            Engine.NoteApplicationTurn(now);
        }

        bool worked = Transmit(now, ref room);
        if (Receive() | _groups.Receive(_options.BatchSuperPackets, _host))
        {
            worked = true;
            now = _host.Now;
        }

        if (_port.NextDeadline is { } deadline && deadline <= now)
        {
            _port.HandleTimeout(now);
            worked = true;
        }

        // An application that polls may be about to answer what has just come, and the acknowledgement rides with that.
        bool waits = byApplication && _port.Urgency == TransmitUrgency.Soon;
        worked |= !waits && Transmit(now, ref room);
        StartRemaps();
        TurnEnded?.Invoke();
        leavesWork = waits || (room == 0 && !_batch.HasPending);
        return worked;
    }

    private bool Receive()
    {
        if (_endpoints.Length == 1)
        {
            return Receive(0);
        }

        bool worked = false;
        _receiveNext = _receiveNext + 1 < _endpoints.Length ? _receiveNext + 1 : 0;
        for (int i = 0; i < _endpoints.Length; i++)
        {
            worked |= Receive((_receiveNext + i) % _endpoints.Length);
        }

        return worked;
    }

    private bool Receive(int index)
    {
        Span<byte> buffer = _receive.Span;
        UdpEndpoint endpoint = _endpoints[index];
        for (int i = 0; i < _options.BatchSuperPackets; i++)
        {
            Errno errno = endpoint.TryReceive(
                buffer, out int length, out int segmentBytes, out EndpointAddress source, out byte trafficClass);
            if (errno != Errno.Success)
            {
                _isStreaming[index] = false;
                if (errno == Errno.EAGAIN)
                {
                    _port.HandleEmptySocket(index + 1);
                }

                return i > 0;
            }

            ReadOnlySpan<byte> datagrams = buffer[..length];
            Gid gid = new(source.High, source.Low);
            _taps[index]?.Received(
                gid, source.Port, _port.Links[index].Gid, datagrams, segmentBytes, _host.Now);
            _port.HandleDatagrams(
                gid, source.Port, datagrams, segmentBytes, trafficClass, _host.Now, port: index + 1);

            // The peer waits for what is sent now. An acknowledgement can speak for what is in the socket already, if
            // that is small and there is something: after an empty socket one datagram usually comes alone.
            bool endsTurn = _port.Urgency switch
            {
                TransmitUrgency.Now => true,
                TransmitUrgency.Soon => length >= AnswerAtOnceBytes || !_isStreaming[index],
                _ => false,
            };
            _isStreaming[index] = true;
            if (endsTurn)
            {
                return true;
            }
        }

        return true;
    }

    private bool Transmit(TimeSpan now, ref int room)
    {
        bool worked = _batch.Send(now, ref room, out int fullPort);
        if (fullPort != 0)
        {
            SendStalls++;
            Engine.NoteFullSocket(fullPort);
        }

        return worked;
    }

    private void StartRemaps()
    {
        while (_port.PollFault(out MemoryRegion? region))
        {
            using (_host.Enter())
            {
                RegionRemap.Start(region, _handleRemapped);
            }
        }

        while (_port.PollEvent(out AsyncEvent e))
        {
            _host.Trace("rdma.async_event", e.Type.ToString(), e.QpNumber, e.Key);
            EventRaised?.Invoke(e);
        }
    }

    // Runs on the thread that ended the wait, a copy engine's perhaps, when nobody may be looking at the port: what the
    // peer asked for was delayed, so nothing more need come from there. A wake after the end of this object finds
    // nobody asleep.
    private void HandleRemapped() => Engine.Wake();
}
