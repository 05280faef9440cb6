using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Connections;

namespace Wayleave.Host.Perftest;

// rdma-core:libibverbs/examples/rc_pingpong.c is the protocol. Over TCP, each item in one piece:
//
//   client                                  server
//   "LLLL:QQQQQQ:PPPPPP:gid", 52 bytes  --> connects its queue pair
//                                       <-- the same of its own
//   "done", 5 bytes                     -->
//
// Then messages of one size, by SEND: the client begins, and each side answers what it gets, so often. The tool
// receives into the buffer that it sends from, so what it sends is what it got last: a client can tell whether its
// bytes went to the peer and back.

/// <summary>One side of <c>ibv_rc_pingpong</c>.</summary>
public sealed class RcPingpong
{
    /// <summary>The tool's own path MTU, unless it is told otherwise; both sides have the same.</summary>
    public const int DefaultMtuBytes = 1024;

    /// <summary>Messages of each side, unless told otherwise.</summary>
    public const int DefaultIterations = 1000;

    /// <summary>Bytes of a message, unless told otherwise.</summary>
    public const int DefaultSizeBytes = 4096;

    /// <summary>
    /// How long a peer is waited for, unless told otherwise. The tool closes its socket before it plays, and lets
    /// nobody WRITE: one that is killed between two messages is known by its silence only.
    /// </summary>
    public static readonly TimeSpan DefaultPatience = TimeSpan.FromSeconds(8);

    /// <summary>The largest message here.</summary>
    public const int SizeMax = 1 << 20;

    private const int EndBytes = 52;
    private const int Receives = 64;
    private const int RnrTimerCode = 12; // 0.64 ms
    private const ulong SendId = ulong.MaxValue;

    private static readonly byte[] s_done = "done\0"u8.ToArray();

    private readonly NicHandle _nic;
    private readonly PerftestMemory _memory;
    private readonly PerftestOptions _options;
    private readonly CompletionWait _completions;
    private readonly QueuePair _pair;

    // Completions to wait for; below zero when one came before it was waited for: the next message may be here before
    // the last answer is known to be there.
    private int _sendsDue;
    private int _receivesDue;

    private RcPingpong(NicHandle nic, PerftestMemory memory, PerftestOptions options)
    {
        (_nic, _memory, _options) = (nic, memory, options);
        _completions = new CompletionWait(nic, 2 * Receives);
        _pair = nic.CreateQueuePair(
            memory.Region.Domain,
            _completions.Queue,
            new QueuePairCapabilities { MaxSendWr = 4, MaxReceiveWr = Receives });
    }

    /// <summary>Device memory that a run needs, in whole granules.</summary>
    public static long MemoryBytes => 64 * Configuration.GpuConfig.GranuleBytes;

    /// <summary>Waits for a client, or connects to a server, and plays.</summary>
    /// <param name="host">Whose first GPU has the memory, and whose first NIC sends, with its path MTU.</param>
    /// <param name="options">Server, port, size, iterations and patience count.</param>
    /// <param name="listening">Called when a client may come.</param>
    /// <param name="cancellation">Ends the run.</param>
    /// <returns>SHA-256 of the last message that came, as lower-case digits.</returns>
    /// <exception cref="WayleaveException">
    /// EPROTO: the peer says what is no end of a queue pair; ETIMEDOUT: it is silent; EIO: a request failed, or bytes
    /// came back that were not sent.
    /// </exception>
    public static async Task<string> RunAsync(
        WayleaveHost host, PerftestOptions options, Action listening, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(listening);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.SizeBytes, SizeMax, nameof(options));
        NicHandle nic = host.Nics[0];
        PerftestMemory memory = await PerftestMemory.OpenAsync(
            host, nic, "pingpong", 2L * SizeMax, AccessFlags.LocalWrite, nic.Device.CreateProtectionDomain())
            .ConfigureAwait(false);
        RcPingpong pingpong = new(nic, memory, options);
        try
        {
            IPEndPoint own = new(PerftestRun.AddressOf(nic), options.Port);
            TcpPerftestChannel channel = await (options.Server is { } server
                ? TcpPerftestChannel.ConnectAsync(
                    own.Address, new IPEndPoint(server, options.Port), options.Patience, cancellation)
                : TcpPerftestChannel.AcceptAsync(own, listening, options.Patience, cancellation)).ConfigureAwait(false);
            await using (channel.ConfigureAwait(false))
            {
                return await pingpong.RunAsync(channel, cancellation).ConfigureAwait(false);
            }
        }
        finally
        {
            nic.Destroy(pingpong._pair);
            await memory.CloseAsync().ConfigureAwait(false);
        }
    }

    private async Task<string> RunAsync(TcpPerftestChannel channel, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(_options.Patience);
        try
        {
            await MeetAsync(channel, limit.Token).ConfigureAwait(false);
            for (int i = 0; i < _options.Iterations; i++)
            {
                limit.CancelAfter(_options.Patience);
                await (_options.IsClient ? PingAsync(i, limit.Token) : PongAsync(limit.Token)).ConfigureAwait(false);
            }

            // The answer to the last message must leave before the queue pair ends: nothing more comes after it.
            while (_nic.Driver.TryProgress())
            {
            }

            return Convert.ToHexStringLower(SHA256.HashData(_memory.Bytes(SizeMax, _options.SizeBytes)));
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                "pingpong",
                $"the peer is silent for {_options.Patience.TotalSeconds:0.#} s",
                "has it the same size, number of iterations and MTU?");
        }
    }

    private async Task MeetAsync(TcpPerftestChannel channel, CancellationToken cancellation)
    {
        uint psn = _nic.ChoosePsn();
        byte[] own = Encoding.ASCII.GetBytes(
            string.Create(CultureInfo.InvariantCulture, $"{0:x4}:{_pair.QpNumber:x6}:{psn:x6}:{GidText()}\0"));
        byte[] theirs = new byte[EndBytes];
        if (_options.IsClient)
        {
            await channel.SendAsync(own, cancellation).ConfigureAwait(false);
        }

        RequireWhole(await channel.ReceiveAsync(theirs, cancellation).ConfigureAwait(false), EndBytes);
        Connect(theirs, psn);
        for (int i = 0; i < Receives; i++)
        {
            PostReceive();
        }

        await channel.SendAsync(_options.IsClient ? s_done : own, cancellation).ConfigureAwait(false);
        if (!_options.IsClient)
        {
            byte[] done = new byte[s_done.Length];
            RequireWhole(await channel.ReceiveAsync(done, cancellation).ConfigureAwait(false), done.Length);
        }
    }

    private string GidText()
    {
        Span<byte> gid = stackalloc byte[Gid.Size];
        _nic.Gid.WriteTo(gid);
        return Convert.ToHexStringLower(gid);
    }

    private static void RequireWhole(int received, int wanted)
    {
        if (received != wanted)
        {
            throw new WayleaveException(Errno.ECONNRESET, "pingpong", "the peer has ended");
        }
    }

    private void Connect(ReadOnlySpan<byte> text, uint psn)
    {
        string words = Encoding.ASCII.GetString(text[..(EndBytes - 1)]);
        string[] parts = words.Split(':');
        byte[] gid = new byte[Gid.Size];
        uint number = 0, start = 0;
        bool isEnd = text[^1] == 0
            && parts is [{ Length: 4 }, { Length: 6 }, { Length: 6 }, { Length: 2 * Gid.Size }]
            && uint.TryParse(parts[1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number)
            && uint.TryParse(parts[2], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out start)
            && Convert.FromHexString(parts[3], gid, out _, out _) == System.Buffers.OperationStatus.Done;
        Gid peer = Gid.FromBytes(gid);
        if (!isEnd || peer.IsIPv4 != _nic.Gid.IsIPv4)
        {
            throw new WayleaveException(
                Errno.EPROTO,
                "pingpong",
                $"the peer sends no end of a queue pair to {_nic.Gid}",
                "the tool needs -g with the index of a GID of that IP version");
        }

        QueuePairAttributes attributes = new()
        {
            AddressVector = new AddressVector(
                peer, AddressVector.RoceUdpPort, peer.IsIPv4 ? IcrcMode.SolveIdentification : IcrcMode.Full),
            PathMtu = _nic.PathMtu,
            DestQpNumber = number,
            RqPsn = start,
            SqPsn = psn,
            MaxRdAtomic = 1,
            MaxDestRdAtomic = 1,
            MinRnrTimer = RnrTimerCode,
            Timeout = NicHandle.AcknowledgeTimeoutCode,
            RetryCount = 7,
            RnrRetry = 7,
        };
        PerftestRequests.ConnectPair(_nic, _pair, attributes, $"connect {_pair.Name} to {peer} queue pair {number}");
    }

    private async Task PingAsync(int number, CancellationToken cancellation)
    {
        PerftestPattern.Fill(_memory.Bytes(0, _options.SizeBytes), KeysOf(number));
        Send(0);
        await TakeAsync(sends: 1, receives: 1, cancellation).ConfigureAwait(false);
        if (!PerftestPattern.Matches(_memory.Bytes(SizeMax, _options.SizeBytes), KeysOf(number)))
        {
            throw new WayleaveException(
                Errno.EIO, "pingpong", $"message {number + 1} came back with other bytes than it was sent with");
        }
    }

    private async Task PongAsync(CancellationToken cancellation)
    {
        await TakeAsync(sends: 0, receives: 1, cancellation).ConfigureAwait(false);
        _memory.Bytes(SizeMax, _options.SizeBytes).CopyTo(_memory.Bytes(0, _options.SizeBytes));
        Send(0);
        await TakeAsync(sends: 1, receives: 0, cancellation).ConfigureAwait(false);
    }

    private PerftestKeys KeysOf(int number) => new() { QpNumber = _pair.QpNumber, Psn = (uint)number };

    private async Task TakeAsync(int sends, int receives, CancellationToken cancellation)
    {
        _sendsDue += sends;
        _receivesDue += receives;
        while (_sendsDue > 0 || _receivesDue > 0)
        {
            WorkCompletion completion = (await _completions.NextAsync(null, cancellation).ConfigureAwait(false))!.Value;
            if (completion.Status != WorkCompletionStatus.Success)
            {
                throw new WayleaveException(Errno.EIO, "pingpong", $"a request ended with {completion.Status}");
            }

            if (completion.WrId == SendId)
            {
                _sendsDue--;
            }
            else
            {
                _receivesDue--;
                PostReceive();
            }
        }
    }

    private void Send(long offset) => _pair.PostSend(
        new SendWorkRequest { WrId = SendId, Opcode = WorkRequestOpcode.Send, Flags = SendFlags.Signaled },
        _memory.Part(offset, _options.SizeBytes)).ThrowIfFailed($"post on {_pair.Name}");

    private void PostReceive() => _pair.PostReceive(
        new ReceiveWorkRequest(0), _memory.Part(SizeMax, _options.SizeBytes))
        .ThrowIfFailed($"post a receive on {_pair.Name}");
}
