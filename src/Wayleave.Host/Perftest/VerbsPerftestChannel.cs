using System.Net;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Connections;

namespace Wayleave.Host.Perftest;

/// <summary>
/// perftest's exchange with <c>-R</c>: every item is one SEND over a queue pair that the connection manager has made.
/// </summary>
internal sealed class VerbsPerftestChannel : IPerftestChannel
{
    private const int Receives = 16;
    private const int SlotBytes = PerftestKeys.BinaryBytesMax;
    private const ulong SendId = ulong.MaxValue;

    // A repetition of what the connection manager says, and its answer. A client that asks and is killed then is not
    // waited for.
    private static readonly TimeSpan s_acceptMax = TimeSpan.FromSeconds(8);

    // What the peer of another version may send in place of an item must not end the queue pair.
    private const int ReceiveBytes = 2 * SlotBytes;

    private readonly NicHandle _nic;
    private readonly PerftestMemory _memory;
    private readonly PeerWait _completions;
    private readonly QueuePair _pair;
    private readonly Queue<(ulong Slot, int LengthBytes)> _received = [];
    private RdmaConnection? _connection;

    private VerbsPerftestChannel(NicHandle nic, PerftestMemory memory)
    {
        (_nic, _memory) = (nic, memory);
        CompletionWait completions = new(nic, 2 * Receives);
        _pair = nic.CreateQueuePair(
            memory.Region.Domain,
            completions.Queue,
            new QueuePairCapabilities { MaxSendWr = 4, MaxReceiveWr = Receives });
        _completions = new PeerWait(completions, _pair);
    }

    public bool IsText => false;

    /// <summary>The peer's address, as its requests to connect came from.</summary>
    public RdmaConnection Connection => _connection!;

    private static CmParameters Parameters { get; } = new() { ResponderResources = 0, InitiatorDepth = 0 };

    /// <summary>Waits for one client, for ever, and then for its word, a few seconds.</summary>
    public static async Task<VerbsPerftestChannel> AcceptAsync(
        WayleaveHost host, NicHandle nic, RdmaListener listener, CancellationToken cancellation)
    {
        VerbsPerftestChannel channel = await OpenAsync(host, nic).ConfigureAwait(false);
        RdmaConnectionRequest request = await listener.AcceptAsync(cancellation).ConfigureAwait(false);
        await channel.MeetAsync(
            $"accept a connection of {request.RemoteGid}",
            server: null,
            over => request.AcceptAsync(channel._pair, Parameters, over),
            s_acceptMax,
            cancellation).ConfigureAwait(false);
        return channel;
    }

    /// <summary>Connects to a server.</summary>
    public static async Task<VerbsPerftestChannel> ConnectAsync(
        WayleaveHost host, NicHandle nic, IPEndPoint server, TimeSpan patience, CancellationToken cancellation)
    {
        VerbsPerftestChannel channel = await OpenAsync(host, nic).ConfigureAwait(false);
        await channel.MeetAsync(
            $"connect to {server}",
            server.Address,
            over => nic.Connections.ConnectAsync(server, channel._pair, Parameters, over),
            patience,
            cancellation).ConfigureAwait(false);
        return channel;
    }

    public async Task SendAsync(ReadOnlyMemory<byte> item, CancellationToken cancellation)
    {
        item.Span.CopyTo(_memory.Bytes(0, item.Length));
        SendWorkRequest request = new()
        {
            WrId = SendId,
            Opcode = WorkRequestOpcode.Send,
            Flags = SendFlags.Signaled,
        };
        _pair.PostSend(request, _memory.Part(0, item.Length)).ThrowIfFailed("post an item of perftest");
        while (!Note(await NextAsync(cancellation).ConfigureAwait(false)))
        {
        }
    }

    public async Task<int> ReceiveAsync(Memory<byte> item, CancellationToken cancellation)
    {
        while (_received.Count == 0)
        {
            if (await _completions.NextAsync(Connection.Ended, cancellation).ConfigureAwait(false) is not { } next
                || next.Status == WorkCompletionStatus.WorkRequestFlushed)
            {
                return 0;
            }

            Note(next);
        }

        (ulong slot, int length) = _received.Dequeue();
        int taken = Math.Min(length, item.Length);
        _memory.Bytes(OffsetOf(slot), taken).CopyTo(item.Span);
        PostReceive(slot);
        return length <= item.Length ? length : throw new WayleaveException(
            Errno.EPROTO, "perftest", $"the peer sent {length} bytes where at most {item.Length} belong");
    }

    public async Task WatchAsync(CancellationToken cancellation)
    {
        while (await _completions.NextAsync(Connection.Ended, cancellation).ConfigureAwait(false)
            is { Status: WorkCompletionStatus.Success } next)
        {
            Note(next);
        }
    }

    public void Abandon() => _connection?.Abandon();

    public async ValueTask DisposeAsync()
    {
        if (_connection is not null)
        {
            await _connection.DisposeAsync().ConfigureAwait(false);
        }

        _nic.Destroy(_pair);
        await _memory.CloseAsync().ConfigureAwait(false);
    }

    private static async Task<VerbsPerftestChannel> OpenAsync(WayleaveHost host, NicHandle nic)
    {
        PerftestMemory memory = await PerftestMemory.OpenAsync(
            host,
            nic,
            "perftest-control",
            SlotBytes + Receives * ReceiveBytes,
            AccessFlags.LocalWrite,
            nic.Device.CreateProtectionDomain()).ConfigureAwait(false);
        return new VerbsPerftestChannel(nic, memory);
    }

    private static long OffsetOf(ulong slot) => SlotBytes + (long)slot * ReceiveBytes;

    // The connection manager alone asks for more than a minute, as the kernel's does.
    private async Task MeetAsync(
        string operation,
        IPAddress? server,
        Func<CancellationToken, Task<RdmaConnection>> meet,
        TimeSpan patience,
        CancellationToken cancellation)
    {
        Prepare();
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(patience);
        try
        {
            _connection = await meet(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!cancellation.IsCancellationRequested)
        {
            string? why = server is null
                ? null
                : await _nic.Connections.WhySilentAsync(server, cancellation).ConfigureAwait(false);
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                operation,
                $"the peer does not answer for {patience.TotalSeconds:0.#} s{(why is null ? "" : $", and {why}")}",
                "is it there, with -R, and does UDP port 4791 reach it?",
                e);
        }
    }

    private void Prepare()
    {
        _nic.Connections.Prepare(_pair, Parameters);
        for (ulong slot = 0; slot < Receives; slot++)
        {
            PostReceive(slot);
        }
    }

    private void PostReceive(ulong slot) =>
        _pair.PostReceive(new ReceiveWorkRequest(slot), _memory.Part(OffsetOf(slot), ReceiveBytes))
            .ThrowIfFailed($"post a receive on {_pair.Name}");

    private async Task<WorkCompletion> NextAsync(CancellationToken cancellation) =>
        await _completions.NextAsync(ended: null, cancellation).ConfigureAwait(false)
        ?? throw new InvalidOperationException("a wait without an end has ended");

    // Whether it was a send.
    private bool Note(in WorkCompletion completion)
    {
        if (completion.Status != WorkCompletionStatus.Success)
        {
            throw new WayleaveException(
                Errno.ECONNRESET,
                "perftest",
                completion.Status == WorkCompletionStatus.RetryExceeded
                    ? "the peer has gone: it does not answer any more"
                    : $"the exchange with the peer has ended: {completion.Status}");
        }

        if (completion.WrId == SendId)
        {
            return true;
        }

        _received.Enqueue((completion.WrId, (int)completion.ByteLength));
        return false;
    }
}
