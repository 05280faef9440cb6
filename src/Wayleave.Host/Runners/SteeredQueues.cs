using Wayleave.Core;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;
using Wayleave.Linux;

namespace Wayleave.Host.Runners;

// A queue of the link is for one binding of one queue of the NIC, and never for another afterwards: a frame that was
// chosen for it is on its way to that memory, however long it takes. So the kernel's choice, made before the frame is
// read, is the knowledge whose it is; the port looks at the frame again all the same.
//
//   rules or bindings changed                         the link is given the rules anew; what waits in the queues that
//                                                     were in use is read as usual first
//   a queue is new, or was found empty                what comes by it from now on is scattered
//   no queue is left, or the link cannot choose       one copy
//
// Under the port token, all of it.

/// <summary>The queues of a link that bring frames of one binding each, read straight into its memory.</summary>
internal sealed class SteeredQueues
{
    private readonly NicPort _port;
    private readonly ISteeredLink _link;
    private readonly MacAddress _address;
    private readonly ScatterList _pieces = new(ScatterRead.PiecesMax + 2);
    private readonly List<Lane> _lanes = []; // queue 1 of the link is the first
    private readonly TapFlow[] _flows = new TapFlow[TapDevice.FlowsMax];
    private long _seenVersion = -1;
    private bool _isExhausted;

    public SteeredQueues(NicPort port, ISteeredLink link, MacAddress address) =>
        (_port, _link, _address) = (port, link, address);

    /// <summary>What the link said last to being steered.</summary>
    public Errno Error { get; private set; }

    /// <summary>Why payload of some binding is copied once; null when that of none need be.</summary>
    public string? WhyCopied => _link.WhyNotSteered
        ?? (Error != Errno.Success ? $"{_link.Name} refused the flows: {Error}"
            : _isExhausted ? $"all {_link.SteeredQueues} queues of {_link.Name} had a binding already"
            : null);

    /// <summary>Frames that wait, at most <paramref name="framesMax"/> of each queue.</summary>
    /// <param name="buffer">For a virtio header and the longest frame; mapped memory.</param>
    /// <param name="framesMax">Of each queue.</param>
    /// <param name="now">When.</param>
    /// <param name="isMore">Whether some may have been left.</param>
    /// <returns>How many frames.</returns>
    public int Receive(Span<byte> buffer, int framesMax, TimeSpan now, out bool isMore)
    {
        isMore = false;
        if (_port.SteeringVersion != _seenVersion)
        {
            _seenVersion = _port.SteeringVersion;
            Steer();
        }

        int received = 0;
        for (int i = 0; i < _lanes.Count; i++)
        {
            int count = 0;
            while (count < framesMax && TryReceive(i, buffer, now))
            {
                count++;
            }

            received += count;
            isMore |= count == framesMax;
        }

        return received;
    }

    private bool TryReceive(int index, Span<byte> buffer, TimeSpan now)
    {
        Lane lane = _lanes[index];
        if (lane.IsSettled && lane.IsCurrent(_port) && _port.Scatter.TryBegin(lane.Queue, SuperFrame.BufferBytes))
        {
            return TryScatter(index + 1, _port.Scatter, buffer, now);
        }

        Errno errno = _link.TryRead(index + 1, buffer, out int length);
        lane.CountRead(wasEmpty: errno == Errno.EAGAIN);
        if (errno == Errno.Success && VirtioNetHeader.TryParse(buffer[..length], out VirtioNetHeader header))
        {
            _port.HandleFrame(buffer[VirtioNetHeader.Size..length], header, now);
        }

        return errno == Errno.Success;
    }

    private bool TryScatter(int queue, ScatterRead read, Span<byte> buffer, TimeSpan now)
    {
        int head = VirtioNetHeader.Size + read.HeadBytes;
        _pieces.Clear();
        _pieces.Add(buffer[..head]);
        for (int i = 0; i < read.Count; i++)
        {
            _pieces.Add(read[i]);
        }

        _pieces.Add(buffer[(head + read.LengthBytes)..]);
        if (_link.TryRead(queue, _pieces, out int length) != Errno.Success || length < VirtioNetHeader.Size)
        {
            read.Cancel();
            return false;
        }

        // A header that makes no sense vouches for nothing: the frame is taken out, and checked from end to end.
        _ = VirtioNetHeader.TryParse(buffer[..length], out VirtioNetHeader header);
        read.Handle(buffer[VirtioNetHeader.Size..length], header, now);
        return true;
    }

    private void Steer()
    {
        foreach (Lane lane in _lanes)
        {
            lane.Unsettle();
        }

        foreach (RxQueue queue in _port.Queues)
        {
            if (queue.Binding is { } binding && FindLane(queue.Index) == 0)
            {
                _isExhausted |= _lanes.Count == _link.SteeredQueues;
                if (_lanes.Count < _link.SteeredQueues)
                {
                    _lanes.Add(new Lane(queue, binding));
                }
            }
        }

        if (_lanes.Count > 0)
        {
            Error = _link.Steer(_address, _flows.AsSpan(0, ListFlows()));
        }
    }

    // A prefix of the rules is as good as all: what none of them is about comes by queue 0.
    private int ListFlows()
    {
        int count = 0;
        if (!_port.Steering.HasNtuple)
        {
            return 0;
        }

        foreach (FlowRule rule in _port.Steering.Rules.Rules)
        {
            bool isForOthers = rule.DestinationMac is { } mac && mac != _address;
            if (isForOthers || rule.Vlan is not null || rule.Type is FlowType.UdpIPv4 or FlowType.UdpIPv6)
            {
                continue; // about no segment without a tag that comes to this address
            }

            bool isPlain = rule.RingCookie != FlowRule.Drop && rule.RssContext == 0;
            int queue = isPlain ? FindLane((int)rule.RingCookie) : 0;
            foreach (bool isIPv4 in (ReadOnlySpan<bool>)[true, false])
            {
                if (!IsAbout(rule.Type, isIPv4))
                {
                    continue;
                }

                if (count == _flows.Length)
                {
                    return count;
                }

                _flows[count++] = ToFlow(rule, isIPv4, queue);
            }
        }

        return count;
    }

    // The queue of the link for a queue of the NIC; 0 when it has none.
    private int FindLane(int queue) => 1 + _lanes.FindIndex(l => l.Queue.Index == queue && l.IsCurrent(_port));

    private static bool IsAbout(FlowType type, bool isIPv4) => type switch
    {
        FlowType.Ether => true,
        FlowType.IPv4 or FlowType.TcpIPv4 => isIPv4,
        _ => !isIPv4,
    };

    private static TapFlow ToFlow(FlowRule rule, bool isIPv4, int queue) => new()
    {
        IsIPv4 = isIPv4,
        Source = ToBits(rule.Source, isIPv4),
        SourceMask = ToBits(rule.SourceMask, isIPv4),
        SourcePort = rule.SourcePort,
        SourcePortMask = rule.SourcePortMask,
        Destination = ToBits(rule.Destination, isIPv4),
        DestinationMask = ToBits(rule.DestinationMask, isIPv4),
        DestinationPort = rule.DestinationPort,
        DestinationPortMask = rule.DestinationPortMask,
        Queue = queue,
    };

    private static UInt128 ToBits(IpAddress address, bool isIPv4) =>
        isIPv4 ? address.IPv4 : new UInt128(address.High, address.Low);

    private sealed class Lane(RxQueue queue, MemoryBinding binding)
    {
        private const int WaitingMax = 4096; // far more than a queue of the link holds (txqueuelen)

        private int _unsettled; // frames that may wait since before the last change

        public RxQueue Queue => queue;

        /// <summary>Nothing of before the last change waits in it.</summary>
        public bool IsSettled => _unsettled == 0;

        public void Unsettle() => _unsettled = WaitingMax;

        public void CountRead(bool wasEmpty) => _unsettled = wasEmpty ? 0 : Math.Max(_unsettled - 1, 0);

        public bool IsCurrent(NicPort port) => ReferenceEquals(queue.Binding, binding)
            && queue.Index < port.Queues.Count
            && ReferenceEquals(port.Queues[queue.Index], queue);
    }
}
