using System.Buffers.Binary;
using System.Diagnostics;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// The latency tests: one side sends, the other answers, as perftest's write_lat and send_lat. The active side's first
/// half of the region holds what it sends, the second what it gets, and so at the passive side.
/// </summary>
internal abstract class PingPong(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options)
{
    private const int SweepInterval = 16;

    private readonly WorkCompletion[] _completions = new WorkCompletion[16];
    private int _sent;

    protected BenchmarkEnd End { get; } = end;

    protected EndMessage Peer { get; } = peer;

    protected int SizeBytes { get; } = options.SizeBytes;

    public static PingPong Create(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options) =>
        options.Test == BenchmarkTest.WriteLat
        ? new WritePingPong(end, peer, options)
        : new SendPingPong(end, peer, options);

    /// <summary>The active side: one sample, in ticks of <see cref="Stopwatch"/>, per round trip.</summary>
    /// <param name="samples">As many as there are to be.</param>
    /// <param name="load">What is to be busy meanwhile; null if nothing is.</param>
    public void Ping(Span<long> samples, BesideLoad? load)
    {
        load?.Start();
        long before = Stopwatch.GetTimestamp();
        for (int i = 0; i < samples.Length; i++)
        {
            Send();
            while (!TryTake())
            {
                Progress();
                load?.Refill();
            }

            long now = Stopwatch.GetTimestamp();
            samples[i] = now - before;
            before = now;
        }

        load?.Drain();
    }

    /// <summary>The passive side: answers until told to stop.</summary>
    public long Pong(ref bool stop)
    {
        long answered = 0;
        while (!Volatile.Read(ref stop))
        {
            if (TryTake())
            {
                Send();
                answered++;
            }
            else
            {
                Progress();
            }
        }

        return answered;
    }

    /// <summary>Whether the other side's message has come; takes it.</summary>
    protected abstract bool TryTake();

    protected abstract Errno Post(SendFlags flags);

    private void Send()
    {
        // One request in so many makes a completion, and polling that frees the slots of all before it.
        bool isSignaled = ++_sent % SweepInterval == 0;
        Post(isSignaled ? SendFlags.Signaled : SendFlags.None).ThrowIfFailed("measure latency: post");
        End.Nic.Driver.TryProgress();
        if (isSignaled)
        {
            PollSends();
        }
    }

    private void Progress()
    {
        if (!End.Nic.Driver.TryProgress() && End.Pairs[0].State == QueuePairState.Error)
        {
            // The other side will never answer; the oldest completion says why.
            PollSends();
            throw new WayleaveException(Errno.EIO, "measure latency", $"{End.Pairs[0]} is in error");
        }
    }

    private void PollSends()
    {
        int count = End.Sends.Poll(_completions);
        foreach (ref readonly WorkCompletion completion in _completions.AsSpan(0, count))
        {
            if (completion.Status != WorkCompletionStatus.Success)
            {
                throw new WayleaveException(Errno.EIO, "measure latency", $"a request ended with {completion.Status}");
            }
        }
    }
}

/// <summary>WRITEs whose last bytes count up; the other side polls its memory for them.</summary>
internal sealed class WritePingPong : PingPong
{
    private readonly bool _isInline;
    private readonly byte[] _message;
    private readonly int _stampBytes;
    private uint _sent;
    private uint _taken;

    public WritePingPong(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options)
        : base(end, peer, options)
    {
        _isInline = SizeBytes <= end.Pairs[0].Capabilities.MaxInlineData;
        _message = new byte[SizeBytes];
        _stampBytes = Math.Min(SizeBytes, sizeof(uint));
        Arrival.Clear();
    }

    // The last bytes of a message are placed last: packets are placed in order, and a packet by one copy.
    private Span<byte> Arrival => End.Bytes(2 * SizeBytes).Slice(2 * SizeBytes - _stampBytes);

    protected override bool TryTake()
    {
        bool came = ReadStamp(Arrival) == Mask(_taken + 1);
        _taken += came ? 1u : 0;
        return came;
    }

    protected override Errno Post(SendFlags flags)
    {
        _sent++;
        Span<byte> message = _isInline ? _message : End.Bytes(SizeBytes);
        WriteStamp(message[^_stampBytes..], _sent);
        SendWorkRequest request = new()
        {
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = flags,
            RemoteAddress = Peer.Address + (ulong)SizeBytes,
            RKey = Peer.RKey,
        };
        return _isInline
            ? End.Pairs[0].PostSendInline(request, message)
            : End.Pairs[0].PostSend(request, new Sge(End.Region.Iova, (uint)SizeBytes, End.Region.Key));
    }

    private uint Mask(uint stamp) => _stampBytes == sizeof(uint) ? stamp : stamp & ((1u << (8 * _stampBytes)) - 1);

    private static uint ReadStamp(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length == sizeof(uint))
        {
            return Volatile.Read(in MemoryMarshal.AsRef<uint>(bytes));
        }

        uint stamp = 0;
        for (int i = bytes.Length - 1; i >= 0; i--)
        {
            stamp = stamp << 8 | Volatile.Read(in bytes[i]);
        }

        return stamp;
    }

    private static void WriteStamp(Span<byte> bytes, uint stamp)
    {
        Span<byte> whole = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(whole, stamp);
        whole[..bytes.Length].CopyTo(bytes);
    }
}

/// <summary>SENDs into posted receives; the other side polls its completions.</summary>
internal sealed class SendPingPong : PingPong
{
    private readonly WorkCompletion[] _received = new WorkCompletion[1];

    public SendPingPong(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options)
        : base(end, peer, options)
    {
        for (int i = 0; i < end.Pairs[0].Capabilities.MaxReceiveWr; i++)
        {
            PostReceive();
        }
    }

    protected override bool TryTake()
    {
        if (End.Receives.Poll(_received) == 0)
        {
            return false;
        }

        PostReceive();
        return true;
    }

    protected override Errno Post(SendFlags flags)
    {
        SendWorkRequest request = new() { Opcode = WorkRequestOpcode.Send, Flags = flags };
        return End.Pairs[0].PostSend(request, new Sge(End.Region.Iova, (uint)SizeBytes, End.Region.Key));
    }

    private void PostReceive() =>
        End.Pairs[0].PostReceive(
            new ReceiveWorkRequest(0), new Sge(End.Region.Iova + (ulong)SizeBytes, (uint)SizeBytes, End.Region.Key))
            .ThrowIfFailed("measure latency: post a receive");
}
