using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Ethernet.Tcp.Wire;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

// What leaves, in this order: answers that were put together whole, packets that waited for a neighbour, questions for
// neighbours, segments. The frame parser below has looked at lengths, checksums and sources; whether a packet is for us
// is decided here.

/// <summary>
/// An end host of IPv4 and IPv6 on one link: ARP, neighbour discovery, echo, ICMP errors, and a <see
/// cref="TcpEndpoint"/> (RFC 1122 and RFC 8504, as far as TCP needs them). No I/O, no clock; the port token is held by
/// the caller.
/// </summary>
public sealed class IpHost : INicHost
{
    private readonly IpRoutes _routes;
    private readonly NeighbourTable _neighbours;
    private readonly NeighbourProtocol _neighbourProtocol;
    private readonly IcmpProtocol _icmp;
    private readonly PacketWriter _writer;
    private readonly FrameQueue _answers;

    /// <param name="options">Copied.</param>
    /// <param name="key">16 bytes of a cryptographic source; see <see cref="TcpEndpoint"/>.</param>
    /// <param name="random">Blurs budgets.</param>
    /// <param name="port">Whose queues windows are promised from; it joins the groups of the addresses.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    public IpHost(IpHostOptions options, ReadOnlySpan<byte> key, IRandomChoice random, NicPort port)
        : this(options, key, random, new NicRoom(port))
    {
        foreach (MacAddress group in Groups)
        {
            port.Join(group);
        }
    }

    internal IpHost(IpHostOptions options, ReadOnlySpan<byte> key, IRandomChoice random, IReceiveRoom room)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        Tcp = new TcpEndpoint(options.Tcp, key, random, room);
        _routes = new IpRoutes(options);
        _writer = new PacketWriter(options.HardwareAddress, options.Vlan);
        _answers = new FrameQueue(options.AnswersMax, options.Tcp.MtuBytes + _writer.LinkBytes);
        _neighbours = new NeighbourTable(options, Stats);
        _neighbourProtocol = new NeighbourProtocol(_routes, _neighbours, _writer, _answers, Stats);
        _icmp = new IcmpProtocol(options, _routes, Tcp, _writer, _answers, Stats, random);
    }

    /// <summary>The transport: listeners and connections.</summary>
    public TcpEndpoint Tcp { get; }

    public IpStats Stats { get; } = new();

    /// <summary>Neighbours known or asked for.</summary>
    public int NeighbourCount => _neighbours.Count;

    /// <summary>The Ethernet groups in which this host has to be, for its IPv6 addresses.</summary>
    public IReadOnlyList<MacAddress> Groups
    {
        get
        {
            List<MacAddress> groups = [];
            foreach (ref readonly InterfaceAddress own in _routes.Addresses)
            {
                if (!own.Address.IsIPv4)
                {
                    groups.Add(IpRoutes.GroupMac(IpRoutes.SolicitedNode(own.Address)));
                }
            }

            return groups;
        }
    }

    /// <inheritdoc/>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan? tcp = Tcp.NextDeadline;
            return _neighbours.Deadline == TimeSpan.MaxValue || tcp < _neighbours.Deadline ? tcp : _neighbours.Deadline;
        }
    }

    /// <summary>Tells the link where our addresses are: at the start, and when the link came up again.</summary>
    public void Announce() => _neighbourProtocol.Announce();

    /// <summary>Opens a connection from the address that fits; see <see cref="TcpEndpoint.Connect"/>.</summary>
    /// <returns>Also ENETUNREACH when no address or no way leads there.</returns>
    public Errno Connect(TimeSpan now, IpAddress remote, ushort remotePort, out TcpConnection? connection)
    {
        connection = null;
        return _routes.TryGetSource(remote, out IpAddress local) && _routes.TryGetNextHop(remote, out _)
            ? Tcp.Connect(now, local, localPort: 0, remote, remotePort, out connection)
            : Errno.ENETUNREACH;
    }

    /// <inheritdoc/>
    public void HandleFrame(ReceivedFrame frame, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(frame);
        ref readonly FrameLayout layout = ref frame.Layout;
        if (layout.EtherType == EtherType.Arp)
        {
            _neighbourProtocol.HandleArp(frame.Bytes[layout.NetworkOffset..], now);
            return;
        }

        bool isOurs = _routes.IsOurs(layout.Destination);
        if (layout.Protocol == IpProtocol.IcmpV6 && (isOurs || layout.Destination.IsMulticast))
        {
            HandleIcmpV6(frame, layout, isOurs, now);
        }
        else if (_routes.IsOurs(layout.Source) || _routes.IsBroadcast(layout.Source))
        {
            Stats.Martians++; // RFC 1122 3.2.1.3: nobody is there to be answered but everybody, or ourselves
        }
        else if (!isOurs)
        {
            Stats.NotOurs += _routes.IsBroadcast(layout.Destination) || layout.Destination.IsMulticast ? 0 : 1;
        }
        else if (frame.Kind == FrameKind.Tcp)
        {
            HandleSegment(frame, layout, now);
        }
        else if (layout.Protocol == IpProtocol.Icmp)
        {
            _icmp.Handle(layout, frame.Bytes[layout.TransportOffset..layout.EndOffset], now);
        }
        else
        {
            _icmp.RefusePacket(layout, frame.Bytes, now);
        }
    }

    /// <inheritdoc/>
    public void HandleTimeout(TimeSpan now)
    {
        _neighbours.HandleTimeout(now);
        Tcp.HandleTimeout(now);
    }

    /// <inheritdoc/>
    public void HandleRoomChanged(TimeSpan now) => Tcp.HandleRoom();

    /// <inheritdoc/>
    public void HandleRevoked(MemoryBinding binding, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(binding);
        for (int reset = Tcp.HandleRevoked(now, binding); reset > 0; reset--)
        {
            binding.CountReset();
        }
    }

    /// <inheritdoc/>
    public bool PollTransmit(TimeSpan now, ref SuperFrame frame)
    {
        if (_answers.TryTake(out ReadOnlySpan<byte> answer))
        {
            frame.Append(answer);
            return true;
        }

        if (_neighbours.TryTakeResolved(out Neighbour? resolved, out Span<byte> waited))
        {
            resolved.Mac.WriteTo(waited);
            frame.Append(waited);
            return true;
        }

        return TryWriteQuestion(ref frame) || TryWriteSegment(now, ref frame);
    }

    private void HandleIcmpV6(ReceivedFrame frame, in FrameLayout layout, bool isOurs, TimeSpan now)
    {
        ReadOnlySpan<byte> message = frame.Bytes[layout.TransportOffset..layout.EndOffset];
        if (message[0] is NeighbourMessage.Solicitation or NeighbourMessage.Advertisement)
        {
            _neighbourProtocol.HandleMessage(layout, message, now);
        }
        else if (_routes.IsOurs(layout.Source))
        {
            Stats.Martians++;
        }
        else if (isOurs)
        {
            _icmp.Handle(layout, message, now);
        }
        else
        {
            Stats.Ignored++; // router advertisements: addresses are static here
        }
    }

    private void HandleSegment(ReceivedFrame frame, in FrameLayout layout, TimeSpan now)
    {
        TcpHeader tcp = layout.Tcp;
        Tcp.HandleSegment(
            now,
            new TcpFlow(layout.Destination, tcp.DestinationPort, layout.Source, tcp.SourcePort),
            new TcpSegment
            {
                Sequence = tcp.Sequence,
                Acknowledgement = tcp.Acknowledgement,
                Flags = tcp.Flags,
                Window = tcp.Window,
                Options = SegmentOptions.Parse(frame.TcpOptions, (tcp.Flags & TcpFlags.Syn) != 0),
                Payload = frame.Payload,
                PayloadBytes = frame.PayloadBytes,
                SegmentBytes = frame.GsoBytes,
                Queue = frame.Queue,
            });
    }

    private bool TryWriteQuestion(ref SuperFrame frame)
    {
        while (_neighbours.TryTakeQuestion(out Neighbour? neighbour))
        {
            if (_neighbourProtocol.TryWriteQuestion(neighbour, ref frame))
            {
                return true;
            }
        }

        return false;
    }

    private bool TryWriteSegment(TimeSpan now, ref SuperFrame frame)
    {
        while (Tcp.PollTransmit(now, out TcpTransmit transmit))
        {
            if (!_routes.TryGetNextHop(transmit.Flow.Remote, out IpAddress hop))
            {
                Stats.SegmentsUnsent++;
                continue;
            }

            bool isResolved = _neighbours.TryResolve(hop, now, out Neighbour neighbour);
            if (!isResolved && transmit.PayloadBytes > 0)
            {
                Stats.SegmentsUnsent++; // sent again when its time-out says so
            }
            else if (Write(now, transmit, neighbour.Mac, isPartial: isResolved, ref frame))
            {
                if (isResolved)
                {
                    return true;
                }

                neighbour.Keep(frame.Bytes);
                frame.Clear();
            }

            if (TryWriteQuestion(ref frame))
            {
                return true;
            }
        }

        return false;
    }

    private bool Write(TimeSpan now, in TcpTransmit transmit, MacAddress to, bool isPartial, ref SuperFrame frame)
    {
        TcpFlow flow = transmit.Flow;
        int ipBytes = _writer.HeaderBytes(flow.Remote), tcpBytes = TcpHeader.Size + transmit.Options.SizeBytes;
        Span<byte> headers = frame.Reserve(ipBytes + tcpBytes);
        int segmentBytes = tcpBytes + transmit.PayloadBytes;
        _writer.WriteHeaders(headers, to, flow.Local, flow.Remote, IpProtocol.Tcp, segmentBytes);
        Span<byte> segment = headers[ipBytes..];
        uint sum = InternetChecksum.PseudoHeader(flow.Local, flow.Remote, IpProtocol.Tcp, segmentBytes);
        new TcpHeader
        {
            SourcePort = flow.LocalPort,
            DestinationPort = flow.RemotePort,
            Sequence = transmit.Sequence,
            Acknowledgement = transmit.Acknowledgement,
            HeaderBytes = tcpBytes,
            Flags = transmit.Flags,
            Window = transmit.Window,
            Checksum = isPartial ? InternetChecksum.Fold(sum) : (ushort)0,
        }.WriteTo(segment);
        transmit.Options.WriteTo(segment[TcpHeader.Size..]);
        if (AppendPayload(transmit, ref frame) is var errno && errno != Errno.Success)
        {
            frame.Clear();
            Tcp.HandleTransmitFailure(now, transmit, errno);
            return false;
        }

        if (!isPartial)
        {
            // It waits for a neighbour, without payload: finished here, so that it is a whole packet.
            BinaryPrimitives.WriteUInt16BigEndian(
                segment[TcpHeader.ChecksumOffset..], InternetChecksum.Finish(InternetChecksum.Add(segment, sum)));
            return true;
        }

        frame.SetPartialChecksum(ipBytes, TcpHeader.ChecksumOffset);
        if (transmit.SegmentBytes > 0)
        {
            GsoType type = flow.Remote.IsIPv4 ? GsoType.TcpIPv4 : GsoType.TcpIPv6;
            frame.SetSegmentation(type, transmit.SegmentBytes, ipBytes + tcpBytes);
        }

        return true;
    }

    private static Errno AppendPayload(in TcpTransmit transmit, ref SuperFrame frame)
    {
        for (int done = 0; done < transmit.PayloadBytes;)
        {
            SendSlice slice = transmit.GetPayload(done);
            if (slice.Source is null)
            {
                frame.Append(slice.Bytes);
            }
            else if (frame.AppendDevice(slice.Source, slice.Offset, slice.LengthBytes) is var errno
                && errno != Errno.Success)
            {
                return errno;
            }

            done += slice.LengthBytes;
        }

        return Errno.Success;
    }

    private sealed class NicRoom(NicPort port) : IReceiveRoom
    {
        private const int SpareBytesMax = 2 << 16; // of two super-packets

        public long Version => port.SteeringVersion;

        public long GetReceiveRoomBytes(int queue) => queue < port.Queues.Count
            ? Math.Max(port.ReceiveRoomBytes(queue) - SpareOf(PoolOf(queue)), 0)
            : 0;

        public long GetReceiveCapacityBytes(int queue)
        {
            ChunkPool pool = PoolOf(queue);
            return SizeOf(pool) - SpareOf(pool);
        }

        public object GetReceiveMemory(int queue) => PoolOf(queue);

        public int GetQueue(in TcpFlow flow, int last)
        {
            FrameLayout layout = new()
            {
                Kind = FrameKind.Tcp,
                DestinationMac = port.Address,
                EtherType = flow.Remote.IsIPv4 ? EtherType.IPv4 : EtherType.IPv6,
                Protocol = IpProtocol.Tcp,
                Source = flow.Remote,
                Destination = flow.Local,
                SourcePort = flow.RemotePort,
                DestinationPort = flow.LocalPort,
            };
            Classification chosen = port.Steering.Classify(layout);
            return chosen.IsDropped ? last : chosen.Queue;
        }

        private static long SizeOf(ChunkPool pool) => (long)pool.ChunkCount * pool.ChunkBytes;

        // What is not promised: a peer sends again what has arrived, and that takes room until it is looked at; and a
        // piece that stays out keeps its neighbours' room in its chunk.
        private static long SpareOf(ChunkPool pool) => Math.Min(SizeOf(pool) / 8, SpareBytesMax);

        private ChunkPool PoolOf(int queue) => queue < port.Queues.Count ? port.Queues[queue].Memory : port.HostPool;
    }
}
