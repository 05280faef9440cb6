using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using MemoryWindow = Wayleave.Devices.Rdma.Verbs.MemoryWindow;

namespace Wayleave.Devices.Rdma;

/// <summary>
/// An RDMA adapter (<c>struct ibv_context</c>) with one port or several: makes protection domains, regions, completion
/// queues and queue pairs. Regions are control state and need the host lock; queue pairs are driven by
/// <see cref="Port"/> and need its token.
/// </summary>
public sealed class RdmaDevice
{
    /// <summary>The number of every management queue pair.</summary>
    internal const uint ManagementNumber = 1;

    /// <summary>What a datagram to a group is addressed to, whoever is attached.</summary>
    internal const uint MulticastNumber = Psn.Mask;

    /// <summary>Most READs that a queue pair may have outstanding, either way.</summary>
    public const int MaxRdAtomic = 128;

    /// <summary>Most pieces of memory that a work request may have.</summary>
    public const int MaxSge = 32;

    /// <summary>Most receives that a shared receive queue may hold (<c>max_srq_wr</c>).</summary>
    public const int MaxSharedReceives = 1 << 16;

    private readonly IKeySource _random;
    private readonly BufferRegions _bufferRegions;
    private uint _nextDomain = 1;
    private uint _nextSharedReceiveQueue = 1;

    /// <param name="host">Whose lock guards it; not held by the caller.</param>
    /// <param name="fabric">What it reaches memory through; the function is plugged in if it is not.</param>
    /// <param name="function">The NIC's function.</param>
    /// <param name="options">Copied.</param>
    /// <param name="keys">Where region keys come from.</param>
    /// <exception cref="ArgumentException">
    /// The options do not work together, or the function's address is taken.
    /// </exception>
    public RdmaDevice(
        HostContext host, PciFabric fabric, PciFunction function, RdmaDeviceOptions options, IKeySource keys)
    {
        options.Validate();
        Host = host;
        Function = function;
        Options = options;
        _random = keys;
        _bufferRegions = new BufferRegions(this);
        Keys = new KeyTable(keys, options.Defences.HoldsDeadNumbers);
        using (host.Enter())
        {
            fabric.Plug(function);
        }

        Port = new RdmaPort(host, function, options);
        Users = new UnstoppableEngine($"{Name} port");
        Hangs = new HangDetector(host, options.DrainTimeout, stopGrace: TimeSpan.Zero);
    }

    public HostContext Host { get; }

    public PciFunction Function { get; }

    public RdmaDeviceOptions Options { get; }

    /// <summary>The machine that drives all its ports; there is one, shared by all users of the device.</summary>
    public RdmaPort Port { get; }

    /// <summary>What it can do (<c>ibv_query_device</c>).</summary>
    public DeviceAttributes Attributes => DeviceAttributes.Instance with
    {
        Ports = Port.Links.Count,
        MaxMulticastGroups = Options.MulticastGroupsMax,
        MaxMulticastPairs = Options.MulticastPairsMax,
        MaxMulticastAttachments = Options.MulticastGroupsMax * Options.MulticastPairsMax,
    };

    public string Name => Function.Name;

    /// <summary>
    /// Watches the drains of all regions. The edge calls <see cref="HangDetector.HandleTimeout"/> when
    /// <see cref="HangDetector.NextDeadline"/> has passed, from another thread than those that drive the port.
    /// </summary>
    public HangDetector Hangs { get; }

    /// <summary>What keys name.</summary>
    internal KeyTable Keys { get; }

    /// <summary>Whoever is inside a gate of a region.</summary>
    internal UnstoppableEngine Users { get; }

    /// <summary>
    /// Regions whose key is in use, dead ones included; in no promised order. Host lock held by the caller.
    /// </summary>
    public IEnumerable<MemoryRegion> Regions => Keys.All().OfType<MemoryRegion>();

    public ProtectionDomain CreateProtectionDomain()
    {
        using (Host.Enter())
        {
            return new ProtectionDomain(this, _nextDomain++);
        }
    }

    /// <summary>A completion queue (<c>ibv_create_cq</c>).</summary>
    /// <param name="depth">At least 1; see <see cref="CompletionQueue"/> for what happens when it is full.</param>
    /// <param name="completions">Null unless Success.</param>
    /// <param name="channel">Where its events go; null keeps them with the queue.</param>
    public static Errno TryCreateCompletionQueue(
        int depth, out CompletionQueue? completions, CompletionChannel? channel = null)
    {
        completions = depth is >= 1 and <= CompletionQueue.DepthMax ? new CompletionQueue(depth, channel) : null;
        return completions is null ? Errno.EINVAL : Errno.Success;
    }

    /// <summary>
    /// A queue pair in RESET (<c>ibv_create_qp</c>), with a random number. Port token held by the caller.
    /// </summary>
    /// <param name="domain">Regions of other domains are refused.</param>
    /// <param name="sendCompletions">Where sends end.</param>
    /// <param name="receiveCompletions">Where receives end; may be the same.</param>
    /// <param name="capabilities">Sizes.</param>
    /// <param name="pair">Owned by the caller until <see cref="DestroyQueuePair"/>.</param>
    /// <param name="number">For replays: the number to use.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for sizes out of range or a number that cannot be one, <see cref="Errno.EEXIST"/> for
    /// one in use.
    /// </returns>
    public Errno TryCreateQueuePair(
        ProtectionDomain domain,
        CompletionQueue sendCompletions,
        CompletionQueue receiveCompletions,
        QueuePairCapabilities capabilities,
        out QueuePair? pair,
        uint? number = null)
    {
        return TryCreateQueuePair(
            new QueuePairRequest(domain, sendCompletions, receiveCompletions, capabilities) { Number = number },
            out pair);
    }

    /// <summary>As the other form, of any type. Port token held by the caller.</summary>
    /// <returns>
    /// As the other form; <see cref="Errno.EINVAL"/> also for a type that does not exist, or a shared receive queue of
    /// another domain.
    /// </returns>
    public Errno TryCreateQueuePair(QueuePairRequest request, out QueuePair? pair)
    {
        Port.AssertHeld();
        pair = null;
        QueuePairCapabilities capabilities = request.Capabilities;
        bool isSane = capabilities.MaxSendWr is >= 0 and <= 1 << 16
            && capabilities.MaxReceiveWr is >= 0 and <= 1 << 16
            && capabilities.MaxSendSge is >= 0 and <= MaxSge
            && capabilities.MaxReceiveSge is >= 0 and <= MaxSge
            && capabilities.MaxInlineData is >= 0 and <= 4096
            && request.Type is >= QueuePairType.ReliableConnection and <= QueuePairType.UnreliableDatagram
            && (request.SharedReceives is not { } shared || ReferenceEquals(shared.Domain, request.Domain));
        if (!isSane || (request.Number is { } wanted && !IsQueuePairNumber(wanted)))
        {
            return Errno.EINVAL;
        }

        uint chosen = request.Number ?? RandomQueuePairNumber();
        if (Port.FindQueuePair(chosen) is not null)
        {
            return Errno.EEXIST;
        }

        pair = new QueuePair(Port, request, chosen);
        Port.Add(pair);
        return Errno.Success;
    }

    /// <summary>Receives for several queue pairs (<c>ibv_create_srq</c>). Port token held by the caller.</summary>
    /// <param name="domain">Of the queue pairs that may use it.</param>
    /// <param name="maxWr">Receives that may be queued; rounded up to a power of two.</param>
    /// <param name="maxSge">Pieces of memory that each may have.</param>
    /// <param name="queue">Null unless Success.</param>
    /// <returns><see cref="Errno.EINVAL"/> for sizes out of range.</returns>
    public Errno TryCreateSharedReceiveQueue(
        ProtectionDomain domain, int maxWr, int maxSge, out SharedReceiveQueue? queue)
    {
        Port.AssertHeld();
        bool isSane = maxWr is >= 1 and <= MaxSharedReceives && maxSge is >= 1 and <= MaxSge;
        queue = isSane ? new SharedReceiveQueue(Port, domain, maxWr, maxSge, _nextSharedReceiveQueue++) : null;
        return isSane ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>Where datagrams go (<c>ibv_create_ah</c>). Port token held by the caller.</summary>
    /// <param name="domain">For the caller's order; a datagram needs no right to leave.</param>
    /// <param name="address">Of an address family that the port has.</param>
    /// <param name="handle">
    /// Null unless Success. Owned by the caller until <see cref="DestroyAddressHandle"/>.
    /// </param>
    /// <param name="port">
    /// By which port. A queue pair on another cannot send with it: such a request ends with
    /// <see cref="WorkCompletionStatus.LocalQpOperationError"/>.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for an address of the other family, or a port that does not exist.
    /// </returns>
    public Errno TryCreateAddressHandle(
        ProtectionDomain domain, in AddressVector address, out AddressHandle? handle, int port = 1)
    {
        Port.AssertHeld();
        handle = null;
        if (!Port.HasPort(port) || address.Destination.IsIPv4 != Port.Links[port - 1].Gid.IsIPv4)
        {
            return Errno.EINVAL;
        }

        handle = new AddressHandle(domain, Port.Peers.Join(Port.Links[port - 1], address));
        return Errno.Success;
    }

    /// <summary>
    /// Ends an address handle (<c>ibv_destroy_ah</c>). Datagrams that were posted with it and have not left end with
    /// <see cref="WorkCompletionStatus.LocalQpOperationError"/>. Port token held by the caller. Idempotent.
    /// </summary>
    public void DestroyAddressHandle(AddressHandle handle)
    {
        Port.AssertHeld();
        if (handle.Peer is { } peer)
        {
            handle.Destroy();
            Port.Peers.Leave(peer);
        }
    }

    /// <summary>
    /// Ends a queue pair (<c>ibv_destroy_qp</c>): no completions are made for what was queued. Port token held by the
    /// caller.
    /// </summary>
    /// <exception cref="InvalidOperationException">
    /// It is attached to a multicast group: see <see cref="TryDestroyQueuePair"/>.
    /// </exception>
    public void DestroyQueuePair(QueuePair pair)
    {
        if (TryDestroyQueuePair(pair) != Errno.Success)
        {
            throw new InvalidOperationException($"{pair.Name} is attached to a multicast group");
        }
    }

    /// <summary>As <see cref="DestroyQueuePair"/>, for one that may be attached to a multicast group.</summary>
    /// <returns><see cref="Errno.EBUSY"/> while it is (IBTA o10-2.2.3); then nothing changed.</returns>
    public Errno TryDestroyQueuePair(QueuePair pair)
    {
        Port.AssertHeld();
        if (pair.GroupCount > 0)
        {
            return Errno.EBUSY;
        }

        pair.Modify(new QueuePairAttributes { State = QueuePairState.Reset }, QueuePairAttributeMask.State);
        Port.Remove(pair);
        return Errno.Success;
    }

    /// <summary>
    /// Queue pair 1 of a port, whose datagrams the agent takes. Port token held by the caller.
    /// </summary>
    /// <exception cref="InvalidOperationException">The port has one already.</exception>
    internal QueuePair CreateManagementPair(QueuePairRequest request, IManagementAgent agent, PortLink link)
    {
        Port.AssertHeld();
        if (link.ManagementPair is not null)
        {
            throw new InvalidOperationException($"port {link.Number} of {Name} has a connection manager already");
        }

        QueuePair pair = new(Port, request, ManagementNumber, agent);
        Port.AddManagement(pair, link, agent);
        return pair;
    }

    /// <summary>32 bits that nobody can guess. Port token or host lock held.</summary>
    internal uint NextRandom() => _random.NextUInt32();

    /// <summary>64 bits that nobody can guess. As <see cref="NextRandom"/>.</summary>
    internal ulong NextRandom64() => (ulong)NextRandom() << 32 | NextRandom();

    /// <summary>A start PSN that nobody can guess. Port token held by the caller.</summary>
    public uint RandomPsn() => _random.NextUInt32() & Psn.Mask;

    /// <summary>
    /// Registers a range of a shared buffer (<c>ib_uverbs_reg_dmabuf_mr</c>; linux.md 5.3, with the errors in that
    /// order): attaches, pins if the kind pins, and maps. Host lock held; reservation of <paramref name="buffer"/> held
    /// by <paramref name="ticket"/>.
    /// </summary>
    /// <param name="ticket">Holds the reservation.</param>
    /// <param name="domain">Who may use the key.</param>
    /// <param name="buffer">Outlives the region.</param>
    /// <param name="request">What to register.</param>
    /// <param name="region">
    /// Null unless Success. Owned by the caller until <see cref="DeregisterLocked"/> is done.
    /// </param>
    /// <param name="wait">
    /// Not null when the memory must not be touched yet: once it has signalled call <see
    /// cref="MemoryRegion.RemapLocked"/>. Until then peers are told to try again later.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for what the request itself gets wrong, <see cref="Errno.EOPNOTSUPP"/> for on-demand
    /// paging, or persistence where there is none, <see cref="Errno.EEXIST"/> for a key in use, then
    /// what the exporter says to attach, pin and map. After an error nothing is left behind.
    /// </returns>
    public Errno RegisterLocked(
        AcquireTicket ticket,
        ProtectionDomain domain,
        SharedBuffer buffer,
        in MemoryRegionRequest request,
        out MemoryRegion? region,
        out Fence? wait) => _bufferRegions.Register(ticket, domain, buffer, request, out region, out wait);

    /// <summary>
    /// Ends a region (<c>ibv_dereg_mr</c>): kills the key, closes the gate, unmaps, unpins, detaches, and only then
    /// frees the number. Works the same on a revoked region. Host lock held; reservation of the region's buffer held by
    /// <paramref name="ticket"/>.
    /// </summary>
    /// <returns>
    /// Null when it is done. A fence when the port is inside the gate at this moment: the key is dead already; call
    /// again with the reservation locked once the fence has ended (<see cref="Fence.TryAddEndCallback"/>; one that was
    /// only forced has not).
    /// </returns>
    /// <exception cref="InvalidOperationException">
    /// A window is bound to it. Only a region over own memory can have one: see <see cref="TryDeregisterLocked"/>.
    /// </exception>
    public Fence? DeregisterLocked(AcquireTicket ticket, MemoryRegion region) =>
        TryDeregisterLocked(ticket, region, out Fence? drain) == Errno.Success
            ? drain
            : throw new InvalidOperationException($"a window is bound to {region.Name}");

    /// <summary>As <see cref="DeregisterLocked"/>, for a region that may have windows.</summary>
    /// <returns><see cref="Errno.EINVAL"/> while a window is bound to it; then nothing changed.</returns>
    public Errno TryDeregisterLocked(AcquireTicket ticket, MemoryRegion region, out Fence? drain) =>
        _bufferRegions.TryDeregister(ticket, region, out drain);

    /// <summary>As <see cref="TryDeregisterLocked"/>, for a region that has no buffer. Host lock held.</summary>
    internal Errno TryDeregisterBacked(MemoryRegion region, out Fence? drain) =>
        _bufferRegions.TryDeregister(ticket: null, region, out drain);

    /// <summary>
    /// Registers a range of a shared buffer under the key of a region that is there (<c>ibv_rereg_mr</c>), which names
    /// nothing else from then on: a peer finds one or the other, never neither. The old region is ended by the caller
    /// (<see cref="TryDeregisterLocked"/>), which leaves the key; until then a queue pair that used it before may go on
    /// doing so. Locks as <see cref="RegisterLocked"/>.
    /// </summary>
    /// <param name="ticket">Holds the reservation of <paramref name="buffer"/>.</param>
    /// <param name="old">Registered, and not being deregistered.</param>
    /// <param name="domain">Who may use the key from now on.</param>
    /// <param name="buffer">Outlives the new region.</param>
    /// <param name="request">What to register; its key is not looked at.</param>
    /// <param name="region">Null unless Success.</param>
    /// <param name="wait">As <see cref="RegisterLocked"/>.</param>
    /// <returns>
    /// As <see cref="RegisterLocked"/>; <see cref="Errno.EBUSY"/> while a window is bound to the old region. After an
    /// error the old region is as it was.
    /// </returns>
    public Errno ReregisterLocked(
        AcquireTicket ticket,
        MemoryRegion old,
        ProtectionDomain domain,
        SharedBuffer buffer,
        in MemoryRegionRequest request,
        out MemoryRegion? region,
        out Fence? wait) => _bufferRegions.Reregister(ticket, old, domain, buffer, request, out region, out wait);

    /// <summary>
    /// A window that leads nowhere yet (<c>ibv_alloc_mw</c>), with a random key. Port token held by the caller.
    /// </summary>
    /// <param name="domain">Whose regions it may be bound to, and by whose queue pairs.</param>
    /// <param name="type">How it is bound.</param>
    /// <param name="key">For replays; null takes a random one.</param>
    /// <param name="window">Owned by the caller until <see cref="DeallocateWindow"/>.</param>
    /// <returns><see cref="Errno.EINVAL"/> for a type or key that does not exist,
    /// <see cref="Errno.EEXIST"/> for one in use.</returns>
    public Errno TryAllocateWindow(
        ProtectionDomain domain, MemoryWindowType type, out MemoryWindow? window, uint? key = null)
    {
        Port.AssertHeld();
        window = null;
        if (type is not (MemoryWindowType.Type1 or MemoryWindowType.Type2) || key >> KeyTag.Bits == 0)
        {
            return Errno.EINVAL;
        }

        using (Host.Enter())
        {
            Errno errno = Keys.TryChoose(key, out uint chosen);
            if (errno == Errno.Success)
            {
                window = new MemoryWindow(domain, type, chosen);
                Keys.Add(window);
            }

            return errno;
        }
    }

    /// <summary>
    /// Ends a window, bound or not (<c>ibv_dealloc_mw</c>): no packet goes through it afterwards. A bind of it that is
    /// still queued fails. Port token held by the caller.
    /// </summary>
    public void DeallocateWindow(MemoryWindow window)
    {
        Port.AssertHeld();
        window.Deallocate();
        using (Host.Enter())
        {
            Keys.Remove(window);
        }
    }

    /// <summary>The region of a key, dead or alive, or null. Needs no lock.</summary>
    public MemoryRegion? FindRegion(uint key) => Keys.Find(key) as MemoryRegion;

    /// <summary>
    /// Ends a binding by its key. EINVAL when it is none that this queue pair may end. Port token held.
    /// </summary>
    internal Errno InvalidateWindow(QueuePair pair, uint key) =>
        Keys.Find(key) is MemoryWindow window ? window.Invalidate(pair, key) : Errno.EINVAL;

    /// <summary>The queue pair is reset or destroyed: what is bound to it is free. Port token held.</summary>
    internal void ReleaseWindows(QueuePair pair)
    {
        foreach (Numbered keyed in Keys.All())
        {
            if (keyed is MemoryWindow window)
            {
                window.HandleReset(pair);
            }
        }
    }

    internal void NotifyChanged() => Port.RegionFaults.NotifyChanged();

    private uint RandomQueuePairNumber()
    {
        uint number;
        do
        {
            number = _random.NextUInt32() & Psn.Mask;
        }
        while (!IsQueuePairNumber(number)
            || Port.FindQueuePair(number) is not null
            || Port.IsHeldByAgent(number));
        return number;
    }

    // 0 is never valid, 1 is the connection manager's, 0xFFFFFF is multicast.
    private static bool IsQueuePairNumber(uint number) => number is > 1 and < MulticastNumber;
}
