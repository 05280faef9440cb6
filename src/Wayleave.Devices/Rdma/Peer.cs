using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// The socket at the other end: checksum state of both directions, the window that all queue pairs to it share, and
/// those of them that have something to send. Port token held by the caller.
/// </summary>
internal sealed class Peer
{
    private const int PacketHeaderBytes = Bth.Size + Reth.Size + PacketView.IcrcSize;
    private const int DatagramHeaderBytes = 28 + PacketHeaderBytes; // IPv4 and UDP

    private IcrcFlow _inbound;
    private int _inboundSourcePort = -1;
    private int _inboundSeedBytes; // what packet the seed is for: most are as long as the one before
    private uint _inboundSeed; // of identification zero
    private long _icrcChecksFull;
    private long _icrcChecksSolved;

    /// <param name="options">How much may be on its way.</param>
    /// <param name="link">The port that leads there.</param>
    /// <param name="address">Where it is.</param>
    /// <param name="window">Of the same socket, when another port leads there too; null makes one.</param>
    public Peer(RdmaDeviceOptions options, PortLink link, in AddressVector address, DestinationWindow? window)
    {
        Link = link;
        Address = address;
        int each = address.KeepsSuperPackets ? PacketHeaderBytes : DatagramHeaderBytes + options.DatagramChargeBytes;
        int once = address.KeepsSuperPackets ? options.DatagramChargeBytes : 0;
        Window = window ?? new DestinationWindow(options.WindowBytes, each, once);
        ReadWindow = new DestinationWindow(link.ReadBudget.MostBytes, each, once, link.ReadBudget);
        RoundTrip = new RoundTrip(options.ProbeAfter ?? TimeSpan.MaxValue, options.ProbeFloor);
        Outbound = new IcrcFlow(link.Gid, address.Destination, SourcePort, address.DestinationPort);
    }

    /// <summary>The port of ours that leads to it.</summary>
    public PortLink Link { get; }

    public AddressVector Address { get; }

    /// <summary>Queue pairs that are connected to it; the port forgets a peer that has none.</summary>
    public int QueuePairs { get; set; }

    public ushort SourcePort => Address.SourcePort != 0 ? Address.SourcePort : Link.UdpPort;

    /// <summary>Checksum state of packets to the peer.</summary>
    public readonly IcrcFlow Outbound;

    /// <summary>Requests on their way to the peer's socket, by whichever port.</summary>
    public DestinationWindow Window { get; }

    /// <summary>READ responses on their way from the peer to our own socket.</summary>
    public DestinationWindow ReadWindow { get; }

    /// <summary>Queue pairs with requests to send.</summary>
    public QueuePairList Requests { get; } = new(QueuePairListKind.Requests);

    /// <summary>The one that was added to <see cref="Requests"/> last, until its turn comes.</summary>
    public QueuePair? Newcomer { get; set; }

    /// <summary>A queue pair is gone, or goes elsewhere.</summary>
    public void Forget(QueuePair pair)
    {
        Requests.Remove(pair);
        ReadWaiters.Remove(pair);
        Responses.Remove(pair);
        Newcomer = ReferenceEquals(Newcomer, pair) ? null : Newcomer;
    }

    /// <summary>Somebody among <see cref="Requests"/> has not had a turn.</summary>
    public bool HasNewcomer => Newcomer is { } pair && pair.Link(QueuePairListKind.Requests).IsLinked;

    /// <summary>Queue pairs with responses to send.</summary>
    public QueuePairList Responses { get; } = new(QueuePairListKind.Responses);

    /// <summary>
    /// Queue pairs whose next READ waits for <see cref="ReadWindow"/>; they are not in <see cref="Requests"/>.
    /// </summary>
    public QueuePairList ReadWaiters { get; } = new(QueuePairListKind.Requests);

    /// <summary>How long it takes to answer, and so when it is asked again.</summary>
    public RoundTrip RoundTrip { get; }

    /// <summary>Queue pairs that have asked it whether it is there (<see cref="SilenceProbe"/>).</summary>
    public int Probes { get; set; }

    /// <summary>
    /// What was sent there until then has been looked at: a path keeps the order, and something that was asked then, by
    /// whichever queue pair, was answered.
    /// </summary>
    public TimeSpan HeardUpTo { get; private set; } = TimeSpan.MinValue;

    /// <summary>A question of that time was answered.</summary>
    public void NoteHeard(TimeSpan asked) => HeardUpTo = asked > HeardUpTo ? asked : HeardUpTo;

    /// <summary>Whose turn it is; changes with every super-packet.</summary>
    public bool ResponsesGoFirst { get; set; }

    public PeerStatus Status =>
        new(Address, _icrcChecksFull, _icrcChecksSolved, Window.LimitBytes, Window.InFlightBytes);

    /// <summary>Whether the ICRC fits; says whether all 32 bits were checked or 16.</summary>
    public bool Verify(ReadOnlySpan<byte> packet, ushort sourcePort, int identification, out bool isFullCheck)
    {
        FollowSourcePort(sourcePort);
        isFullCheck = true;
        if (!_inbound.IsIPv4 || Address.Icrc != IcrcMode.SolveIdentification)
        {
            if (Icrc.Verify(SeedOf(packet.Length, (ushort)identification), packet))
            {
                _icrcChecksFull++;
                return true;
            }

            if (!_inbound.IsIPv4 || Address.Icrc == IcrcMode.Full)
            {
                return false;
            }
        }

        // Our own senders number the segments of a super-packet; whoever splits one on the way hides the index, not the
        // limit.
        isFullCheck = false;
        bool fits = Icrc.TrySolveIdentification(_inbound, packet, out ushort solved)
            && (Address.Icrc == IcrcMode.SolveIdentification || solved < RdmaDeviceOptions.SuperPacketSegmentsMax);
        _icrcChecksSolved += fits ? 1 : 0;
        return fits;
    }

    /// <summary>
    /// Whether its packets from that UDP port usually fit with all 32 bits. One that does not may still do so for
    /// <see cref="Verify"/>.
    /// </summary>
    public bool ExpectsFullCheck(ushort sourcePort)
    {
        FollowSourcePort(sourcePort);
        return !_inbound.IsIPv4 || Address.Icrc != IcrcMode.SolveIdentification;
    }

    /// <summary>
    /// What the checksum of a packet starts with, from the port that <see cref="ExpectsFullCheck"/> was asked about
    /// last.
    /// </summary>
    public uint SeedOf(int packetBytes, ushort identification)
    {
        if (packetBytes != _inboundSeedBytes)
        {
            (_inboundSeedBytes, _inboundSeed) = (packetBytes, _inbound.Seed(packetBytes, identification: 0));
        }

        return _inbound.Reseed(_inboundSeed, identification);
    }

    /// <summary>So many fitted that <see cref="SeedOf"/> was asked about.</summary>
    public void CountFullChecks(int packets) => _icrcChecksFull += packets;

    /// <summary>As <see cref="Verify"/>, for a FLUSH of a kernel rxe, whose ICRC runs over the packet twice.</summary>
    public bool VerifyFlushOfRxe(
        ReadOnlySpan<byte> packet, ushort sourcePort, int identification, out bool isFullCheck)
    {
        FollowSourcePort(sourcePort);
        isFullCheck = Icrc.VerifyFlushFromRxe(_inbound, (ushort)identification, packet);
        bool fits = isFullCheck
            || (Address.Icrc == IcrcMode.SolveIdentification
                && Icrc.TrySolveFlushFromRxe(_inbound, packet, out _));
        _icrcChecksFull += isFullCheck ? 1 : 0;
        _icrcChecksSolved += fits && !isFullCheck ? 1 : 0;
        return fits;
    }

    private void FollowSourcePort(ushort sourcePort)
    {
        if (sourcePort != _inboundSourcePort)
        {
            _inbound = new IcrcFlow(Address.Destination, Link.Gid, sourcePort, Link.UdpPort);
            _inboundSourcePort = sourcePort;
            _inboundSeedBytes = 0;
        }
    }
}

internal enum QueuePairListKind
{
    Requests,
    Responses,
}

/// <summary>
/// A first-in-first-out list of queue pairs, linked through themselves; each is in at most one list of a kind.
/// </summary>
internal sealed class QueuePairList(QueuePairListKind kind)
{
    private QueuePair? _head;
    private QueuePair? _tail;

    public QueuePair? Head => _head;

    public bool IsSingle => ReferenceEquals(_head, _tail);

    public void Add(QueuePair pair)
    {
        ref ListLink link = ref pair.Link(kind);
        link.IsLinked = true;
        link.Next = null;
        if (_tail is null)
        {
            _head = pair;
        }
        else
        {
            _tail.Link(kind).Next = pair;
        }

        _tail = pair;
    }

    /// <summary>Puts one that is in no list before all others.</summary>
    public void AddFirst(QueuePair pair)
    {
        ref ListLink link = ref pair.Link(kind);
        link.IsLinked = true;
        link.Next = _head;
        _head = pair;
        _tail ??= pair;
    }

    public void RemoveHead()
    {
        ref ListLink link = ref _head!.Link(kind);
        link.IsLinked = false;
        _head = link.Next;
        link.Next = null;
        if (_head is null)
        {
            _tail = null;
        }
    }

    /// <summary>Gives the next queue pair its turn.</summary>
    public void Rotate()
    {
        if (_head != _tail)
        {
            QueuePair pair = _head!;
            RemoveHead();
            Add(pair);
        }
    }

    /// <summary>Takes out a queue pair that is destroyed.</summary>
    public void Remove(QueuePair pair)
    {
        QueuePair? last = _tail;
        while (_head is not null && last is not null)
        {
            QueuePair head = _head;
            RemoveHead();
            if (!ReferenceEquals(head, pair))
            {
                Add(head);
            }

            if (ReferenceEquals(head, last))
            {
                return;
            }
        }
    }
}

/// <summary>A queue pair's place in a <see cref="QueuePairList"/>.</summary>
internal struct ListLink
{
    public QueuePair? Next;
    public bool IsLinked;
}
