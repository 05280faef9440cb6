using System.Buffers.Binary;
using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

/// <summary>
/// Memory and queue pairs of one side. As in perftest the first half of the memory is what this side sends from, and
/// reads to; the second is what the peer writes to, or reads: one piece for each queue pair.
/// </summary>
internal sealed class PerftestEnd : IAsyncDisposable
{
    /// <summary>READs and atomics that a queue pair answers at a time.</summary>
    public const int ReadDepth = 16;

    private const int CacheLineBytes = 64;
    private const int ReceivesInFlight = 512;
    private const int CompletionsMax = 1 << 20;
    private const int RnrTimerCode = 12; // 0.64 ms
    private const int HeaderBytes = 40; // before the data of a datagram
    private const uint QKey = 0x1111_1111; // perftest's

    private readonly PerftestMemory _memory;
    private readonly PerftestOptions _options;
    private readonly ProtectionDomain _domain;
    private readonly int _pieceBytes;
    private readonly int _strideBytes; // with the room that the header of a datagram takes
    private readonly AddressHandle?[] _handles;
    private volatile bool _isPeerGone;

    private PerftestEnd(
        NicHandle nic, PerftestOptions options, PerftestMemory memory, ProtectionDomain domain, int pieceBytes)
    {
        (Nic, _options, _memory, _domain, _pieceBytes) = (nic, options, memory, domain, pieceBytes);
        _strideBytes = pieceBytes + RoomFor(options);
        _handles = new AddressHandle?[options.QueuePairs];
        ReceiveDepth = Math.Max(1, Math.Min(ReceivesInFlight, CompletionsMax / 2 / options.QueuePairs));
        int entries = options.QueuePairs * (options.Depth + ReceiveDepth);
        Completions = nic.CreateCompletionQueue(Math.Min(entries, CompletionsMax));
        Pairs = new QueuePair[options.QueuePairs];
        Keys = new PerftestKeys[options.QueuePairs];
        PeerKeys = new PerftestKeys[options.QueuePairs];
    }

    public NicHandle Nic { get; }

    public CompletionQueue Completions { get; }

    public QueuePair[] Pairs { get; }

    /// <summary>Ours, one for each queue pair.</summary>
    public PerftestKeys[] Keys { get; }

    /// <summary>The peer's.</summary>
    public PerftestKeys[] PeerKeys { get; }

    /// <summary>Receives that a queue pair has room for.</summary>
    public int ReceiveDepth { get; }

    /// <summary>
    /// Changes with everything that the peer sends and that gets on. A question whether this side is there does not,
    /// nor a message for which nobody has a receive: such a peer would be waited for for ever.
    /// </summary>
    public long ReadProgress()
    {
        if (!_options.IsReliable)
        {
            return Nic.Device.Port.Stats.PacketsReceived;
        }

        long sum = 0;
        Nic.Driver.WithToken(() =>
        {
            foreach (QueuePair pair in Pairs)
            {
                sum += pair.ResponderProgress.ExpectedPsn + (long)pair.OldestUnansweredPsn;
            }
        });
        return sum;
    }

    /// <summary>Whether the exchange has said that the peer has ended. Any thread.</summary>
    public bool IsPeerGone => _isPeerGone;

    /// <summary>What a connection by rdma_cm is asked for, and granted.</summary>
    public CmParameters Parameters => _options.Verb is PerftestVerb.Read or PerftestVerb.Atomic
        ? new CmParameters { ResponderResources = ReadDepth, InitiatorDepth = ReadDepth }
        : new CmParameters { ResponderResources = 0, InitiatorDepth = 0 };

    // Whether the peer's memory, or ours, is read and never written: then the second half has the pattern.
    private bool IsServed => _options.Verb == PerftestVerb.Read;

    public static async Task<PerftestEnd> OpenAsync(
        WayleaveHost host, NicHandle nic, PerftestOptions options, int blockBytes)
    {
        int piece = (Math.Max(options.LargestBytes, blockBytes) + CacheLineBytes - 1) / CacheLineBytes * CacheLineBytes;
        ProtectionDomain domain = nic.Device.CreateProtectionDomain();
        PerftestMemory memory = await PerftestMemory.OpenAsync(
            host,
            nic,
            "perftest",
            2L * options.QueuePairs * (piece + RoomFor(options)),
            AccessFlags.LocalWrite | AccessOf(options.Verb),
            domain).ConfigureAwait(false);
        PerftestEnd end = new(nic, options, memory, domain, piece);
        for (int i = 0; i < end.Pairs.Length; i++)
        {
            end.Renew(i);
        }

        return end;
    }

    /// <summary>The exchange says that the peer has ended.</summary>
    public void NotePeerGone() => _isPeerGone = true;

    /// <summary>A fresh queue pair in the place of the one that failed to connect, or of none.</summary>
    public void Renew(int index)
    {
        if (Pairs[index] is { } old)
        {
            Nic.Destroy(old);
        }

        QueuePairCapabilities capabilities = new() { MaxSendWr = _options.Depth, MaxReceiveWr = ReceiveDepth };
        Pairs[index] = Nic.CreateQueuePair(
            new QueuePairRequest(_domain, Completions, Completions, capabilities) { Type = _options.Connection });
        Keys[index] = new PerftestKeys(
            Lid: 0,
            ReadDepth,
            Pairs[index].QpNumber,
            Nic.ChoosePsn(),
            _memory.Region.Key,
            _memory.Region.Iova + (ulong)ServedOffset(index),
            Nic.Gid,
            SharedReceiveNumber: 0);
    }

    /// <summary>
    /// The bytes that the peer will get, and a mark where its own arrive. After the numbers are known, before they are
    /// told.
    /// </summary>
    public void FillMemory()
    {
        for (int i = 0; i < Pairs.Length; i++)
        {
            Span<byte> sent = _memory.Bytes(SentOffset(i), _pieceBytes);
            Span<byte> served = _memory.Bytes(ServedOffset(i), _pieceBytes);
            sent.Clear();
            served.Clear();
            if (_options.Verb != PerftestVerb.Atomic)
            {
                PerftestPattern.Fill(IsServed ? served : sent, Keys[i]);
            }

            if (HasMark)
            {
                PerftestPattern.Fill(IsServed ? sent : served, MarkOf(i));
            }
        }
    }

    /// <summary>Takes every queue pair to RTS, towards what the peer has said.</summary>
    /// <exception cref="WayleaveException">The peer's numbers make no sense.</exception>
    public void Connect(PathMtu mtu)
    {
        for (int i = 0; i < Pairs.Length; i++)
        {
            QueuePair pair = Pairs[i];
            PerftestKeys own = Keys[i], peer = PeerKeys[i];
            string operation = $"connect {pair.Name} to {peer.Gid} queue pair {peer.QpNumber}";
            if (peer.Gid.IsIPv4 != Nic.Gid.IsIPv4)
            {
                throw new WayleaveException(
                    Errno.EINVAL,
                    operation,
                    $"its GID and ours, {Nic.Gid}, are of different IP versions",
                    "give perftest the fitting one by -x");
            }

            AddressVector address = new(
                peer.Gid,
                AddressVector.RoceUdpPort,
                peer.Gid.IsIPv4 ? IcrcMode.SolveIdentification : IcrcMode.Full);
            QueuePairAttributes attributes = new()
            {
                AccessFlags = AccessOf(_options.Verb),
                AddressVector = address,
                QKey = QKey,
                PathMtu = mtu,
                DestQpNumber = peer.QpNumber,
                RqPsn = peer.Psn,
                SqPsn = own.Psn,
                MaxRdAtomic = Math.Clamp(peer.OutstandingReads, 0, RdmaDevice.MaxRdAtomic),
                MaxDestRdAtomic = own.OutstandingReads,
                MinRnrTimer = RnrTimerCode,
                Timeout = NicHandle.AcknowledgeTimeoutCode,
                RetryCount = 7,
                RnrRetry = 7,
            };
            PerftestRequests.ConnectPair(Nic, pair, attributes, operation);
            if (_options.IsDatagram)
            {
                _handles[i] = CreateHandle(address, operation);
            }
        }
    }

    /// <summary>What a request of a queue pair says besides what every transport does: where a datagram goes.</summary>
    public SendWorkRequest Aim(int pair, SendWorkRequest request) => _options.IsDatagram
        ? request with
        {
            AddressHandle = _handles[pair],
            RemoteQpNumber = PeerKeys[pair].QpNumber,
            RemoteQKey = QKey,
        }
        : request;

    /// <summary>
    /// Takes what a peer without acknowledgements has sent before it ended: its last word came by another way.
    /// </summary>
    public void Drain()
    {
        PerftestDrain drain = new();
        while (!drain.IsOver(Nic.Driver.TryProgress()))
        {
        }
    }

    /// <summary>Where a queue pair sends from, and reads to.</summary>
    public Sge SentPart(int pair, int lengthBytes, int offset = 0) =>
        _memory.Part(SentOffset(pair) + offset, lengthBytes);

    /// <summary>Where the peer's messages of a queue pair arrive.</summary>
    public Sge ServedPart(int pair, int lengthBytes) => _options.IsDatagram
        ? _memory.Part(ServedOffset(pair) - HeaderBytes, lengthBytes + HeaderBytes)
        : _memory.Part(ServedOffset(pair), lengthBytes);

    public Span<byte> SentBytes(int pair, int lengthBytes) => _memory.Bytes(SentOffset(pair), lengthBytes);

    public Span<byte> ServedBytes(int pair, int lengthBytes) => _memory.Bytes(ServedOffset(pair), lengthBytes);

    /// <summary>Looks at what the peer's WRITEs and SENDs, or our READs, brought to each queue pair.</summary>
    /// <param name="lengthBytes">How much of each piece was written.</param>
    /// <param name="sha256">Of all pieces, in the order of the queue pairs.</param>
    /// <exception cref="WayleaveException">EIO: a piece is as it was before the run.</exception>
    public PerftestBytes CheckReceived(int lengthBytes, out string sha256)
    {
        sha256 = Sha256Of(IsServed ? SentOffset : ServedOffset, lengthBytes);
        PerftestBytes verdict = PerftestBytes.Equal;
        for (int i = 0; i < Pairs.Length; i++)
        {
            ReadOnlySpan<byte> bytes = Received(i, lengthBytes);
            if (PerftestPattern.Matches(bytes, PeerKeys[i]))
            {
                continue;
            }

            verdict = PerftestBytes.Foreign;
            if (HasMark && lengthBytes >= sizeof(ulong) && PerftestPattern.Matches(bytes, MarkOf(i)))
            {
                throw new WayleaveException(
                    Errno.EIO, "perftest", $"nothing has arrived in the {lengthBytes} bytes of {Pairs[i].Name}");
            }
        }

        return verdict;
    }

    /// <summary>
    /// SHA-256 of what the queue pairs send, or let the peer read, one after the other, as lower-case digits.
    /// </summary>
    public string HashSent(int lengthBytes) => Sha256Of(IsServed ? ServedOffset : SentOffset, lengthBytes);

    /// <summary>What the peer's fetch-and-adds have added to our memory, which was zero.</summary>
    public long CountAdditions()
    {
        ulong sum = 0;
        for (int i = 0; i < Pairs.Length; i++)
        {
            ReadOnlySpan<byte> bytes = _memory.Bytes(ServedOffset(i), _pieceBytes);
            for (int at = 0; at + sizeof(ulong) <= bytes.Length; at += sizeof(ulong))
            {
                sum += BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
            }
        }

        return (long)sum;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (QueuePair pair in Pairs)
        {
            Nic.Destroy(pair);
        }

        Nic.Driver.WithToken(() =>
        {
            foreach (AddressHandle handle in _handles.OfType<AddressHandle>())
            {
                Nic.Device.DestroyAddressHandle(handle);
            }
        });

        await _memory.CloseAsync().ConfigureAwait(false);
    }

    private string Sha256Of(Func<int, long> offsetOf, int lengthBytes)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (int i = 0; i < Pairs.Length; i++)
        {
            hash.AppendData(_memory.Bytes(offsetOf(i), lengthBytes));
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    // What stands where the peer's bytes arrive before they do. Latency of WRITE looks for numbers there, and atomics
    // are counted, from zero.
    private bool HasMark => !_options.IsLatency && _options.Verb != PerftestVerb.Atomic;

    private PerftestKeys MarkOf(int pair) => Keys[pair] with { Psn = Keys[pair].Psn ^ 1 };

    private static AccessFlags AccessOf(PerftestVerb verb) => verb switch
    {
        PerftestVerb.Read => AccessFlags.RemoteRead,
        PerftestVerb.Atomic => AccessFlags.RemoteAtomic,
        PerftestVerb.Write => AccessFlags.RemoteWrite,
        _ => AccessFlags.None,
    };

    private ReadOnlySpan<byte> Received(int pair, int lengthBytes) =>
        _memory.Bytes(IsServed ? SentOffset(pair) : ServedOffset(pair), lengthBytes);

    private AddressHandle CreateHandle(AddressVector address, string operation)
    {
        AddressHandle? handle = null;
        Nic.Driver.WithToken(() => Nic.Device.TryCreateAddressHandle(_domain, address, out handle)
            .ThrowIfFailed(operation));
        return handle!;
    }

    private static int RoomFor(PerftestOptions options) => options.IsDatagram ? CacheLineBytes : 0;

    private long SentOffset(int pair) => (long)pair * _strideBytes;

    // Of the data: the header of a datagram stands before it.
    private long ServedOffset(int pair) =>
        (long)(Pairs.Length + pair) * _strideBytes + (_strideBytes - _pieceBytes);
}
