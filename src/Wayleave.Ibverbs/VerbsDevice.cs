using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs.Faults;
using Wayleave.Ibverbs.Observation;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;
using Wayleave.Ports;

namespace Wayleave.Ibverbs;

// One for each device of the process, shared by all contexts. The machine is made with the first protection domain or
// completion queue; its socket is bound when a queue pair, an address handle or a window needs the port's token:
// ibv_devinfo works beside a program that has the address.
//
// Who runs what: control calls on the program's threads, one at a time under _control; posts and polls on any of them,
// and the engine thread of the port, under the port token; neither under _control.

/// <summary>An RDMA NIC of this process: the machine, its port, and the memory it reaches.</summary>
internal sealed class VerbsDevice : IKeySource
{
    // As a host asks a silent peer (NicHandle): the time-outs that programs choose are tens of milliseconds at least.
    private static readonly TimeSpan s_probeAfter = TimeSpan.FromMilliseconds(2);
    private static readonly TimeSpan s_probeFloor = TimeSpan.FromMicroseconds(100);

    private readonly Lock _control = new();
    private readonly Dictionary<uint, VerbsQueuePair> _pairs = [];
    private readonly Dictionary<uint, VerbsSharedReceives> _shared = [];
    private readonly Lock _completionsLock = new();
    private readonly Dictionary<CompletionQueue, VerbsCompletions> _completions = [];
    private volatile RdmaDevice? _machine;
    private volatile PortDriver? _driver;
    private UserSpace? _memory;
    private ConnectionSwitch? _connections;
    private DeviceObserver? _observer;
    private long _revokes;

    public VerbsDevice(string name, Gid gid) => (Name, Gid) = (name, gid);

    public string Name { get; }

    public Gid Gid { get; }

    /// <summary>Of the datagrams that it receives.</summary>
    public DatagramLevel Level => Gid.IsIPv4 ? DatagramLevel.IPv4 : DatagramLevel.IPv6;

    /// <summary>A locally administered EUI-64 made of the address, in the byte order of a number.</summary>
    public ulong NodeGuid => 0x0200_00FF_FE00_0000UL | (Gid.Low & 0xFF_FFFF) | ((Gid.Low >> 24 & 0xFF) << 40);

    public HostContext Host { get; } = new(TimeProvider.System, ProgramTrace.Instance);

    public RdmaDevice Machine => _machine ?? MakeMachine();

    public UserSpace Memory
    {
        get
        {
            _ = Machine;
            return _memory!;
        }
    }

    /// <summary>Null before the port is bound.</summary>
    public PortDriver? Driver => _driver;

    /// <summary>Binds the port if it is not.</summary>
    /// <exception cref="LinuxException">
    /// EADDRINUSE, which says who has the address, and others: see <see cref="UdpEndpoint.Bind"/>.
    /// </exception>
    /// <exception cref="IOException">A file for what is observed cannot be opened.</exception>
    public PortDriver Bind()
    {
        if (_driver is { } driver)
        {
            return driver;
        }

        RdmaDevice machine = Machine;
        lock (_control)
        {
            if (_driver is null)
            {
                EndpointAddress own = new(Gid.High, Gid.Low, AddressVector.RoceUdpPort);
                UdpEndpoint endpoint = BindTo(own);
                _observer = DeviceObserver.TryCreate(Name, Gid);
                PortDriver made = new(
                    machine.Port, endpoint, Host, tap: _observer is { TapsDatagrams: true } ? _observer : null)
                {
                    EventRaised = HandleEvent,
                    TurnEnded = _observer is null ? null : HandleTurnEnd,
                };
                FaultListener.Start();
                _driver = made;
            }

            return _driver!;
        }
    }

    /// <summary>Runs control work under the token of the port, which is bound if it is not.</summary>
    /// <exception cref="LinuxException">As <see cref="Bind"/>.</exception>
    public void WithToken(Action action) => Bind().WithToken(action);

    /// <summary>Its connection manager: the first use opens queue pair 1, and binds the port.</summary>
    /// <exception cref="LinuxException">As <see cref="Bind"/>.</exception>
    public ConnectionSwitch Connections
    {
        get
        {
            WithConnections(_ => { });
            return _connections!;
        }
    }

    /// <summary>
    /// Runs control work of the connection manager under the token of the port. The first comes before any packet: a
    /// request that meets queue pair 1 without its listener would be rejected, and one that meets no queue pair is
    /// asked again.
    /// </summary>
    /// <exception cref="LinuxException">As <see cref="Bind"/>.</exception>
    public void WithConnections(Action<ConnectionSwitch> action)
    {
        PortDriver driver = Bind();
        lock (_control)
        {
            bool isFirst = _connections is null;
            driver.WithToken(() =>
            {
                _connections ??= new ConnectionSwitch(this, Machine);
                action(_connections);
            });
            if (isFirst)
            {
                driver.TurnEnded = HandleTurnEnd;
            }
        }
    }

    /// <summary>Its queue pairs. Port token held, here and for the walk.</summary>
    public IEnumerable<VerbsQueuePair> QueuePairs => _pairs.Values;

    /// <summary>Keys that died because the owner wanted the memory back. Any thread.</summary>
    public long Revokes => Interlocked.Read(ref _revokes);

    /// <summary>One more of them. Any thread.</summary>
    public void CountRevoke() => Interlocked.Increment(ref _revokes);

    /// <summary>Async events of the queue pair go to its context from now on. Port token held.</summary>
    public void Add(VerbsQueuePair pair) => _pairs[pair.Pair.QpNumber] = pair;

    /// <summary>Port token held.</summary>
    public void Remove(VerbsQueuePair pair) => _pairs.Remove(pair.Pair.QpNumber);

    /// <summary>As for queue pairs. Port token held.</summary>
    public void Add(VerbsSharedReceives queue) => _shared[queue.Queue.Number] = queue;

    /// <summary>Port token held.</summary>
    public void Remove(VerbsSharedReceives queue) => _shared.Remove(queue.Queue.Number);

    /// <summary>
    /// The error of a completion queue, which may come when no queue pair is left that used it, goes to its context
    /// from now on. Any thread, without the token: a queue can be there before the port.
    /// </summary>
    public void Add(VerbsCompletions completions)
    {
        lock (_completionsLock)
        {
            _completions.Add(completions.Queue, completions);
        }
    }

    /// <summary>No event of it is raised any more. Any thread.</summary>
    public void Remove(VerbsCompletions completions)
    {
        lock (_completionsLock)
        {
            _completions.Remove(completions.Queue);
        }
    }

    uint IKeySource.NextUInt32()
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        RandomNumberGenerator.Fill(bytes);
        return BitConverter.ToUInt32(bytes);
    }

    private RdmaDevice MakeMachine()
    {
        lock (_control)
        {
            if (_machine is not null)
            {
                return _machine;
            }

            PciFabric fabric = new();
            PciFunction function = new("0000:01:00.0", Name);
            int receiveBufferBytes = ReceiveBufferBytes();
            RdmaDeviceOptions options = new()
            {
                Gid = Gid,
                SuperPacketSegments = UdpEndpoint.SegmentsMax,
                ReadWindowBytes = SocketWindow.Of(receiveBufferBytes),
                ReadWindowEmptyBytes = SocketWindow.OfEmpty(receiveBufferBytes),
                ProbeAfter = s_probeAfter,
                ProbeFloor = s_probeFloor,
                PagesOnDemand = false,
                Faults = ProgramFaults.AtStart,
                WillRead = CacheHint.WillRead,
                WillWrite = CacheHint.WillWrite,
            };
            RdmaDevice made = new(Host, fabric, function, options, this);
            _memory = new UserSpace(Host, fabric, made);
            _machine = made;
            return made;
        }
    }

    // An errno cannot say who has the address.
    private static UdpEndpoint BindTo(in EndpointAddress own)
    {
        try
        {
            return UdpEndpoint.Bind(own);
        }
        catch (LinuxException e) when (e.Errno == Errno.EADDRINUSE && UdpOwners.Describe(own) is { } owner)
        {
            throw new LinuxException(e.Call, e.Subject, e.Errno, owner);
        }
    }

    private void HandleTurnEnd()
    {
        _connections?.HandleEvents();
        _observer?.HandleTurnEnd(_machine!.Port, Revokes);
    }

    // The port's socket is bound later; another one of its kind says today how large its buffer will be.
    private int ReceiveBufferBytes()
    {
        using UdpEndpoint probe = UdpEndpoint.Bind(
            Gid.IsIPv4 ? EndpointAddress.FromIPv4(0x7F000001, 0) : new EndpointAddress(0, 1, 0));
        return probe.ReceiveBufferBytes;
    }

    internal void HandleEvent(AsyncEvent e)
    {
        if (e.Completions is { } overflowed)
        {
            lock (_completionsLock)
            {
                if (_completions.TryGetValue(overflowed, out VerbsCompletions? lost))
                {
                    lost.Context.Raise(e.Type, lost.Structure);
                }
            }

            return;
        }

        if (e.Type == AsyncEventType.SharedReceiveQueueLimit)
        {
            if (_shared.TryGetValue(e.SrqNumber, out VerbsSharedReceives? queue))
            {
                queue.Context.Raise(e.Type, queue.Structure);
            }

            return;
        }

        if (_pairs.TryGetValue(e.QpNumber, out VerbsQueuePair? pair)) // else destroyed meanwhile
        {
            pair.Context.Raise(e.Type, pair.Structure);
        }
    }
}
