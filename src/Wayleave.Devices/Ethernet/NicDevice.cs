using System.Numerics;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Ethernet;

// The control side of a NIC: what ethtool, ip link and netlink do. It lives under the port token, and takes the host
// lock itself where it touches shared buffers; so it is called with the token and without the host lock. Reservations
// are the caller's: bind wants the buffer's to be held by a ticket.

/// <summary>
/// An Ethernet NIC with receive queues that shared buffers can be bound to (<c>struct net_device</c>, as far as devmem
/// TCP needs one). Port token held by the caller and host lock not held, unless a member says otherwise.
/// </summary>
public sealed class NicDevice
{
    private const int IdMax = int.MaxValue;

    private readonly List<TransmitBinding> _transmitBindings = [];
    private uint _lastId;
    private bool _isRemoved;

    /// <param name="host">Whose lock guards the buffers; not held by the caller.</param>
    /// <param name="fabric">What it reaches memory through; the function is plugged in if it is not.</param>
    /// <param name="function">The NIC's function.</param>
    /// <param name="options">Copied.</param>
    /// <exception cref="ArgumentException">The options do not work together.</exception>
    public NicDevice(HostContext host, PciFabric fabric, PciFunction function, NicOptions options)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        (Host, Function, Options) = (host, function, options);
        using (host.Enter())
        {
            fabric.Plug(function);
        }

        Port = new NicPort(function, options);
    }

    public HostContext Host { get; }

    public PciFunction Function { get; }

    public NicOptions Options { get; }

    public NicPort Port { get; }

    public string Name => Function.Name;

    /// <summary>Receive bindings whose queues still use them, or whose chunks are not all back.</summary>
    public IReadOnlyList<MemoryBinding> Bindings => Port.BindingList;

    /// <summary>Transmit bindings that are not released.</summary>
    public IReadOnlyList<TransmitBinding> TransmitBindings => _transmitBindings;

    /// <summary>Whether payload is split from headers.</summary>
    public HeaderSplit Split => Port.Split;

    /// <summary>
    /// Binds a buffer to receive queues (<c>netdev_nl_bind_rx_doit</c>; the checks in that order): all of them or none.
    /// The queues are reset. Reservation of <paramref name="buffer"/> held by <paramref name="ticket"/>.
    /// </summary>
    /// <param name="ticket">Holds the reservation.</param>
    /// <param name="buffer">Outlives the binding.</param>
    /// <param name="request">Which queues, and how.</param>
    /// <param name="binding">Null unless Success. Ends with <see cref="Unbind(MemoryBinding)"/>.</param>
    /// <returns>
    /// Refused with <see cref="Errno.ENODEV"/> by a NIC that is down or gone; <see cref="Errno.EOPNOTSUPP"/> without
    /// queues; <see cref="Errno.EINVAL"/> for a queue that does not exist, chunks that do not fit the buffer, header
    /// split that is not on or has a threshold, and a queue that RSS uses; <see cref="Errno.EREMOTEIO"/> without a
    /// route; what the exporter says; <see cref="Errno.EEXIST"/> for a queue that is bound and beside a program; <see
    /// cref="Errno.EBUSY"/> for a queue with a reader.
    /// </returns>
    public BindOutcome BindLocked(
        AcquireTicket ticket, SharedBuffer buffer, BindRequest request, out MemoryBinding? binding)
    {
        ArgumentNullException.ThrowIfNull(request);
        Port.AssertHeld();
        binding = null;
        ForgetReleased();
        BindOutcome outcome = _isRemoved || !Port.IsUp
            ? BindOutcome.Refused(Errno.ENODEV, $"{Name} is {(_isRemoved ? "gone" : "down")}")
            : BindRules.CheckRequest(Port, buffer, request);
        if (outcome.Errno != Errno.Success)
        {
            return outcome;
        }

        uint id = NextId();
        BoundMemory memory;
        PeerRoute route;
        using (Host.Enter())
        {
            outcome = BindRules.CheckRoute(Function, request);
            if (outcome.Errno != Errno.Success)
            {
                return outcome;
            }

            memory = NewMemory($"{Name} binding {id}", id, request.Kind, request.Holder);
            outcome = memory.BindLocked(ticket, buffer, Function, DmaDirection.FromDevice);
            if (outcome.Errno != Errno.Success)
            {
                return outcome;
            }

            outcome = BindRules.CheckSegments(Port, memory, out route);
            outcome = outcome.Errno == Errno.Success ? BindRules.CheckQueues(Port, request) : outcome;
            if (outcome.Errno != Errno.Success)
            {
                memory.UnbindLocked(ticket);
                return outcome;
            }
        }

        binding = new MemoryBinding(Host, id, memory, buffer, request, Options.Defences) { Route = route };
        Port.BindingList.Add(binding);
        foreach (int queue in request.Queues)
        {
            binding.AddQueue(queue);
            Port.SetBinding(queue, binding);
        }

        Host.Trace("nic.bound", binding.Name, id, request.Queues.Count);
        return BindOutcome.Bound;
    }

    /// <summary>
    /// Gives a binding up (the netlink socket was closed, or its process is gone): its queues are reset and go on with
    /// host memory at once. The memory stays attached until every chunk has come back, unless it was revoked. The
    /// second call does nothing.
    /// </summary>
    public void Unbind(MemoryBinding binding)
    {
        ArgumentNullException.ThrowIfNull(binding);
        Port.AssertHeld();
        if (binding.State is not (BindingState.Bound or BindingState.Revoked))
        {
            return;
        }

        foreach (int index in binding.Queues)
        {
            Port.SetBinding(index, null);
        }

        Host.Trace("nic.unbound", binding.Name, binding.Id, binding.Pool.LiveChunks);
        binding.Unbind();
    }

    /// <summary>
    /// Binds a buffer that segments are sent from (<c>netdev_nl_bind_tx_doit</c>). Reservation of <paramref
    /// name="buffer"/> held by <paramref name="ticket"/>.
    /// </summary>
    /// <param name="ticket">Holds the reservation.</param>
    /// <param name="buffer">Outlives the binding.</param>
    /// <param name="request">Kind, provider and holder; the rest is about receiving.</param>
    /// <param name="binding">Null unless Success. Ends with <see cref="Unbind(TransmitBinding)"/>.</param>
    /// <returns>
    /// Refused with <see cref="Errno.ENODEV"/> by a NIC that is down or gone, <see cref="Errno.EINVAL"/> for a buffer
    /// that is not whole pages, <see cref="Errno.EREMOTEIO"/> without a route, or what the exporter says.
    /// </returns>
    public BindOutcome BindTransmitLocked(
        AcquireTicket ticket, SharedBuffer buffer, BindRequest request, out TransmitBinding? binding)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        ArgumentNullException.ThrowIfNull(request);
        Port.AssertHeld();
        binding = null;
        if (_isRemoved || !Port.IsUp)
        {
            return BindOutcome.Refused(Errno.ENODEV, $"{Name} is {(_isRemoved ? "gone" : "down")}");
        }

        if (buffer.SizeBytes % NicOptions.PageBytes != 0 || !BindRules.IsBindable(request.Kind))
        {
            return BindOutcome.Refused(Errno.EINVAL, $"{buffer.Name} has {buffer.SizeBytes} bytes, not whole pages");
        }

        uint id = NextId();
        using (Host.Enter())
        {
            BindOutcome outcome = BindRules.CheckRoute(Function, request);
            if (outcome.Errno != Errno.Success)
            {
                return outcome;
            }

            BoundMemory memory = NewMemory($"{Name} tx binding {id}", id, request.Kind, request.Holder);
            outcome = memory.BindLocked(ticket, buffer, Function, DmaDirection.ToDevice);
            if (outcome.Errno != Errno.Success)
            {
                return outcome;
            }

            binding = new TransmitBinding(Host, Function, id, memory, buffer);
        }

        _transmitBindings.Add(binding);
        return BindOutcome.Bound;
    }

    /// <summary>
    /// Gives a transmit binding up: no new send uses it. The memory stays attached until every send is acknowledged.
    /// </summary>
    public void Unbind(TransmitBinding binding)
    {
        ArgumentNullException.ThrowIfNull(binding);
        Port.AssertHeld();
        if (_transmitBindings.Remove(binding))
        {
            binding.Unbind();
        }
    }

    /// <summary>The transmit binding of that id, or null: a receive binding is none.</summary>
    public TransmitBinding? FindTransmitBinding(uint id) => _transmitBindings.Find(b => b.Id == id);

    /// <summary>Another number of receive queues (<c>ethtool -L</c>): all of it or nothing.</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for none or too many, and when a queue would go that is bound, has a reader, or that
    /// a table of the user or a rule leads to.
    /// </returns>
    public Errno SetChannels(int channels)
    {
        Port.AssertHeld();
        if (channels < 1 || channels > Options.ChannelsMax || Port.Steering.CheckChannels(channels) != Errno.Success)
        {
            return Errno.EINVAL;
        }

        for (int i = channels; i < Port.Queues.Count; i++)
        {
            if (Port.Queues[i].Binding is not null || Port.Queues[i].Reader is not null)
            {
                return Errno.EINVAL;
            }
        }

        Port.SetQueueCount(channels);
        Port.Steering.SetChannels(channels);
        return Errno.Success;
    }

    /// <summary>
    /// Another size of the rings (<c>ethtool -G rx</c>); rounded up to a power of two. Resets the queues.
    /// </summary>
    /// <returns><see cref="Errno.EINVAL"/> for none or too many.</returns>
    public Errno SetRingEntries(int entries)
    {
        Port.AssertHeld();
        if (entries < 1 || entries > Options.RingEntriesMax)
        {
            return Errno.EINVAL;
        }

        foreach (RxQueue queue in Port.Queues)
        {
            queue.Reset((int)BitOperations.RoundUpToPowerOf2((uint)entries));
            Port.Raise(new NicEvent(NicEventType.QueueReset, Queue: queue.Index));
        }

        return Errno.Success;
    }

    /// <summary>Switches header split (<c>ethtool -G tcp-data-split, hds-thresh</c>).</summary>
    /// <returns>
    /// <see cref="Errno.EOPNOTSUPP"/> when the device cannot split; <see cref="Errno.EINVAL"/> for a threshold out of
    /// range, and for anything but On without a threshold while a queue is bound.
    /// </returns>
    public Errno SetSplit(HeaderSplit split)
    {
        Port.AssertHeld();
        if (split.Mode == HeaderSplitMode.On && !Options.CanSplit)
        {
            return Errno.EOPNOTSUPP;
        }

        bool isSane = Enum.IsDefined(split.Mode) && split.ThresholdBytes is >= 0 and <= ushort.MaxValue;
        bool isBound = Port.BindingList.Exists(b => b.Queues.Count > 0);
        if (!isSane || (isBound && split is not { Mode: HeaderSplitMode.On, ThresholdBytes: 0 }))
        {
            return Errno.EINVAL;
        }

        Port.Split = split;
        return Errno.Success;
    }

    /// <summary>Attaches a program that sees every frame, or takes it away (null).</summary>
    /// <returns>
    /// <see cref="Errno.EBUSY"/> while a queue is bound, <see cref="Errno.EEXIST"/> when there is one.
    /// </returns>
    public Errno SetProgram(IFrameProgram? program)
    {
        Port.AssertHeld();
        if (program is not null && Port.BindingList.Exists(b => b.Queues.Count > 0))
        {
            return Errno.EBUSY;
        }

        if (program is not null && Port.Program is not null)
        {
            return Errno.EEXIST;
        }

        Port.Program = program;
        return Errno.Success;
    }

    /// <summary>Gives the frames of a queue to a reader, or back to the protocols above (null).</summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a queue that does not exist, <see cref="Errno.EBUSY"/> for one that is bound or
    /// has a reader.
    /// </returns>
    public Errno SetReader(int queue, IFrameReader? reader)
    {
        Port.AssertHeld();
        if (queue < 0 || queue >= Port.Queues.Count)
        {
            return Errno.EINVAL;
        }

        RxQueue chosen = Port.Queues[queue];
        if (reader is not null && (chosen.Binding is not null || chosen.Reader is not null))
        {
            return Errno.EBUSY;
        }

        chosen.Reader = reader;
        return Errno.Success;
    }

    /// <summary>
    /// Starts a queue anew: what is in its ring is lost, to be sent again. Its binding stays, and so does every chunk
    /// that somebody else holds.
    /// </summary>
    /// <returns><see cref="Errno.EINVAL"/> for a queue that does not exist.</returns>
    public Errno ResetQueue(int queue)
    {
        Port.AssertHeld();
        if (queue < 0 || queue >= Port.Queues.Count)
        {
            return Errno.EINVAL;
        }

        Port.Queues[queue].Reset();
        Port.Raise(new NicEvent(NicEventType.QueueReset, Queue: queue));
        return Errno.Success;
    }

    /// <summary>
    /// Switches the device on or off (<c>ip link set</c>). While it is off, every frame is dropped; bindings, rules,
    /// contexts and channels stay.
    /// </summary>
    public void SetUp(bool isUp)
    {
        Port.AssertHeld();
        foreach (RxQueue queue in Port.Queues)
        {
            queue.Reset();
        }

        Port.SetUp(isUp);
    }

    /// <summary>
    /// The device goes away (<c>unregister_netdevice</c>): off for good, every binding loses its queues. Memory whose
    /// chunks are still held stays attached until they come back.
    /// </summary>
    public void Remove()
    {
        Port.AssertHeld();
        _isRemoved = true;
        SetUp(isUp: false);
        foreach (MemoryBinding binding in Port.BindingList)
        {
            Unbind(binding);
        }

        while (_transmitBindings.Count > 0)
        {
            Unbind(_transmitBindings[0]);
        }
    }

    /// <summary>Forgets bindings of which nothing is left.</summary>
    public void ForgetReleased() => Port.BindingList.RemoveAll(b => b.State == BindingState.Released);

    private BoundMemory NewMemory(string name, uint id, ImporterKind kind, string? holder) =>
        new(Host, name, id, kind, holder, Options.Defences, HandleRevoked);

    // Host lock held. The port may be asleep, and connections wait to be told.
    private void HandleRevoked()
    {
        Port.Ring();
        if (Port.Waker is { } waker)
        {
            Host.Defer(waker);
        }
    }

    // Cyclic, never 0, and none that is in use.
    private uint NextId()
    {
        do
        {
            _lastId = _lastId < IdMax ? _lastId + 1 : 1;
        }
        while (Port.BindingList.Exists(b => b.Id == _lastId) || _transmitBindings.Exists(b => b.Id == _lastId));
        return _lastId;
    }
}
