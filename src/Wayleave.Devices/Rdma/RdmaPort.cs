using System.Diagnostics.CodeAnalysis;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

// Who drives it. One thread at a time holds the port token: TryEnter, then any of the members below in any order, then
// Exit. The order that a driver uses is: HandleDatagrams for what has arrived, HandleEmptySocket if that was all,
// HandleTimeout, PollTransmit until false, PollFault until false, PollEvent until false. Posting and polling completion
// queues need no token; a post that finds the token taken leaves a doorbell, so whoever exits looks at HasDoorbell
// afterwards and, if it is set, tries to enter again.
//
//   poster:  publish request, ring (interlocked), TryEnter fails        holder:  Exit (interlocked), HasDoorbell?
//
// The two interlocked operations order each other: either the holder sees the bell or the poster gets the token.

/// <summary>
/// What drives the RoCEv2 ports of a device (docs/internals/roce.md), sans I/O: takes datagrams in, hands super-packets
/// out, owns no socket, thread or clock. It allocates nothing per packet or work request.
/// </summary>
public sealed class RdmaPort
{
    private readonly NumberTable _pairs = new();
    private readonly List<QueuePair> _pairList = [];
    private readonly Queue<AsyncEvent> _events = [];
    private readonly DoorbellStack _doorbells = new();
    private readonly PacketIntake _intake;
    private readonly PortLink[] _links;
    private DepartureFaults? _departures;
    private int _token;
    private TimeSpan _nextDeadline = TimeSpan.MaxValue; // never later than the earliest timer
    private RdmaStats _stats;

    internal RdmaPort(HostContext host, PciFunction function, RdmaDeviceOptions options)
    {
        Host = host;
        Options = options;
        _links = [.. options.FurtherPorts.Prepend(new PortAddress(options.Gid, options.UdpPort))
            .Select((address, i) => new PortLink(i + 1, address, options))];
        Dma = new DmaPort(function, isPermanent: true);
        Memory = new RegionMemory(Dma, options.Defences, options.WillWrite, options.CachedBytes);
        _intake = new PacketIntake(this, options);
        Peers = new PeerTable(this);
        RegionFaults = new RegionFaults(this);
        Announcements = new RegionAnnouncements(this);
        Timers = new PairTimers(this);
        Completions = new CompletionDelivery(this);
        LastWords = new LastWords(options);
        Groups = new MulticastGroups(this);
        UseFaults(options.Faults);
    }

    /// <summary>The ports, the first of which is port 1.</summary>
    public IReadOnlyList<PortLink> Links => _links;

    /// <summary>The port's DMA engine, with its byte counters per route.</summary>
    public DmaPort Dma { get; }

    /// <summary>Who gets what is sent to groups.</summary>
    public MulticastGroups Groups { get; }

    /// <summary>Counters; see <see cref="RdmaStats"/> for what a reader without the token sees.</summary>
    public ref readonly RdmaStats Stats => ref _stats;

    internal ref RdmaStats Counters => ref _stats;

    /// <summary>A post waits for a driver, or a region changed. Readable without the token.</summary>
    public bool HasDoorbell => !_doorbells.IsEmpty
        || RegionFaults.HasChanges;

    /// <summary>
    /// When <see cref="HandleTimeout"/> has something to do; null when no timer runs. May be early, never late.
    /// </summary>
    public TimeSpan? NextDeadline => _nextDeadline == TimeSpan.MaxValue ? null : _nextDeadline;

    /// <summary>
    /// What the datagrams since the last <see cref="PollTransmit"/> ask for. Port token held by the caller.
    /// </summary>
    public TransmitUrgency Urgency { get; private set; }

    /// <summary>
    /// What port 1 is (<c>ibv_query_port</c>, <c>ibv_query_gid</c>). Port token held by the caller.
    /// </summary>
    public PortAttributes Query()
    {
        TryQuery(1, out PortAttributes attributes);
        return attributes;
    }

    /// <summary>What a port is. Port token held by the caller.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for a port that does not exist.</returns>
    public Errno TryQuery(int port, out PortAttributes attributes)
    {
        if (!HasPort(port))
        {
            attributes = default;
            return Errno.EINVAL;
        }

        PortLink link = _links[port - 1];
        attributes = new PortAttributes(
            Options.PortMtu, link.Gid, GidCount: 1, Options.PKey, Reth.LengthMax, link.Agent is not null, link.State);
        return Errno.Success;
    }

    /// <summary>
    /// The cable of a port was pulled, or is back. While it is down what comes to it is dropped and what its queue
    /// pairs send is lost: connections end with <see cref="WorkCompletionStatus.RetryExceeded"/> unless it is back
    /// before their retries are spent. The queue pairs of other ports go on. Port token held by the caller.
    /// </summary>
    /// <returns><see cref="Errno.EINVAL"/> for a port or state that does not exist.</returns>
    public Errno SetPortState(int port, PortState state)
    {
        AssertHeld();
        if (!HasPort(port) || state is not (PortState.Down or PortState.Active))
        {
            return Errno.EINVAL;
        }

        PortLink link = _links[port - 1];
        if (link.State == state)
        {
            return Errno.Success;
        }

        bool isDown = state == PortState.Down;
        link.State = state;
        link.Count.Downs += isDown ? 1 : 0;
        RaiseEvent(new AsyncEvent(isDown ? AsyncEventType.PortError : AsyncEventType.PortActive, 0, Port: port));
        return Errno.Success;
    }

    /// <summary>An entry of the GID table (<c>ibv_query_gid</c>). Any thread.</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> beyond <see cref="PortAttributes.GidCount"/>, or for a port that does not exist.
    /// </returns>
    public Errno TryGetGid(int index, out Gid gid, int port = 1)
    {
        bool exists = index == 0 && HasPort(port);
        gid = exists ? _links[port - 1].Gid : default;
        return exists ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>An entry of the partition key table (<c>ibv_query_pkey</c>). Any thread.</summary>
    /// <returns><see cref="Errno.EINVAL"/> beyond <see cref="DeviceAttributes.PartitionKeys"/>.</returns>
    public Errno TryGetPKey(int index, out ushort key)
    {
        key = index == 0 ? Options.PKey : (ushort)0;
        return index == 0 ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>
    /// What the port inflicts on itself at present: <see cref="RdmaDeviceOptions.Faults"/>, or what
    /// <see cref="ChangeFaults"/> has put in its place. Port token held by the caller.
    /// </summary>
    public FaultOptions? Faults { get; private set; }

    /// <summary>
    /// Other faults from now on. Packets that the old ones hold back are lost, completions that they keep become
    /// visible, and a port that they have killed lives. <see cref="FaultOptions.FailAtPacket"/> counts from the next
    /// time that a queue pair gets ready to receive. Port token held by the caller.
    /// </summary>
    /// <param name="faults">Null for none.</param>
    /// <exception cref="ArgumentException">One or more values are out of range; then nothing changed.</exception>
    public void ChangeFaults(FaultOptions? faults)
    {
        AssertHeld();
        List<string> problems = [];
        faults?.Validate(problems);
        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems), nameof(faults));
        }

        RegionFaults.HandOutAll();
        UseFaults(faults);
    }

    /// <summary>
    /// The next messages that need a receive find none, although there may be one: each is RNR-NAKed once. Adds to what
    /// is left of the last call. Port token held by the caller.
    /// </summary>
    public void RefuseNext(int messages)
    {
        AssertHeld();
        ArgumentOutOfRangeException.ThrowIfNegative(messages);
        _intake.RefuseNext(messages);
    }

    private void UseFaults(FaultOptions? faults)
    {
        Faults = faults;
        _intake.UseFaults(faults);
        _departures = faults is null ? null : new DepartureFaults(faults);
        Completions.UseDelay(faults?.CompletionDelay ?? TimeSpan.Zero);
    }

    /// <summary>The sockets that queue pairs were ever connected to. Port token held by the caller.</summary>
    public IReadOnlyList<PeerStatus> GetPeers() => Peers.GetStatus();

    /// <summary>
    /// Called without any lock, on any thread, when the port has something to do that no packet, post or timer brings:
    /// the edge sees to it that somebody drives it. Set before the first region.
    /// </summary>
    public Action? AttentionNeeded { get; set; }

    internal HostContext Host { get; }

    internal RdmaDeviceOptions Options { get; }

    internal RegionMemory Memory { get; }

    internal PeerTable Peers { get; }

    internal RegionFaults RegionFaults { get; }

    internal RegionAnnouncements Announcements { get; }

    internal PairTimers Timers { get; }

    internal CompletionDelivery Completions { get; }

    internal LastWords LastWords { get; }

    internal ResponsePool ResponsePool { get; } = new();

    internal IReadOnlyList<QueuePair> QueuePairs => _pairList;

    /// <summary>The time that the last driver brought. Port token held.</summary>
    internal TimeSpan Now { get; private set; }

    /// <summary>Takes the token if nobody has it. Never by a thread that holds the host lock.</summary>
    public bool TryEnter() => Interlocked.CompareExchange(ref _token, 1, 0) == 0;

    /// <summary>Gives the token back. Look at <see cref="HasDoorbell"/> afterwards.</summary>
    public void Exit() => Interlocked.Exchange(ref _token, 0);

    /// <summary>
    /// Takes what one receive call returned: datagrams of <paramref name="segmentBytes"/> each from one socket, the
    /// last perhaps shorter. The bytes are not used after the return. Never throws for what is inside.
    /// </summary>
    /// <param name="source">Who sent it.</param>
    /// <param name="sourcePort">UDP port it came from; part of the ICRC, checked against nothing.</param>
    /// <param name="bytes">UDP payloads, back to back.</param>
    /// <param name="segmentBytes">Length of each but the last.</param>
    /// <param name="trafficClass">DSCP and ECN of the IP header, for the header of datagrams.</param>
    /// <param name="now">On the clock of <see cref="HandleTimeout"/>.</param>
    /// <param name="identification">
    /// IPv4 identification of the first datagram, 0 unless the caller knows better.
    /// </param>
    /// <param name="port">Which port they came to: its socket.</param>
    /// <param name="group">The multicast group that they were sent to; default for the port's own address.</param>
    public void HandleDatagrams(
        Gid source,
        ushort sourcePort,
        ReadOnlySpan<byte> bytes,
        int segmentBytes,
        byte trafficClass,
        TimeSpan now,
        ushort identification = 0,
        int port = 1,
        Gid group = default)
    {
        Now = now;
        PortLink link = _links[port - 1];
        link.ReadBudget.IsSocketEmpty &= !Options.Defences.NoticesArrivals;
        segmentBytes = segmentBytes <= 0 ? bytes.Length : segmentBytes;
        int index = identification;
        while (bytes.Length > 0)
        {
            Announcements.Attend();
            Arrival arrival = new(source, trafficClass, (ushort)index, link, group);
            int taken = arrival.IsToGroup ? 0 : _intake.HandleRun(arrival, sourcePort, bytes, segmentBytes);
            if (taken == 0)
            {
                _intake.Handle(arrival, sourcePort, bytes[..Math.Min(segmentBytes, bytes.Length)], now);
                taken = 1;
            }

            index += taken;
            bytes = bytes[Math.Min(taken * segmentBytes, bytes.Length)..];
        }
    }

    /// <summary>
    /// The socket of a port has nothing in it: all that had come was handed to <see cref="HandleDatagrams"/>. Until the
    /// next of those READs may ask for <see cref="RdmaDeviceOptions.ReadWindowEmptyBytes"/>. A driver that never looks
    /// until there is nothing need not say so. Port token held by the caller.
    /// </summary>
    public void HandleEmptySocket(int port = 1)
    {
        ReceiveBudget budget = _links[port - 1].ReadBudget;
        if (!budget.IsSocketEmpty)
        {
            budget.IsSocketEmpty = true;
            Peers.WakeReadWaiters();
        }
    }

    /// <summary>
    /// Fills <paramref name="buffer"/> with the next super-packet. Call until false. What was handed out counts as
    /// sent: a driver whose socket is full keeps it and sends it later.
    /// </summary>
    /// <param name="now">Starts the acknowledge timers.</param>
    /// <param name="buffer">At least <see cref="RdmaDeviceOptions.SuperPacketBytes"/>; longer is not used.</param>
    /// <param name="transmit">How to send it.</param>
    public bool PollTransmit(TimeSpan now, Span<byte> buffer, out Transmit transmit)
    {
        Now = now;
        Urgency = TransmitUrgency.None;
        Announcements.Attend();
        _doorbells.Answer();
        RegionFaults.Wake();
        return _departures is { } departures
            ? PollWithFaults(departures, now, buffer, out transmit)
            : PollPeers(now, buffer, out transmit);
    }

    private bool PollWithFaults(DepartureFaults departures, TimeSpan now, Span<byte> buffer, out Transmit transmit)
    {
        if (!_intake.IsDead && departures.TryRelease(now, buffer, out transmit))
        {
            return true;
        }

        while (PollPeers(now, buffer, out transmit))
        {
            PortLink link = _links[transmit.Port - 1];
            bool isLeft = departures.TryFilter(buffer, ref transmit, link, now) && !_intake.IsDead;
            NoteDeadline(departures.Deadline);
            if (isLeft)
            {
                return true;
            }
        }

        return false;
    }

    private bool PollPeers(TimeSpan now, Span<byte> buffer, out Transmit transmit)
    {
        while (LastWords.TryTake(buffer, out PortLink? link, out AddressVector to, out SuperPacket only))
        {
            if (TryLeave(link, to, only, out transmit))
            {
                return true;
            }
        }

        for (int i = 0; i < Peers.Count; i++)
        {
            Peer peer = Peers.Next();
            Span<byte> room = buffer[..Math.Min(buffer.Length, Options.SuperPacketBytes)];
            SuperPacket superPacket = new(room, Options.SuperPacketSegments);
            SendOrder.Fill(peer, ref superPacket, now);
            if (superPacket.Count > 0 && TryLeave(peer.Link, peer.Address, superPacket, out transmit))
            {
                return true;
            }
        }

        transmit = default;
        return false;
    }

    private bool TryLeave(PortLink link, in AddressVector to, in SuperPacket superPacket, out Transmit transmit)
    {
        ref PortCounters counters = ref link.Count;
        if (link.State != PortState.Active)
        {
            // Lost on the wire: what is due next is looked at in the next turn, so that nobody stays here for ever.
            counters.SendsDiscarded += superPacket.Count;
            NoteDeadline(Now);
            transmit = default;
            return false;
        }

        _stats.SuperPacketsSent++;
        _stats.PacketsSent += superPacket.Count;
        _stats.BytesSent += superPacket.LengthBytes;
        counters.PacketsSent += superPacket.Count;
        counters.BytesSent += superPacket.LengthBytes;
        counters.MulticastSent += to.Destination.IsMulticast ? superPacket.Count : 0;
        transmit = new Transmit(
            to.Destination,
            to.DestinationPort,
            superPacket.LengthBytes,
            superPacket.SegmentBytes,
            link.Number,
            to.HopLimit);
        return true;
    }

    /// <summary>Lets the timers that are due act. Cheap when none is.</summary>
    public void HandleTimeout(TimeSpan now)
    {
        if (now < _nextDeadline)
        {
            return;
        }

        Now = now;
        _nextDeadline = TimeSpan.MaxValue;
        foreach (PortLink link in _links)
        {
            if (link.Agent is { } agent)
            {
                if (agent.Deadline <= now)
                {
                    agent.HandleTimeout(now);
                }

                NoteDeadline(agent.Deadline);
            }
        }

        _intake.HandleTimeout(now);
        if (_departures is not null)
        {
            NoteDeadline(_departures.Deadline);
        }

        RegionFaults.HandleTimeout(now);
        Completions.HandleTimeout(now);
        Timers.HandleTimeout(now);
    }

    /// <summary>
    /// A dynamic region that somebody touched while it was invalidated: the edge locks its reservation and calls
    /// <see cref="MemoryRegion.RemapLocked"/>. Each is handed out once until that has happened.
    /// </summary>
    public bool PollFault([NotNullWhen(true)] out MemoryRegion? region) => RegionFaults.TryTake(Now, out region);

    /// <summary>The oldest event that was not polled yet (<c>ibv_get_async_event</c>, without the wait).</summary>
    public bool PollEvent(out AsyncEvent asyncEvent) => _events.TryDequeue(out asyncEvent);

    /// <summary>The queue pair of that number, or null; number 1 is that of each port, and not found here.</summary>
    public QueuePair? FindQueuePair(uint number) => (QueuePair?)_pairs.Find(number);

    internal void Urge(TransmitUrgency urgency) => Urgency = urgency > Urgency ? urgency : Urgency;

    internal void AssertHeld()
    {
        if (Volatile.Read(ref _token) == 0)
        {
            throw new InvalidOperationException("the port token is not held: call TryEnter first");
        }
    }

    internal void Add(QueuePair pair)
    {
        _pairs.Add(pair);
        _pairList.Add(pair);
    }

    /// <summary>Queue pair 1 of a port, for as long as the device lives.</summary>
    internal void AddManagement(QueuePair pair, PortLink link, IManagementAgent agent)
    {
        (link.ManagementPair, link.Agent) = (pair, agent);
        _pairList.Add(pair);
    }

    internal bool HasPort(int number) => number >= 1 && number <= _links.Length;

    /// <summary>The number may not be given out again yet.</summary>
    internal bool IsHeldByAgent(uint number)
    {
        foreach (PortLink link in _links)
        {
            if (link.Agent?.HoldsNumber(number) == true)
            {
                return true;
            }
        }

        return false;
    }

    internal void Remove(QueuePair pair)
    {
        Forget(pair);
        _doorbells.Answer();
        _pairs.Remove(pair);
        _pairList.Remove(pair);
        Timers.Remove(pair);
        _intake.Forget();
    }

    /// <summary>The queue pair has nothing to send any more: takes it out of all lists.</summary>
    internal void Forget(QueuePair pair)
    {
        if (pair.HasPeer)
        {
            pair.Peer.Forget(pair);
        }

        RegionFaults.Forget(pair);
        Timers.Forget(pair);
    }

    /// <summary>A post happened. Any thread.</summary>
    internal void RingDoorbell(QueuePair pair) => _doorbells.Ring(pair);

    internal void NoteDeadline(TimeSpan deadline) =>
        _nextDeadline = deadline < _nextDeadline ? deadline : _nextDeadline;

    internal void RaiseEvent(in AsyncEvent asyncEvent)
    {
        if (_events.Count < Options.AsyncEventCapacity)
        {
            _events.Enqueue(asyncEvent);
        }
        else
        {
            _stats.EventsLost++;
        }
    }

    /// <summary>As <see cref="PacketIntake.TakenInRuns"/>.</summary>
    internal long PacketsTakenInRuns => _intake.TakenInRuns;

    /// <summary>As <see cref="PacketIntake.HidesReceive"/>.</summary>
    internal bool HidesReceive() => _intake.HidesReceive();

    /// <summary>As <see cref="PacketIntake.RevokesAt"/>.</summary>
    internal bool RevokesAt(int payloadBytes) => _intake.RevokesAt(payloadBytes);
}
