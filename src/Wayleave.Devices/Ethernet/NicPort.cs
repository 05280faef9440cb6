using System.Diagnostics.CodeAnalysis;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet;

// Who drives it. One thread at a time holds the port token: TryEnter, then any of the members below in any order, then
// Exit. The order that a driver uses is: HandleFrame for what has arrived, Deliver, the host's timers, PollTransmit
// until false. Everything above the port (connections, their queues, tokens) lives under the same token; so does the
// control side of the NIC (NicDevice). Somebody who finds the token taken rings: whoever exits looks at HasDoorbell
// afterwards and, if it is set, tries to enter again.
//
//   frame -> parse -> ours? -> steer -> program? -> ring of its queue -> PollReceive -> host -> Recycle
//
// Nothing of a frame is written anywhere before it was parsed, its checksum is right, and it is steered.

/// <summary>
/// The data path of an Ethernet NIC (docs/internals/ethernet.md), sans I/O: takes frames in, hands them to the
/// protocols above, and hands frames of those out; owns no device, thread or clock. It allocates nothing per frame.
/// </summary>
public sealed class NicPort
{
    private readonly NicOptions _options;
    private readonly List<RxQueue> _queues = [];
    private readonly List<MacAddress> _groups = [MacAddress.Broadcast, new MacAddress(0x3333_0000_0001)];
    private readonly List<MemoryBinding> _bindings = [];
    private readonly Queue<NicEvent> _events = [];
    private int _token;
    private int _doorbell;
    private int _nextQueue;
    private long _bindingChanges;
    private NicStats _stats;

    internal NicPort(PciFunction function, NicOptions options)
    {
        _options = options;
        Dma = new DmaPort(function);
        Steering = new FlowSteering(options.Steering, options.Channels)
        {
            IsReserved = queue => _queues[queue].Binding is { AllowsRss: false },
        };
        byte[] host = GC.AllocateUninitializedArray<byte>(options.HostPoolBytes, pinned: true);
        byte[] fallback = GC.AllocateUninitializedArray<byte>(options.FallbackPoolBytes, pinned: true);
        HostPool = new ChunkPool(ChunkPoolKind.Host, host, options.HostChunkBytes);
        FallbackPool = new ChunkPool(ChunkPoolKind.Fallback, fallback, NicOptions.PageBytes);
        Scatter = new ScatterRead(this);
        SetQueueCount(options.Channels);
    }

    /// <summary>For a link that can read a frame straight into bound memory.</summary>
    public ScatterRead Scatter { get; }

    /// <summary>
    /// Another value when a rule, or what a queue is bound to, may have changed: a link that steers by itself looks
    /// again.
    /// </summary>
    public long SteeringVersion => Steering.Version + _bindingChanges;

    /// <summary>The address that frames are sent to.</summary>
    public MacAddress Address => _options.Address;

    /// <summary>The port's DMA engine, with its byte counters per route.</summary>
    public DmaPort Dma { get; }

    public FlowSteering Steering { get; }

    /// <summary>Payload of queues that are not bound.</summary>
    public ChunkPool HostPool { get; }

    /// <summary>Payload of bound queues that could not go where it should.</summary>
    public ChunkPool FallbackPool { get; }

    /// <summary>By number.</summary>
    public IReadOnlyList<RxQueue> Queues => _queues;

    /// <summary>Whether frames are taken and sent (<c>ip link set up</c>).</summary>
    public bool IsUp { get; private set; } = true;

    /// <summary>Counters; see <see cref="NicStats"/> for what a reader without the token sees.</summary>
    public ref readonly NicStats Stats => ref _stats;

    /// <summary>Somebody waits for a driver. Readable without the token.</summary>
    public bool HasDoorbell => Volatile.Read(ref _doorbell) != 0;

    /// <summary>What looks at every frame; null for nobody.</summary>
    public IFrameProgram? Program { get; internal set; }

    /// <summary>
    /// Ends the sleep of whoever drives the port, when somebody rang who cannot drive it himself; set by the driver.
    /// Any thread, without the host lock.
    /// </summary>
    public Action? Waker { get; set; }

    internal HeaderSplit Split { get; set; }

    internal List<MemoryBinding> BindingList => _bindings;

    /// <summary>Takes the token if nobody has it. Never by a thread that holds the host lock.</summary>
    public bool TryEnter() => Interlocked.CompareExchange(ref _token, 1, 0) == 0;

    /// <summary>Gives the token back. Look at <see cref="HasDoorbell"/> afterwards.</summary>
    public void Exit() => Interlocked.Exchange(ref _token, 0);

    /// <summary>There is something to do for whoever drives. Any thread, with or without the host lock.</summary>
    public void Ring() => Interlocked.Exchange(ref _doorbell, 1);

    /// <summary>
    /// Takes one frame from the link. The bytes are not used after the return. Never throws for what is inside.
    /// </summary>
    /// <param name="frame">From the Ethernet header on, without FCS.</param>
    /// <param name="link">What the link says about it.</param>
    /// <param name="now">When.</param>
    /// <returns>None when it is in a ring now, or was handed to the reader of its queue.</returns>
    public FrameDrop HandleFrame(ReadOnlySpan<byte> frame, in VirtioNetHeader link, TimeSpan now)
    {
        FrameDrop drop = Take(frame, link, now);
        if (drop != FrameDrop.None)
        {
            _stats.CountDrop(drop);
        }

        return drop;
    }

    /// <summary>
    /// The oldest frame of a queue, the queues in turn. It is the caller's until <see cref="Recycle"/>, which comes
    /// before the next frame of that queue.
    /// </summary>
    public bool PollReceive([NotNullWhen(true)] out ReceivedFrame? frame)
    {
        for (int i = 0; i < _queues.Count; i++)
        {
            _nextQueue = _nextQueue + 1 < _queues.Count ? _nextQueue + 1 : 0;
            if (_queues[_nextQueue].TryTake(out frame))
            {
                return frame is not null;
            }
        }

        frame = null;
        return false;
    }

    /// <summary>Gives a frame's entry back to its ring, and its references with it.</summary>
    public void Recycle(ReceivedFrame frame)
    {
        ArgumentNullException.ThrowIfNull(frame);
        int index = frame.RxQueue.Index;
        if (index >= _queues.Count || !ReferenceEquals(_queues[index], frame.RxQueue))
        {
            throw new InvalidOperationException($"queue {index} of this port did not hand this frame out");
        }

        frame.RxQueue.Recycle(frame);
    }

    /// <summary>
    /// Hands frames and events to the host, at most <paramref name="framesMax"/> frames.
    /// </summary>
    /// <returns>How many frames.</returns>
    public int Deliver(INicHost host, int framesMax, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(host);
        int count = 0;
        while (count < framesMax && PollReceive(out ReceivedFrame? frame))
        {
            host.HandleFrame(frame, now);
            Recycle(frame);
            count++;
        }

        while (PollEvent(out NicEvent e))
        {
            if (e.Type == NicEventType.BindingRevoked)
            {
                host.HandleRevoked(e.Binding!, now);
            }
        }

        if (TakeRoomAgain())
        {
            host.HandleRoomChanged(now);
        }

        return count;
    }

    /// <summary>The oldest event that was not polled yet. Answers the doorbell.</summary>
    public bool PollEvent(out NicEvent nicEvent)
    {
        if (HasDoorbell)
        {
            Interlocked.Exchange(ref _doorbell, 0);
            foreach (MemoryBinding binding in _bindings)
            {
                if (binding.IsRevoked && !binding.IsReported)
                {
                    binding.IsReported = true;
                    _events.Enqueue(new NicEvent(NicEventType.BindingRevoked, binding));
                }
            }
        }

        return _events.TryDequeue(out nicEvent);
    }

    /// <summary>The next frame that the host has to send; counted as sent.</summary>
    public bool PollTransmit(INicHost host, TimeSpan now, ref SuperFrame frame)
    {
        ArgumentNullException.ThrowIfNull(host);
        frame.Clear();
        if (!IsUp || !host.PollTransmit(now, ref frame))
        {
            return false;
        }

        _stats.FramesSent++;
        _stats.BytesSent += frame.LengthBytes;
        _stats.SuperFramesSent += frame.Link.Gso == GsoType.None ? 0 : 1;
        return true;
    }

    /// <summary>
    /// Takes frames to a group from now on (<c>dev_mc_add</c>). Broadcast and all IPv6 nodes are joined already.
    /// </summary>
    public void Join(MacAddress group)
    {
        if (!_groups.Contains(group))
        {
            _groups.Add(group);
        }
    }

    /// <summary>Takes them no longer.</summary>
    public void Leave(MacAddress group) => _groups.Remove(group);

    /// <summary>Payload that can surely still be placed for a queue, in bytes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such queue.</exception>
    public long ReceiveRoomBytes(int queue) => _queues[queue].RoomBytes;

    internal void AssertHeld()
    {
        if (Volatile.Read(ref _token) == 0)
        {
            throw new InvalidOperationException("the port token is not held: call TryEnter first");
        }
    }

    internal void Raise(in NicEvent nicEvent)
    {
        if (_events.Count < _options.EventCapacity)
        {
            _events.Enqueue(nicEvent);
        }
    }

    internal void SetUp(bool isUp)
    {
        IsUp = isUp;
        Raise(new NicEvent(NicEventType.StateChanged));
    }

    internal void SetBinding(int queue, MemoryBinding? binding)
    {
        _queues[queue].SetBinding(binding);
        _bindingChanges++;
        Raise(new NicEvent(NicEventType.QueueReset, Queue: queue));
    }

    /// <summary>
    /// Takes a frame whose payload is in the chunks that a queue would fill next, if it belongs there; otherwise it is
    /// as if nothing had come.
    /// </summary>
    internal bool TryTakeScattered(
        RxQueue queue,
        ScatterRead read,
        ReadOnlySpan<byte> frame,
        in VirtioNetHeader link,
        TimeSpan now)
    {
        // Without a word of the link somebody would have to read the payload, which is device memory.
        if (!IsTrusted(link) || !IsUp || FrameParser.Parse(frame, link, out FrameLayout layout) != FrameDrop.None)
        {
            return false;
        }

        Classification chosen = Steering.Classify(layout);
        bool isExpected = layout.Kind == FrameKind.Tcp
            && layout.PayloadOffset == read.HeadBytes
            && layout.EndOffset == frame.Length
            && CheckUse(layout, link) == FrameDrop.None
            && !chosen.IsDropped
            && chosen.Queue == queue.Index;
        if ((!isExpected && _options.Defences.ChecksScatteredFrames)
            || layout.PayloadBytes < queue.Binding!.LinearBelowBytes)
        {
            return false;
        }

        CountTaken(frame, link);
        queue.PlaceScattered(read, frame, layout, chosen, link, now);
        return true;
    }

    /// <summary>Whether a whole frame is understood, and its place is a queue.</summary>
    internal bool IsSteeredTo(RxQueue queue, ReadOnlySpan<byte> frame, in VirtioNetHeader link) =>
        FrameParser.Parse(frame, link, out FrameLayout layout) == FrameDrop.None
        && CheckUse(layout, link) == FrameDrop.None
        && Steering.Classify(layout) is { IsDropped: false } chosen
        && chosen.Queue == queue.Index;

    internal void SetQueueCount(int count)
    {
        _bindingChanges++;
        while (_queues.Count > count)
        {
            _queues[^1].Reset();
            _queues.RemoveAt(_queues.Count - 1);
        }

        while (_queues.Count < count)
        {
            _queues.Add(new RxQueue(_queues.Count, _options, Dma, HostPool, FallbackPool));
        }

        _nextQueue = 0;
    }

    private FrameDrop Take(ReadOnlySpan<byte> frame, in VirtioNetHeader link, TimeSpan now)
    {
        _stats.FramesReceived++;
        _stats.BytesReceived += frame.Length;
        if (!IsUp)
        {
            return FrameDrop.Down;
        }

        FrameDrop drop = FrameParser.Parse(frame, link, out FrameLayout layout);
        if (drop != FrameDrop.None)
        {
            return drop;
        }

        drop = CheckUse(layout, link);
        if (drop != FrameDrop.None)
        {
            return drop;
        }

        CountUsed(link);
        Classification chosen = Steering.Classify(layout);
        if (chosen.IsDropped || Program?.Handle(frame, chosen.Queue) == FrameVerdict.Drop)
        {
            return FrameDrop.Rule;
        }

        RxQueue queue = _queues[chosen.Queue];
        if (queue.Reader is { } reader)
        {
            reader.Handle(frame, now);
            return FrameDrop.None;
        }

        return queue.Place(frame, layout, chosen, link, Split, now);
    }

    // Whether a frame that was understood is for this port at all.
    private FrameDrop CheckUse(in FrameLayout layout, in VirtioNetHeader link)
    {
        if (layout.DestinationMac != _options.Address && !_groups.Contains(layout.DestinationMac))
        {
            return FrameDrop.NotOurAddress;
        }

        if (layout.Vlan is { } vlan && vlan != 0 && !_options.Vlans.Contains(vlan))
        {
            return FrameDrop.UnexpectedVlan;
        }

        bool isCut = link.Gso != GsoType.None;
        return !isCut && layout.EndOffset - layout.NetworkOffset > _options.MtuBytes
            ? FrameDrop.TooLong
            : FrameDrop.None;
    }

    private static bool IsTrusted(in VirtioNetHeader link) =>
        (link.Flags & (VirtioNetFlags.NeedsChecksum | VirtioNetFlags.DataValid)) != 0;

    private void CountTaken(ReadOnlySpan<byte> frame, in VirtioNetHeader link)
    {
        _stats.FramesReceived++;
        _stats.BytesReceived += frame.Length;
        CountUsed(link);
    }

    private void CountUsed(in VirtioNetHeader link)
    {
        bool isTrusted = IsTrusted(link);
        _stats.SuperFramesReceived += link.Gso != GsoType.None ? 1 : 0;
        _stats.ChecksumsTrusted += isTrusted ? 1 : 0;
        _stats.ChecksumsVerified += isTrusted ? 0 : 1;
    }

    private bool TakeRoomAgain()
    {
        bool hasRoom = HostPool.HasRoomAgain | FallbackPool.HasRoomAgain;
        HostPool.HasRoomAgain = FallbackPool.HasRoomAgain = false;
        foreach (MemoryBinding binding in _bindings)
        {
            hasRoom |= binding.Pool.HasRoomAgain;
            binding.Pool.HasRoomAgain = false;
        }

        return hasRoom;
    }
}
