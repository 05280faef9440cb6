using System.Net;
using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Regions;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Removal;
using Wayleave.Linux;
using Wayleave.Ports;

namespace Wayleave.Host;

/// <summary>
/// An RDMA NIC of a running host: the device, the sockets of its ports and who drives them. Members take the host lock
/// or the port token themselves and are called with neither.
/// </summary>
public sealed class NicHandle : IDisposable
{
    /// <summary>
    /// Timeout code of the queue pairs made here: 4.096 us times 2^16 is 0.27 s, eight times that until a silent peer
    /// is given up. rdma-core's tools use 14; half a second is less than a loaded machine may keep a process from
    /// running.
    /// </summary>
    public const int AcknowledgeTimeoutCode = 16;

    // More than a peer that runs takes to answer, and little of the 0.27 s that a lost question would cost otherwise.
    private static readonly TimeSpan s_probeAfter = TimeSpan.FromMilliseconds(2);

    // A turn of a driver with four super-packets; less would ask peers that are about to answer.
    private static readonly TimeSpan s_probeFloor = TimeSpan.FromMicroseconds(100);

    // Much shorter than the time-out of a drain, so that a hang is noticed about when it says.
    private static readonly TimeSpan s_watchInterval = TimeSpan.FromSeconds(1);

    private const int RetryCountMax = 7;
    private const int ReadDepth = 16;
    private const int RnrTimerCode = 12; // 0.64 ms
    private const int PassiveDepth = 4096;

    private readonly HostContext _host;
    private readonly IDatagramTap?[] _taps;
    private readonly ITimer _watchdog;
    private readonly Lazy<ConnectionService>[] _connections; // by port number less one
    private readonly Lock _cables = new(); // one look at them at a time, and none once disposed
    private bool _disposed;

    internal NicHandle(
        HostContext host, PciFabric fabric, PciFunction function, NicConfig config, WayleaveHostOptions options)
    {
        _host = host;
        Name = config.Name;
        Presence = new DevicePresence(Name);
        PathMtuBytes = config.PathMtuBytes;
        FirstsAhead = config.FirstsAhead;
        (PinnedMemory, LegacyPeers) = (config.PinnedMemory, config.LegacyPeers);
        UdpEndpoint[] endpoints = NicSockets.Open(config, options);
        PortAddress[] addresses = [.. endpoints.Select(e => AddressOf(e.LocalAddress))];
        ReceiveBufferBytes = endpoints[0].ReceiveBufferBytes;
        RdmaDeviceOptions deviceOptions = new()
        {
            Gid = addresses[0].Gid,
            UdpPort = addresses[0].UdpPort,
            FurtherPorts = addresses[1..],
            SuperPacketSegments = UdpEndpoint.SegmentsMax,
            ReadWindowBytes = SocketWindow.Of(ReceiveBufferBytes),
            ReadWindowEmptyBytes = SocketWindow.OfEmpty(ReceiveBufferBytes),
            ProbeAfter = s_probeAfter,
            ProbeFloor = s_probeFloor,
            WillRead = CacheHint.WillRead,
            WillWrite = CacheHint.WillWrite,
            Revocation = config.Revocation,
            ReachesPrivatePages = config.PrivatePages == PrivatePagePolicy.Direct,
            Congestion = config.Congestion == CongestionControl.Dcqcn ? new CongestionOptions() : null,
            Faults = options.Faults,
        };
        if (options.Defences is { } defences)
        {
            deviceOptions = deviceOptions with { Defences = defences };
        }

        Device = new RdmaDevice(
            host, fabric, function, deviceOptions, new CryptographicKeys());
        Ports = [.. Device.Port.Links.Select((l, i) => new RdmaPortHandle(l, endpoints[i]))];
        _taps = [.. addresses.Select(a => options.Tap?.Invoke(a.Gid, a.UdpPort))];
        PortSocket[] sockets = [.. endpoints.Select((e, i) => new PortSocket(e, _taps[i]))];
        Driver = new PortDriver(Device.Port, sockets, host, options.Driver);
        PassiveCompletions = CreateCompletionQueue(PassiveDepth);
        AuditDomain = Device.CreateProtectionDomain();
        _connections = [.. Ports.Select(p => new Lazy<ConnectionService>(
            () => new ConnectionService(this, p.Link.Number)))];
        _watchdog = options.Clock.CreateTimer(_ => Watch(), null, s_watchInterval, s_watchInterval);
    }

    public string Name { get; }

    public DevicePresence Presence { get; }

    /// <summary>Port 1 and, where the configuration has them, others.</summary>
    public IReadOnlyList<RdmaPortHandle> Ports { get; }

    /// <summary>Of port 1.</summary>
    public Gid Gid => Ports[0].Gid;

    /// <summary>Of port 1.</summary>
    public ushort UdpPort => Ports[0].UdpPort;

    /// <summary>The largest payload of a packet.</summary>
    public int PathMtuBytes { get; }

    /// <summary>What happens when pages of a client that are pinned here are wanted by somebody else.</summary>
    public PinnedMemoryPolicy PinnedMemory { get; }

    /// <summary>What becomes of a client whose legacy region has lost its memory.</summary>
    public LegacyPeerPolicy LegacyPeers { get; }

    /// <summary>
    /// The receive buffer of the socket as the kernel accounts it; peers keep what they send below it.
    /// </summary>
    public int ReceiveBufferBytes { get; }

    /// <summary>Of WRITEs to a peer that holds them too, so many begin before their turn.</summary>
    public int FirstsAhead { get; }

    public RdmaDevice Device { get; }

    public PortDriver Driver { get; }

    /// <summary>
    /// For queue pairs that only answer: nobody polls it, and a passive queue pair completes nothing into it.
    /// </summary>
    public CompletionQueue PassiveCompletions { get; }

    /// <summary>Connections by address and port, over port 1; the first use opens its queue pair 1.</summary>
    public ConnectionService Connections => ConnectionsOf(1);

    /// <summary>The lowest port whose cable is in; 1 when none is.</summary>
    public int FirstActivePort =>
        Ports.FirstOrDefault(p => p.Link.State == PortState.Active)?.Link.Number ?? 1;

    /// <summary>
    /// The port by which the routes of this machine lead to an address; where they name none of ours, as on the
    /// loopback, or there is no route, <see cref="FirstActivePort"/>.
    /// </summary>
    public int PortTowards(Gid peer)
    {
        if (Ports.Count == 1)
        {
            return 1;
        }

        Span<byte> bytes = stackalloc byte[Gid.Size];
        peer.WriteTo(bytes);
        IPAddress address = peer.IsIPv4 ? new IPAddress(bytes[12..]) : new IPAddress(bytes);
        try
        {
            // Sends nothing: the kernel looks the route up, and says which of its addresses it would send from.
            using Socket socket = new(address.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
            socket.Connect(address, AddressVector.RoceUdpPort);
            Gid own = Gid.TryParse(((IPEndPoint)socket.LocalEndPoint!).Address.ToString(), out Gid gid) ? gid : default;
            return Ports.FirstOrDefault(p => p.Gid == own)?.Link.Number ?? FirstActivePort;
        }
        catch (SocketException)
        {
            return FirstActivePort;
        }
    }

    /// <summary>As <see cref="Connections"/>, over any port.</summary>
    public ConnectionService ConnectionsOf(int port) => _connections[port - 1].Value;

    /// <summary>The path MTU as verbs name it.</summary>
    internal PathMtu PathMtu => (PathMtu)(System.Numerics.BitOperations.Log2((uint)PathMtuBytes) - 7);

    /// <summary>The time that the port is driven by.</summary>
    internal TimeSpan Now => _host.Now;

    /// <summary>A domain without queue pairs, in which an audit tries which keys are handed out.</summary>
    internal ProtectionDomain AuditDomain { get; }

    /// <summary>A completion queue of that many entries.</summary>
    public CompletionQueue CreateCompletionQueue(int depth)
    {
        RdmaDevice.TryCreateCompletionQueue(depth, out CompletionQueue? completions)
            .ThrowIfFailed($"create a completion queue of {depth} on {Name}");
        return completions!;
    }

    /// <summary>A queue pair in RESET.</summary>
    public QueuePair CreateQueuePair(
        ProtectionDomain domain, CompletionQueue completions, QueuePairCapabilities? capabilities = null) =>
        CreateQueuePair(domain, completions, completions, capabilities);

    /// <summary>A queue pair in RESET, of any type.</summary>
    public QueuePair CreateQueuePair(QueuePairRequest request)
    {
        QueuePair? pair = null;
        Errno errno = Errno.Success;
        Control(() => errno = Device.TryCreateQueuePair(request, out pair));
        errno.ThrowIfFailed($"create a queue pair on {Name}");
        return pair!;
    }

    /// <summary>A queue pair in RESET, whose sends and receives complete in different queues.</summary>
    public QueuePair CreateQueuePair(
        ProtectionDomain domain,
        CompletionQueue sends,
        CompletionQueue receives,
        QueuePairCapabilities? capabilities = null)
    {
        QueuePair? pair = null;
        Errno errno = Errno.Success;
        capabilities ??= new QueuePairCapabilities();
        Control(() => errno = Device.TryCreateQueuePair(domain, sends, receives, capabilities, out pair));
        errno.ThrowIfFailed($"create a queue pair on {Name}");
        return pair!;
    }

    /// <summary>A random start PSN.</summary>
    public uint ChoosePsn()
    {
        uint psn = 0;
        Control(() => psn = Device.RandomPsn());
        return psn;
    }

    /// <summary>Takes a queue pair from RESET to RTS, with a random start PSN.</summary>
    /// <returns>Our end, for the peer.</returns>
    public ConnectionEnd Connect(QueuePair pair, ConnectionEnd peer, AccessFlags access) =>
        Connect(pair, peer, access, ChoosePsn());

    /// <summary>As the other, with a start PSN that the peer was told before.</summary>
    /// <param name="pair">In RESET.</param>
    /// <param name="peer">Its end.</param>
    /// <param name="access">What it may do here.</param>
    /// <param name="psn">Our start PSN.</param>
    /// <param name="port">Which of <see cref="Ports"/> the queue pair is on.</param>
    /// <exception cref="WayleaveException">The peer's numbers make no sense.</exception>
    public ConnectionEnd Connect(QueuePair pair, ConnectionEnd peer, AccessFlags access, uint psn, int port = 1)
    {
        ArgumentNullException.ThrowIfNull(pair);
        ArgumentNullException.ThrowIfNull(peer);
        Gid own = Ports[port - 1].Gid;
        int mtu = Math.Min(peer.PathMtuBytes, PathMtuBytes);
        string operation = $"connect {pair.Name} to {peer.Gid} queue pair {peer.QpNumber}";
        if (mtu is not (256 or 512 or 1024 or 2048 or 4096) || peer.Gid.IsIPv4 != own.IsIPv4)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"path MTU {peer.PathMtuBytes} and address {peer.Gid} do not fit {own}");
        }

        QueuePairAttributes attributes = new()
        {
            Port = port,
            AccessFlags = access,
            AddressVector = new AddressVector(
                peer.Gid,
                peer.UdpPort,
                peer.Gid.IsIPv4 ? IcrcMode.OwnIdentification : IcrcMode.Full,
                KeepsSuperPackets: new EndpointAddress(peer.Gid.High, peer.Gid.Low, peer.UdpPort).IsLoopback),
            PeerWindowBytes = peer.ReceiveBufferBytes is { } bytes ? SocketWindow.Of(bytes) : null,
            PathMtu = (PathMtu)(System.Numerics.BitOperations.Log2((uint)mtu) - 7),
            DestQpNumber = peer.QpNumber,
            RqPsn = peer.Psn,
            SqPsn = psn,
            MaxRdAtomic = ReadDepth,
            MaxDestRdAtomic = ReadDepth,
            MinRnrTimer = RnrTimerCode,
            Timeout = AcknowledgeTimeoutCode,
            RetryCount = RetryCountMax,
            RnrRetry = RetryCountMax,
            Profile = PeerProfile.Default with { FirstsAhead = Math.Clamp(peer.FirstsAhead, 0, FirstsAhead) },
        };
        Control(() =>
        {
            Modify(pair, attributes, QueuePairState.Init, InitMask, operation);
            Modify(pair, attributes, QueuePairState.ReadyToReceive, ReceiveMask, operation);
            Modify(pair, attributes, QueuePairState.ReadyToSend, SendMask, operation);
        });
        return DescribeEnd(pair, psn, port) with { PathMtuBytes = mtu };
    }

    /// <summary>Moves a queue pair to ERR; what was queued completes flushed, in order.</summary>
    public void Abort(QueuePair pair)
    {
        ArgumentNullException.ThrowIfNull(pair);
        Control(
            () => pair.Modify(new QueuePairAttributes { State = QueuePairState.Error }, QueuePairAttributeMask.State)
            .ThrowIfFailed($"stop {pair.Name}"));
    }

    /// <summary>Our end of a connection to be, for the peer.</summary>
    /// <param name="pair">Made here.</param>
    /// <param name="psn">Its start PSN.</param>
    /// <param name="port">Which of <see cref="Ports"/> it will be on.</param>
    public ConnectionEnd DescribeEnd(QueuePair pair, uint psn, int port = 1)
    {
        ArgumentNullException.ThrowIfNull(pair);
        RdmaPortHandle own = Ports[port - 1];
        return new ConnectionEnd(own.Gid, own.UdpPort, pair.QpNumber, psn, PathMtuBytes)
        {
            ReceiveBufferBytes = own.ReceiveBufferBytes,
            FirstsAhead = FirstsAhead,
        };
    }

    /// <summary>What the kernel counts about the socket; one system call.</summary>
    public UdpSocketStats ReadSocketStats() => Driver.ReadSocketStats();

    /// <summary>Ends a queue pair; what was queued makes no completions.</summary>
    public void Destroy(QueuePair pair) => Control(() => Device.DestroyQueuePair(pair));

    private void ThrowIfOutOfReach(Errno errno, SharedBuffer buffer, PciFunction? owner)
    {
        if (errno is Errno.EBUSY or Errno.EREMOTEIO or Errno.EINVAL or Errno.EPERM
            && owner?.PeerDevice?.VerdictFor(Device.Function) is { IsSupported: false } verdict)
        {
            throw new WayleaveException(
                Errno.EREMOTEIO,
                $"register {buffer.Name} on {Name}",
                verdict.Refusal,
                "place the two closer in the topology, or evict the object to system memory first");
        }
    }

    /// <summary>Registers a range of a buffer and waits until its memory may be touched.</summary>
    /// <param name="domain">Of this NIC.</param>
    /// <param name="buffer">Whose memory.</param>
    /// <param name="request">What of it, for whom.</param>
    /// <param name="owner">Whose memory it is, so that a refusal can say why there is no way to it.</param>
    /// <exception cref="WayleaveException">What the request gets wrong, or why the exporter refuses.</exception>
    public async Task<MemoryRegion> RegisterAsync(
        ProtectionDomain domain, SharedBuffer buffer, MemoryRegionRequest request, PciFunction? owner = null)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        AcquireTicket ticket = NewTicket($"registration of {buffer.Name}");
        await buffer.Reservation.LockAsync(_host, ticket).ConfigureAwait(false);
        MemoryRegion? region;
        TaskCompletionSource<Errno>? mapped = null;
        using (_host.Enter())
        {
            Errno errno = Device.RegisterLocked(ticket, domain, buffer, request, out region, out Fence? wait);
            buffer.Reservation.Unlock(ticket);
            ThrowIfOutOfReach(errno, buffer, owner);
            errno.ThrowIfFailed($"register {buffer.Name} on {Name}", errno switch
            {
                Errno.ENODEV => "it was revoked; ask its owner for a new object",
                Errno.EOPNOTSUPP =>
                    "its owner must be able to take it back: use a dynamic or a pinned-revocable region",
                _ => null,
            });
            if (wait is not null)
            {
                mapped = new TaskCompletionSource<Errno>(TaskCreationOptions.RunContinuationsAsynchronously);
                RegionRemap.Start(region!, mapped.SetResult);
            }
        }

        if (mapped is not null)
        {
            Errno errno = await mapped.Task.ConfigureAwait(false);
            if (errno != Errno.Success)
            {
                await DeregisterAsync(region!).ConfigureAwait(false);
                errno.ThrowIfFailed($"map {buffer.Name} for {Name}", "its owner took it back meanwhile");
            }
        }

        return region!;
    }

    /// <summary>Ends a region and waits until nobody is inside it. Idempotent.</summary>
    public async Task DeregisterAsync(MemoryRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        while (true)
        {
            SharedBuffer? buffer;
            AcquireTicket ticket = NewTicket($"deregistration of {region.Name}");
            using (_host.Enter())
            {
                buffer = region.Buffer;
            }

            if (buffer is null)
            {
                return;
            }

            await buffer.Reservation.LockAsync(_host, ticket).ConfigureAwait(false);
            TaskCompletionSource drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
            using (_host.Enter())
            {
                Fence? drain = Device.DeregisterLocked(ticket, region);
                buffer.Reservation.Unlock(ticket);
                if (drain is null)
                {
                    return;
                }

                if (drain.TryAddEndCallback(_ => drained.SetResult()) != Errno.Success)
                {
                    continue;
                }
            }

            await drained.Task.ConfigureAwait(false);
        }
    }

    public void Dispose()
    {
        _watchdog.Dispose();
        foreach (Lazy<ConnectionService> connections in _disposed ? [] : _connections)
        {
            if (connections.IsValueCreated)
            {
                connections.Value.Stop();
            }
        }

        lock (_cables)
        {
            _disposed = true;
        }

        Driver.Dispose();
        foreach (IDatagramTap? tap in _taps)
        {
            (tap as IDisposable)?.Dispose();
        }
    }

    private const QueuePairAttributeMask InitMask =
        QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex | QueuePairAttributeMask.Port
        | QueuePairAttributeMask.AccessFlags;

    private const QueuePairAttributeMask ReceiveMask =
        QueuePairAttributeMask.State | QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu
        | QueuePairAttributeMask.DestQpNumber | QueuePairAttributeMask.RqPsn | QueuePairAttributeMask.MaxDestRdAtomic
        | QueuePairAttributeMask.MinRnrTimer;

    private const QueuePairAttributeMask SendMask =
        QueuePairAttributeMask.State | QueuePairAttributeMask.Timeout | QueuePairAttributeMask.RetryCount
        | QueuePairAttributeMask.RnrRetry | QueuePairAttributeMask.SqPsn | QueuePairAttributeMask.MaxRdAtomic;

    private static PortAddress AddressOf(EndpointAddress local) => new(new Gid(local.High, local.Low), local.Port);

    private static void Modify(
        QueuePair pair,
        QueuePairAttributes attributes,
        QueuePairState state,
        QueuePairAttributeMask mask,
        string operation) =>
        pair.Modify(attributes with { State = state }, mask).ThrowIfFailed($"{operation}: to {state}");

    private AcquireTicket NewTicket(string owner)
    {
        using (_host.Enter())
        {
            return new AcquireTicket(_host, owner);
        }
    }

    // On a thread of the pool: the one that drives the port may be the one that hangs inside a gate.
    private void Watch()
    {
        using (_host.Enter())
        {
            Device.Hangs.HandleTimeout(_host.Now);
        }

        // Who has the token may hang: then the next look finds this one under way, and only watches for hangs.
        if (_cables.TryEnter())
        {
            try
            {
                WatchCables();
            }
            finally
            {
                _cables.Exit();
            }
        }
    }

    private void WatchCables()
    {
        foreach (RdmaPortHandle port in Ports)
        {
            if (!_disposed && port.HasNews(out bool hasCable))
            {
                Control(() => Device.Port.SetPortState(port.Number, hasCable ? PortState.Active : PortState.Down));
            }
        }
    }

    private void Control(Action action) => Driver.WithToken(action);
}
