using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>
/// The active end of a connection: a queue pair, its completions and a local region, made before the peer is asked so
/// that the peer can be told their numbers. Owned by one transfer at a time.
/// </summary>
public sealed class Connection : IAsyncDisposable
{
    private const int Depth = 256;

    private readonly NicHandle _nic;
    private readonly uint _psn;
    private readonly int _port;
    private QueuePair _pair;

    private Connection(
        NicHandle nic, MemoryRegion region, CompletionQueue completions, QueuePair pair, uint psn, int port)
    {
        (_nic, Region, Completions, _pair, _psn, _port) = (nic, region, completions, pair, psn, port);
    }

    public MemoryRegion Region { get; }

    public CompletionQueue Completions { get; }

    public QueuePair QueuePair => _pair;

    public NicHandle Nic => _nic;

    /// <summary>Our end, for the peer.</summary>
    public ConnectionEnd Local => _nic.DescribeEnd(_pair, _psn, _port);

    /// <summary>Registers a local object and makes a queue pair for it.</summary>
    /// <param name="nic">The local NIC.</param>
    /// <param name="o">Source or target of what will be transferred; outlives this.</param>
    /// <param name="kind">How the local object is held; dynamic lets it move while bytes are on their way.</param>
    /// <param name="access">What may be done with it here: without LocalWrite it is a source only.</param>
    /// <param name="port">Of the NIC; null for the first whose cable is in.</param>
    /// <exception cref="WayleaveException">EINVAL: the NIC has no such port.</exception>
    public static async Task<Connection> OpenAsync(
        NicHandle nic,
        DeviceObject o,
        ImporterKind kind = ImporterKind.Dynamic,
        AccessFlags access = AccessFlags.LocalWrite,
        int? port = null)
    {
        ArgumentNullException.ThrowIfNull(nic);
        ArgumentNullException.ThrowIfNull(o);
        int number = port ?? nic.FirstActivePort;
        if (number < 1 || number > nic.Ports.Count)
        {
            throw new WayleaveException(Errno.EINVAL, $"connect {o}", $"{nic.Name} has no port {number}");
        }

        MemoryRegion region = await nic.RegisterAsync(
            nic.Device.CreateProtectionDomain(),
            o.Buffer,
            new MemoryRegionRequest(0, o.SizeBytes, 0, access, kind),
            o.Owner.Function).ConfigureAwait(false);
        CompletionQueue completions = nic.CreateCompletionQueue(Depth);
        return new Connection(
            nic, region, completions, nic.CreateQueuePair(region.Domain, completions), nic.ChoosePsn(), number);
    }

    /// <summary>Connects to what the peer answered.</summary>
    public void Connect(ConnectionEnd peer) => _nic.Connect(_pair, peer, AccessFlags.None, _psn, _port);

    /// <summary>Moves the queue pair to ERR: everything in flight completes at once, flushed.</summary>
    public void Abort() => _nic.Abort(_pair);

    /// <summary>Replaces a queue pair that went to ERR by a new one in RESET.</summary>
    public void Renew()
    {
        _nic.Destroy(_pair);
        _pair = _nic.CreateQueuePair(Region.Domain, Completions);
    }

    /// <summary>
    /// Destroys the queue pair, then ends the region. What was in flight is lost: finish or cancel the transfer first.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        _nic.Destroy(_pair);
        await _nic.DeregisterAsync(Region).ConfigureAwait(false);
    }
}
