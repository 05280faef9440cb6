using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Connections;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Broker;

// Posts and completions are the connection's thread's. The NIC's port runs on whatever thread drives it; what that does
// for a program that nobody listens for any more ends with the destruction of the queue pair, before anything that its
// requests touch is let go of.

/// <summary>
/// A queue pair that a program has. Peers reach by it what the program has registered; it reaches by it what they have.
/// </summary>
internal sealed class BrokerQueuePair : BrokerNicUse
{
    /// <summary>Requests of either queue; a full one refuses.</summary>
    public const int Depth = 64;

    /// <summary>Pieces of memory of a request.</summary>
    public const int PiecesMax = 4;

    private readonly QueuePair _pair;
    private readonly CompletionWait _completions;
    private readonly uint _psn;

    private BrokerQueuePair(BrokerSession session, NicHandle nic, QueuePair pair, CompletionWait completions)
        : base(session, nic, BrokerAccount.QueuePairs)
    {
        (_pair, _completions) = (pair, completions);
        _psn = nic.ChoosePsn();
    }

    /// <summary>Our end, for the peer.</summary>
    public ConnectionEnd Local => Nic.DescribeEnd(_pair, _psn);

    /// <summary>
    /// Requests that have not completed, and completions that its program has not taken. Any thread, a moment old.
    /// </summary>
    public int UnderWay => _pair.UncompletedSends + _completions.Queue.Count;

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
            // Slots are free again when their completions are taken, so that there is room for all of them.
            CompletionWait completions = new(nic, 2 * Depth);
            QueuePairCapabilities capabilities = new()
            {
                MaxSendWr = Depth,
                MaxReceiveWr = Depth,
                MaxSendSge = PiecesMax,
                MaxReceiveSge = PiecesMax,
                MaxInlineData = 0,
            };
            QueuePair pair = nic.CreateQueuePair(domain, completions.Queue, capabilities);
            BrokerQueuePair made = new(session, nic, pair, completions);
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
                session.Program.Ledger.Give(BrokerAccount.QueuePairs);
            }

            throw;
        }
    }

    /// <summary>Takes it to ready-to-send; the rights of its keys decide what the peer may do.</summary>
    /// <exception cref="WayleaveException">EINVAL: the peer's numbers make no sense, or it is connected.</exception>
    public void Connect(ConnectionEnd peer)
    {
        using IDisposable use = Nic.Presence.Use("connect a queue pair");
        Nic.Connect(_pair, peer, AccessFlags.RemoteRead | AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic, _psn);
    }

    /// <summary>Queues a request; its memory, and that of its pieces, is checked as it is executed.</summary>
    /// <exception cref="WayleaveException">
    /// EINVAL: it is not connected, or more than 2 GiB. ENOMEM: the queue is full.
    /// </exception>
    public void Post(in SendWorkRequest request, ReadOnlySpan<Sge> pieces)
    {
        const string Operation = "post a request";
        using IDisposable use = Nic.Presence.Use(Operation);
        ThrowIfFailed(_pair.PostSend(request, pieces), Operation);
        Nic.Driver.ProgressAfterPost();
    }

    /// <summary>
    /// Queues a receive. A message that comes before it is tried again by its sender for as long as it takes (RNR).
    /// </summary>
    /// <exception cref="WayleaveException">EINVAL: it is not connected. ENOMEM: the queue is full.</exception>
    public void PostReceive(ulong id, ReadOnlySpan<Sge> pieces)
    {
        const string Operation = "post a receive";
        using IDisposable use = Nic.Presence.Use(Operation);
        ThrowIfFailed(_pair.PostReceive(new ReceiveWorkRequest(id), pieces), Operation);
        Nic.Driver.ProgressAfterPost();
    }

    /// <summary>Takes completions, and waits for the first of them.</summary>
    /// <param name="completions">Room for at least one.</param>
    /// <param name="wait">At most; not longer than the host runs.</param>
    /// <returns>How many; 0 when none has come.</returns>
    public int Take(Span<WorkCompletion> completions, TimeSpan wait)
    {
        Nic.Driver.TryProgress();
        int taken = _completions.Queue.Poll(completions);
        if (taken > 0 || wait <= TimeSpan.Zero)
        {
            return taken;
        }

        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(
            Session.Store.Stopping.Token);
        over.CancelAfter(wait);
        try
        {
            completions[0] = _completions.NextAsync(null, over.Token).AsTask().GetAwaiter().GetResult()!.Value;
        }
        catch (OperationCanceledException)
        {
            return 0;
        }

        return 1 + _completions.Queue.Poll(completions[1..]);
    }

    private protected override Task StopNowAsync()
    {
        Nic.Destroy(_pair);
        return Task.CompletedTask;
    }

    private static void ThrowIfFailed(Errno errno, string operation)
    {
        if (errno != Errno.Success)
        {
            throw new WayleaveException(errno, operation, errno switch
            {
                Errno.ENOMEM => $"{Depth} requests are in the queue: take their completions",
                Errno.EINVAL => "the queue pair is not connected, or the request is too long",
                _ => ErrnoMap.Describe(errno),
            });
        }
    }
}
