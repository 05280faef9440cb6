using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Broker;

/// <summary>
/// A buffer that a program has registered with an RDMA NIC: it keeps the buffer, and its number keeps the key, which
/// dies when the buffer is taken back. Of the connection's thread.
/// </summary>
internal sealed class BrokerRegion : IBrokerUse
{
    private readonly BrokerSession _session;

    private BrokerRegion(BrokerSession session, BrokerBuffer buffer, NicHandle nic, MemoryRegion region) =>
        (_session, Buffer, Nic, Region) = (session, buffer, nic, region);

    public BrokerBuffer Buffer { get; }

    public NicHandle Nic { get; }

    public MemoryRegion Region { get; }

    /// <exception cref="WayleaveException">EDQUOT, EINVAL, ENODEV, EOPNOTSUPP, or why the NIC has no way.</exception>
    public static BrokerRegion Register(
        BrokerSession session, NicHandle nic, ProtectionDomain domain, BrokerBuffer buffer, MemoryRegionRequest request)
    {
        string operation = $"register {buffer.Shared.Name} with {nic.Name}";
        using IDisposable use = nic.Presence.Use(operation);
        using (session.Host.Context.Enter())
        {
            session.Program.Ledger.Take(BrokerAccount.Keys, operation);
            session.Store.Buffers.HoldLocked(buffer);
        }

        try
        {
            request = request with { Holder = session.Program.Holder };
            MemoryRegion region = nic
                .RegisterAsync(domain, buffer.Shared, request, buffer.Device.Function).GetAwaiter().GetResult();
            BrokerRegion made = new(session, buffer, nic, region);
            using (session.Host.Context.Enter())
            {
                session.Store.Regions.AddLocked(made);
            }

            return made;
        }
        catch
        {
            LetGo(session, buffer);
            throw;
        }
    }

    /// <summary>For reports. Host lock not needed.</summary>
    public BrokerProgram Program => _session.Program;

    /// <summary>The key is dead afterwards, and its number free; nobody is inside the memory.</summary>
    public void End()
    {
        Nic.DeregisterAsync(Region).GetAwaiter().GetResult();
        using (_session.Host.Context.Enter())
        {
            _session.Store.Regions.RemoveLocked(this);
        }

        LetGo(_session, Buffer);
    }

    private static void LetGo(BrokerSession session, BrokerBuffer buffer)
    {
        using (session.Host.Context.Enter())
        {
            session.Program.Ledger.Give(BrokerAccount.Keys);
            session.Store.Buffers.DropLocked(buffer);
            session.Store.Programs.ForgetLocked(session.Program);
        }
    }
}

/// <summary>
/// A queue pair that a program has: it only answers, so that peers reach what the program has registered. Of the
/// connection's thread.
/// </summary>
internal sealed class BrokerQueuePair : IBrokerUse
{
    private readonly BrokerSession _session;
    private readonly NicHandle _nic;
    private readonly QueuePair _pair;
    private readonly uint _psn;

    private BrokerQueuePair(BrokerSession session, NicHandle nic, QueuePair pair)
    {
        (_session, _nic, _pair) = (session, nic, pair);
        _psn = nic.ChoosePsn();
    }

    /// <summary>Our end, for the peer.</summary>
    public ConnectionEnd Local => _nic.DescribeEnd(_pair, _psn);

    /// <exception cref="WayleaveException">EDQUOT, or what the NIC says.</exception>
    public static BrokerQueuePair Create(BrokerSession session, NicHandle nic, ProtectionDomain domain)
    {
        string operation = $"create a queue pair of {nic.Name}";
        using IDisposable use = nic.Presence.Use(operation);
        using (session.Host.Context.Enter())
        {
            session.Program.Ledger.Take(BrokerAccount.QueuePairs, operation);
        }

        try
        {
            return new BrokerQueuePair(session, nic, nic.CreateQueuePair(domain, nic.PassiveCompletions));
        }
        catch
        {
            LetGo(session);
            throw;
        }
    }

    /// <summary>Takes it to ready-to-send; the rights of its keys decide what the peer may do.</summary>
    /// <exception cref="WayleaveException">EINVAL: the peer's numbers make no sense, or it is connected.</exception>
    public void Connect(ConnectionEnd peer)
    {
        using IDisposable use = _nic.Presence.Use("connect a queue pair");
        _nic.Connect(_pair, peer, AccessFlags.RemoteRead | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic, _psn);
    }

    public void End()
    {
        _nic.Destroy(_pair);
        LetGo(_session);
    }

    private static void LetGo(BrokerSession session)
    {
        using (session.Host.Context.Enter())
        {
            session.Program.Ledger.Give(BrokerAccount.QueuePairs);
            session.Store.Programs.ForgetLocked(session.Program);
        }
    }
}

/// <summary>All registrations of programs. Host lock held by the caller.</summary>
internal sealed class BrokerRegions
{
    private readonly List<BrokerRegion> _regions = [];

    public IReadOnlyList<BrokerRegion> AllLocked => _regions;

    public void AddLocked(BrokerRegion region) => _regions.Add(region);

    public void RemoveLocked(BrokerRegion region) => _regions.Remove(region);
}
