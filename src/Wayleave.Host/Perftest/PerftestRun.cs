using System.Net;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Connections;

namespace Wayleave.Host.Perftest;

// One side of ib_write_bw and its kin. The order of what is exchanged is that of the mains of perftest:
//
//   greet; [-R: barrier, connections, barrier]; [latency but send: barrier]; keys; [connect]; [send: barrier]; keys;
//   [others: barrier]; the run; the end
//
//   write, read, atomic bandwidth   one direction: the server waits for the barrier, both swap reports, barrier
//                                   both: before each size a barrier, after it (all sizes: a barrier and) reports
//   send bandwidth                  before each size a barrier; both directions: reports; all sizes: a barrier
//   send latency                    before each size a barrier; barrier
//   read, atomic latency            the server waits for the barrier
//   write latency                   (some versions: barrier)
//
// The caller's task does the exchange; the run itself spins on a thread of its own, which drives the port.

/// <summary>One side of a tool of perftest.</summary>
public sealed class PerftestRun
{
    private const int ConnectAttempts = 20;

    private static readonly TimeSpan s_connectPause = TimeSpan.FromMilliseconds(100);

    private readonly WayleaveHost _host;
    private readonly NicHandle _nic;
    private readonly PerftestOptions _options;
    private readonly PerftestExchange _exchange;
    private readonly IPerftestChannel _channel;
    private readonly RdmaListener? _listener;
    private readonly List<RdmaConnection> _connections = [];
    private readonly List<PerftestReport> _reports = [];
    private readonly List<PerftestReport> _peerReports = [];
    private readonly List<PerftestTimes> _times = [];
    private PerftestEnd _end = null!; // from RunAsync on
    private long _additions;

    private PerftestRun(
        WayleaveHost host, PerftestOptions options, IPerftestChannel channel, RdmaListener? listener)
    {
        (_host, _nic, _options, _channel, _listener) = (host, host.Nics[0], options, channel, listener);
        _exchange = new PerftestExchange(channel, options);
    }

    private bool IsPassive => !_options.IsClient
        && _options is { IsBidirectional: false, Verb: not PerftestVerb.Send }
        && !(_options.IsLatency && _options.Verb == PerftestVerb.Write);

    /// <summary>Device memory that a run needs, in whole granules.</summary>
    public static long MemoryBytes(PerftestOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        long piece = Math.Max(options.LargestBytes, PerftestExchange.BlockBytesMax) + 4096L; // and a header
        return RoundUp(2 * options.QueuePairs * piece) + 16 * Configuration.GpuConfig.GranuleBytes;

        static long RoundUp(long bytes) => (bytes + Configuration.GpuConfig.GranuleBytes - 1)
            / Configuration.GpuConfig.GranuleBytes * Configuration.GpuConfig.GranuleBytes;
    }

    /// <summary>Waits for a client, or connects to a server, and does what the tool of that name does.</summary>
    /// <param name="host">Whose first GPU has the memory, and whose first NIC sends.</param>
    /// <param name="options">Valid.</param>
    /// <param name="listening">Called when a client may come.</param>
    /// <param name="cancellation">Ends the run; the peer sees it end.</param>
    /// <exception cref="WayleaveException">
    /// EPROTO: the peer says what is not known here; ETIMEDOUT: it is silent; ECONNRESET: it has
    /// ended; EIO: a request failed, or bytes are wrong.
    /// </exception>
    public static async Task<PerftestResult> RunAsync(
        WayleaveHost host, PerftestOptions options, Action listening, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(listening);
        options.Validate();
        NicHandle nic = host.Nics[0];
        using RdmaListener? listener = options is { UsesConnectionManager: true, IsClient: false }
            ? nic.Connections.Listen((ushort)options.Port, Math.Max(2, options.QueuePairs))
            : null;
        IPerftestChannel channel;
        IPAddress own = AddressOf(nic);
        if (listener is not null)
        {
            listening();
            channel = await VerbsPerftestChannel.AcceptAsync(host, nic, listener, cancellation).ConfigureAwait(false);
        }
        else if (options.Server is null)
        {
            channel = await TcpPerftestChannel.AcceptAsync(
                new IPEndPoint(own, options.Port), listening, options.ConnectPatience, cancellation)
                .ConfigureAwait(false);
        }
        else
        {
            IPEndPoint server = new(options.Server, options.Port);
            channel = options.UsesConnectionManager
                ? await VerbsPerftestChannel
                    .ConnectAsync(host, nic, server, options.ConnectPatience, cancellation).ConfigureAwait(false)
                : await TcpPerftestChannel
                    .ConnectAsync(own, server, options.ConnectPatience, cancellation).ConfigureAwait(false);
        }

        await using (channel.ConfigureAwait(false))
        {
            return await new PerftestRun(host, options, channel, listener).RunAsync(cancellation)
                .ConfigureAwait(false);
        }
    }

    internal static IPAddress AddressOf(NicHandle nic)
    {
        Span<byte> bytes = stackalloc byte[Gid.Size];
        nic.Gid.WriteTo(bytes);
        return nic.Gid.IsIPv4 ? new IPAddress(bytes[12..]) : new IPAddress(bytes);
    }

    private async Task<PerftestResult> RunAsync(CancellationToken cancellation)
    {
        PathMtu mtu = await _exchange.GreetAsync(_nic.PathMtu, cancellation).ConfigureAwait(false);
        if (_options.IsDatagram && _options.SizeBytes > 128 << (int)mtu)
        {
            throw new WayleaveException(
                Errno.EMSGSIZE,
                "perftest",
                $"a datagram of {_options.SizeBytes} bytes does not fit the MTU of both sides, {128 << (int)mtu}",
                "give both a smaller --size");
        }

        PerftestEnd end = await PerftestEnd.OpenAsync(_host, _nic, _options, _exchange.BlockBytes)
            .ConfigureAwait(false);
        await using (end.ConfigureAwait(false))
        {
            _end = end;
            _exchange.Progress = end.ReadProgress;
            try
            {
                await ConnectAsync(mtu, cancellation).ConfigureAwait(false);
                await (_options.IsLatency ? MeasureLatencyAsync(cancellation)
                    : _options.Verb == PerftestVerb.Send ? MeasureSendAsync(cancellation)
                    : MeasureOneSidedAsync(cancellation)).ConfigureAwait(false);
                return Conclude(mtu);
            }
            catch (WayleaveException e) when (e.Errno is Errno.ECONNRESET or Errno.ETIMEDOUT)
            {
                _channel.Abandon();
                _connections.ForEach(c => c.Abandon());
                throw;
            }
            finally
            {
                await Task.WhenAll(_connections.Select(c => c.DisposeAsync().AsTask())).ConfigureAwait(false);
            }
        }
    }

    private PerftestResult Conclude(PathMtu mtu)
    {
        if (!_options.IsReliable)
        {
            _end.Drain();
        }

        bool isAtomic = _options.Verb == PerftestVerb.Atomic;
        bool brings = _options.Verb switch
        {
            PerftestVerb.Atomic => false,
            PerftestVerb.Read => !IsPassive,
            PerftestVerb.Write => !_options.IsClient || _options.IsBidirectional || _options.IsLatency,
            _ => !_options.IsClient || _options.IsBidirectional || _options.IsLatency,
        };

        // The last byte of a WRITE that measures latency is a number, and looked at already.
        int length = _options.LargestBytes - (_options is { IsLatency: true, Verb: PerftestVerb.Write } ? 1 : 0);
        string? sha256 = null;
        bool isSender = _options.Verb switch
        {
            PerftestVerb.Atomic => false,
            PerftestVerb.Read => IsPassive || _options.IsBidirectional,
            PerftestVerb.Write => !IsPassive,
            _ => _options.IsClient || _options.IsBidirectional || _options.IsLatency,
        };
        PerftestBytes bytes = brings && length > 0 ? _end.CheckReceived(length, out sha256) : PerftestBytes.None;
        return new PerftestResult
        {
            PeerVersion = _exchange.PeerVersion,
            MtuBytes = 128 << (int)mtu,
            Reports = _reports,
            PeerReports = _peerReports,
            Times = _times,
            Bytes = bytes,
            ReceivedSha256 = sha256,
            SentSha256 = isSender ? _end.HashSent(length) : null,
            Additions = !isAtomic || _options.ComparesAndSwaps ? null
                : IsPassive || _options.IsBidirectional ? _end.CountAdditions() : _additions,
        };
    }

    private async Task ConnectAsync(PathMtu mtu, CancellationToken cancellation)
    {
        if (_options.UsesConnectionManager)
        {
            await BarrierAsync(cancellation).ConfigureAwait(false);
            for (int i = 0; i < _end.Pairs.Length; i++)
            {
                int index = i;
                _connections.Add(await WhileThereAsync(
                    over => _listener is null ? ConnectOneAsync(index, over) : AcceptOneAsync(index, over),
                    cancellation).ConfigureAwait(false));
            }

            await BarrierAsync(cancellation).ConfigureAwait(false);
        }

        _end.FillMemory();
        bool isSend = _options.Verb == PerftestVerb.Send;
        if (_options.IsLatency && !isSend)
        {
            await BarrierAsync(cancellation).ConfigureAwait(false);
        }

        for (int i = 0; i < _end.Pairs.Length; i++)
        {
            _end.PeerKeys[i] = await _exchange.SwapAsync(_end.Keys[i], cancellation).ConfigureAwait(false);
        }

        if (!_options.UsesConnectionManager)
        {
            _end.Connect(mtu);
        }

        if (isSend)
        {
            await BarrierAsync(cancellation).ConfigureAwait(false);
        }

        for (int i = 0; i < _end.Pairs.Length; i++)
        {
            await _exchange.SwapAsync(_end.Keys[i], cancellation).ConfigureAwait(false);
        }

        if (!isSend)
        {
            await BarrierAsync(cancellation).ConfigureAwait(false);
        }
    }

    // perftest's server closes its listener after the first connection and opens one more: it may not be there yet.
    private async Task<RdmaConnection> ConnectOneAsync(int index, CancellationToken cancellation)
    {
        IPEndPoint server = new(_options.Server!, _options.Port);
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                return await _nic.Connections
                    .ConnectAsync(server, _end.Pairs[index], _end.Parameters, cancellation).ConfigureAwait(false);
            }
            catch (WayleaveException e) when (e.Errno == Errno.ECONNREFUSED && attempt < ConnectAttempts)
            {
                await Task.Delay(s_connectPause, cancellation).ConfigureAwait(false);
                _end.Renew(index);
            }
        }
    }

    private async Task<RdmaConnection> AcceptOneAsync(int index, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(_options.Patience);
        try
        {
            RdmaConnectionRequest request = await _listener!.AcceptAsync(limit.Token).ConfigureAwait(false);
            return await request.AcceptAsync(_end.Pairs[index], _end.Parameters, limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                "perftest",
                $"the peer has made {index} of {_end.Pairs.Length} connections",
                $"is it {_options.ToolName}, with the same options as here?");
        }
    }

    private async Task MeasureOneSidedAsync(CancellationToken cancellation)
    {
        PerftestReport own = default;
        if (IsPassive)
        {
            await AwaitEndAsync(mayBeMissing: false, cancellation).ConfigureAwait(false);
            _reports.Add(await _exchange.SwapAsync(own, cancellation).ConfigureAwait(false));
            await AwaitEndAsync(mayBeMissing: true, cancellation).ConfigureAwait(false);
            return;
        }

        PerftestTraffic traffic = new(_end, _options);
        foreach (int size in _options.Sizes)
        {
            if (_options.IsBidirectional)
            {
                await BarrierAsync(cancellation).ConfigureAwait(false);
            }

            own = await SpinAsync(
                _ => traffic.Run(size, sends: true, receives: false, endOfPeer: null, cancellation), cancellation)
                .ConfigureAwait(false);
            _reports.Add(own);
            if (_options is { IsBidirectional: true, AllSizes: true })
            {
                await AwaitEndAsync(mayBeMissing: false, cancellation).ConfigureAwait(false);
            }

            if (_options.IsBidirectional)
            {
                await SwapReportsAsync(own, cancellation).ConfigureAwait(false);
            }
        }

        _additions = traffic.Additions;
        if (!_options.IsBidirectional)
        {
            await BarrierAsync(cancellation).ConfigureAwait(false);
            await _exchange.SwapAsync(own, cancellation).ConfigureAwait(false);
        }

        await AwaitEndAsync(mayBeMissing: true, cancellation).ConfigureAwait(false);
    }

    private async Task MeasureSendAsync(CancellationToken cancellation)
    {
        bool sends = _options.IsClient || _options.IsBidirectional;
        bool receives = !_options.IsClient || _options.IsBidirectional;
        bool isTimed = _options.Duration > TimeSpan.Zero;
        bool endsWithPeer = receives && (isTimed || !_options.IsReliable);
        PerftestTraffic traffic = new(_end, _options);
        foreach (int size in _options.Sizes)
        {
            if (receives)
            {
                traffic.PostReceives(size);
            }

            await BarrierAsync(cancellation).ConfigureAwait(false);
            PerftestReport own = await SpinAsync(
                endWatch => traffic.Run(
                    size, sends, receives, endsWithPeer ? () => AwaitEndOfPeerAsync(endWatch) : null, cancellation),
                cancellation).ConfigureAwait(false);
            _reports.Add(own);
            if (_options.IsBidirectional && !isTimed)
            {
                await SwapReportsAsync(own, cancellation).ConfigureAwait(false);
            }

            if (_options.AllSizes)
            {
                await AwaitEndAsync(mayBeMissing: false, cancellation).ConfigureAwait(false);
            }
        }

        if (!endsWithPeer)
        {
            await AwaitEndAsync(mayBeMissing: true, cancellation).ConfigureAwait(false);
        }

        async Task AwaitEndOfPeerAsync(Func<Task> endWatch)
        {
            await endWatch().ConfigureAwait(false);
            await AwaitEndAsync(mayBeMissing: false, cancellation).ConfigureAwait(false);
        }
    }

    private async Task MeasureLatencyAsync(CancellationToken cancellation)
    {
        PerftestLatency latency = new(_end, _options);
        foreach (int size in IsPassive ? [] : _options.Sizes)
        {
            if (_options.Verb == PerftestVerb.Send)
            {
                latency.PostReceives(size);
                await BarrierAsync(cancellation).ConfigureAwait(false);
            }

            _times.Add(await SpinAsync(_ => latency.Run(size, cancellation), cancellation).ConfigureAwait(false));
            _reports.Add(new PerftestReport(size, _options.Iterations, 0, 0, 0));
        }

        _additions = latency.Additions;
        await AwaitEndAsync(mayBeMissing: !IsPassive, cancellation).ConfigureAwait(false);
    }

    private async Task SwapReportsAsync(PerftestReport own, CancellationToken cancellation) =>
        _peerReports.Add(await _exchange.SwapAsync(own, cancellation).ConfigureAwait(false));

    private Task<PerftestKeys> BarrierAsync(CancellationToken cancellation) =>
        _exchange.SwapAsync(_end.Keys[0], cancellation);

    private Task AwaitEndAsync(bool mayBeMissing, CancellationToken cancellation) =>
        _exchange.AwaitEndAsync(_end.Keys[0], mayBeMissing, cancellation);

    // On a thread of its own. The exchange is watched meanwhile, for a side that only receives would wait for ever;
    // until the run ends, or asks for the end of the watch because it has to do with the exchange itself.
    private async Task<T> SpinAsync<T>(Func<Func<Task>, T> run, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task watch = WatchAsync(over.Token);
        try
        {
            return await Task.Factory.StartNew(
                () => run(EndWatchAsync), CancellationToken.None, TaskCreationOptions.LongRunning,
                TaskScheduler.Default).ConfigureAwait(false);
        }
        finally
        {
            await EndWatchAsync().ConfigureAwait(false);
        }

        async Task EndWatchAsync()
        {
            await over.CancelAsync().ConfigureAwait(false);
            await watch.ConfigureAwait(false);
        }
    }

    // What waits for something else than the exchange, and ends with the peer.
    private async Task<T> WhileThereAsync<T>(
        Func<CancellationToken, Task<T>> run, CancellationToken cancellation)
    {
        using CancellationTokenSource over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task watch = WatchAsync(over.Token);
        Task<T> running = run(over.Token);
        await Task.WhenAny(running, watch).ConfigureAwait(false);
        await over.CancelAsync().ConfigureAwait(false);
        await watch.ConfigureAwait(false);
        try
        {
            return await running.ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new WayleaveException(Errno.ECONNRESET, "perftest", "the peer has ended before the run has");
        }
    }

    private async Task WatchAsync(CancellationToken over)
    {
        try
        {
            await _channel.WatchAsync(over).ConfigureAwait(false);
            _end.NotePeerGone();
        }
        catch (OperationCanceledException) when (over.IsCancellationRequested)
        {
            // The peer was there to the end of the watch.
        }
    }
}
