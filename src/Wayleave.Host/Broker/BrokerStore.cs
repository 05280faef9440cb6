using Wayleave.Core;

namespace Wayleave.Host.Broker;

/// <summary>
/// What programs have of a host, by kind: who they are, the descriptors that stand for something, memory, mappings,
/// fences, copies, keys. Members take the host lock themselves and hold nothing while they ask the kernel.
/// </summary>
internal sealed class BrokerStore
{
    private int _endsFailed;
    private int _ringCopies;
    private volatile bool _isDraining;

    public BrokerStore(WayleaveHost host, BrokerLimits limits)
    {
        Context = host.Context;
        Programs = new BrokerPrograms(Context, limits);
        Handles = new BrokerHandles(Context, Programs);
        Importers = new BrokerImporters(Context);
        Mappings = new BrokerMappings(Context, Programs, Importers);
        Buffers = new BrokerBuffers(Context, Programs, Handles, Mappings, Importers);
        Syncs = new BrokerSyncs(Context, Handles);
        Regions = new BrokerRegions(Context);
        Copies = new BrokerCopies(Context, Buffers, Programs);
    }

    public HostContext Context { get; }

    /// <summary>The broker ends: nobody waits any longer.</summary>
    public CancellationTokenSource Stopping { get; } = new();

    /// <summary>For who connects and says nothing; who has said hello may be silent for as long as it likes.</summary>
    internal TimeSpan GreetingMax { get; set; } = TimeSpan.FromSeconds(10);

    /// <summary>The host is asked to stop: nothing new is begun, and what was begun goes on.</summary>
    public bool IsDraining => _isDraining;

    /// <summary>
    /// What programs have begun and do not know the end of: jobs and copies of engines that have not ended, requests of
    /// queue pairs that have not completed or whose completions were not taken.
    /// </summary>
    public long Running
    {
        get
        {
            using (Context.Enter())
            {
                return Volatile.Read(ref _ringCopies) + Programs.AllLocked.Sum(p => p.Ledger[BrokerAccount.Jobs])
                    + Regions.AllLocked.OfType<BrokerQueuePair>().Sum(p => p.UnderWay);
            }
        }
    }

    /// <summary>What could not be ended with its connection since the host started: each is a bug of ours.</summary>
    public int EndsFailed => Volatile.Read(ref _endsFailed);

    /// <summary>Called before something is ended with its connection: for the test of one that cannot be.</summary>
    internal Action<object>? Ending { get; set; }

    /// <summary>
    /// Off, keys, queue pairs, rings and timelines of a connection outlive it: for the test that must notice.
    /// </summary>
    internal bool EndsUses { get; set; } = true;

    public BrokerPrograms Programs { get; }

    public BrokerHandles Handles { get; }

    public BrokerImporters Importers { get; }

    public BrokerMappings Mappings { get; }

    public BrokerBuffers Buffers { get; }

    public BrokerSyncs Syncs { get; }

    public BrokerCopies Copies { get; }

    public BrokerRegions Regions { get; }

    /// <summary>From now on new work is refused.</summary>
    public void BeginDrain() => _isDraining = true;

    /// <exception cref="WayleaveException">ESHUTDOWN.</exception>
    public void ThrowIfDraining(string operation)
    {
        if (_isDraining)
        {
            throw new WayleaveException(
                Errno.ESHUTDOWN,
                operation,
                "the host is stopping and finishes what was begun",
                "try another host, or this one when it is back");
        }
    }

    /// <summary>A copy of a ring is submitted, or has ended: 1, or -1. Jobs of rings are on an account.</summary>
    public void CountRingCopy(int change) => Interlocked.Add(ref _ringCopies, change);

    public void HandleEndFailed(string what)
    {
        Interlocked.Increment(ref _endsFailed);
        Context.Trace("broker.end_failed", what);
    }

    /// <summary>The kernel says something of what was watched.</summary>
    public void HandleEvent(ulong key)
    {
        if (BrokerPrograms.IsProcess(key))
        {
            Array.ForEach(Programs.FindDead(key), HandleDeath);
        }
        else
        {
            Handles.HandleHangup(key);
        }
    }

    /// <summary>The kernel says that a process has ended: whoever has its sockets by now is somebody else.</summary>
    private void HandleDeath(BrokerProgram program)
    {
        BrokerBuffer[] touched;
        using (Context.Enter())
        {
            program.IsDead = true;
            touched = [.. Buffers.AllLocked.Where(b => b.Mappings.Exists(m => ReferenceEquals(m.Program, program)))];
            Context.Trace("broker.death", program.Holder, touched.Length);
            if (program.Connections.Count > 0)
            {
                Context.Defer(program.Died.Cancel);
            }

            foreach (Action died in program.Connections.Values)
            {
                Context.Defer(died);
            }

            Programs.ForgetLocked(program);
        }

        foreach (BrokerBuffer buffer in touched)
        {
            Mappings.Settle(buffer);
        }
    }

    /// <summary>Asks again about mappings whose end is not proven.</summary>
    /// <returns>Whether there are some left.</returns>
    public bool SettleAll()
    {
        BrokerBuffer[] pending;
        using (Context.Enter())
        {
            pending = [.. Buffers.AllLocked.Where(b => b.Mappings.Exists(m => m.IsPending))];
        }

        bool isLeft = false;
        foreach (BrokerBuffer buffer in pending)
        {
            isLeft |= !Mappings.Settle(buffer);
        }

        return isLeft;
    }
}
