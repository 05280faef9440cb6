using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Broker;

/// <summary>
/// Something that a program has of an RDMA NIC. It stops once: by its number, with its connection, or with the NIC,
/// whichever comes first; the number and the account stay the program's until it gives them back.
/// </summary>
internal abstract class BrokerNicUse(BrokerSession session, NicHandle nic, BrokerAccount account) : IBrokerUse
{
    private Task? _stopped; // host lock

    public NicHandle Nic { get; } = nic;

    public BrokerProgram Program => Session.Program;

    protected BrokerSession Session { get; } = session;

    /// <summary>
    /// The NIC does nothing for it when this has ended, also for a caller who finds its end begun by another. Any
    /// thread.
    /// </summary>
    public Task StopAsync()
    {
        TaskCompletionSource stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (Session.Host.Context.Enter())
        {
            if (_stopped is { } stopping)
            {
                return stopping;
            }

            _stopped = stopped.Task;
        }

        _ = RunAsync(stopped); // reports by the completion source alone
        return stopped.Task;
    }

    public void End()
    {
        StopAsync().GetAwaiter().GetResult();
        using (Session.Host.Context.Enter())
        {
            Session.Store.Regions.RemoveLocked(this);
            LetGoLocked();
            Program.Ledger.Give(account);
            Session.Store.Programs.ForgetLocked(Program);
        }
    }

    private protected abstract Task StopNowAsync();

    private protected virtual void LetGoLocked()
    {
    }

    private async Task RunAsync(TaskCompletionSource stopped)
    {
        try
        {
            await StopNowAsync().ConfigureAwait(false);
            stopped.SetResult();
        }
        catch (Exception e)
        {
            stopped.SetException(e);
        }
    }
}

/// <summary>
/// A buffer that a program has registered: it keeps the buffer, and its number keeps the key, which dies when the
/// buffer is taken back.
/// </summary>
internal sealed class BrokerRegion : BrokerNicUse
{
    private BrokerRegion(BrokerSession session, BrokerBuffer buffer, NicHandle nic, MemoryRegion region)
        : base(session, nic, BrokerAccount.Keys) => (Buffer, Region) = (buffer, region);

    public BrokerBuffer Buffer { get; }

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
            using (session.Host.Context.Enter())
            {
                session.Store.Buffers.DropLocked(buffer);
                session.Program.Ledger.Give(BrokerAccount.Keys);
            }

            throw;
        }
    }

    // The key is dead afterwards, and its number free; nobody is inside the memory.
    private protected override Task StopNowAsync() => Nic.DeregisterAsync(Region);

    private protected override void LetGoLocked() => Session.Store.Buffers.DropLocked(Buffer);
}

/// <summary>
/// All that programs have of RDMA NICs. Members with Locked in their name are called with the host lock held.
/// </summary>
internal sealed class BrokerRegions(HostContext context)
{
    private readonly List<BrokerNicUse> _uses = []; // host lock

    public IReadOnlyList<BrokerNicUse> AllLocked => _uses;

    public void AddLocked(BrokerNicUse use) => _uses.Add(use);

    public void RemoveLocked(BrokerNicUse use) => _uses.Remove(use);

    /// <summary>A NIC leaves: the newest first, so that queue pairs go before what they reach.</summary>
    public async Task StopAllAsync(NicHandle nic)
    {
        BrokerNicUse[] uses;
        using (context.Enter())
        {
            uses = [.. _uses.Where(u => ReferenceEquals(u.Nic, nic)).Reverse()];
        }

        foreach (BrokerNicUse use in uses)
        {
            await use.StopAsync().ConfigureAwait(false);
        }
    }
}
