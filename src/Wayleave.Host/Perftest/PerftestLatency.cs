using System.Buffers.Binary;
using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

// write: the server begins; each side counts its messages in the last byte, and looks at the last byte that the other
// one writes. send: the client begins. read and atomic: only the client does something, one after the other.

/// <summary>Latency of one side.</summary>
internal sealed class PerftestLatency(PerftestEnd end, PerftestOptions options)
{
    private const ulong ReceiveMark = 1UL << 63;

    private readonly WorkCompletion[] _batch = new WorkCompletion[16];
    private readonly PerftestPatience _patience = new(() => end.IsPeerGone, end.ReadProgress, options);
    private ulong _firstValue;
    private int _sendsLeft;
    private int _receivesPosted;
    private int _received;
    private int _sizeBytes;

    /// <summary>Atomics that brought back what was expected of them.</summary>
    public long Additions { get; private set; }

    /// <summary>Posts receives for messages of a size; before the barrier behind which they come.</summary>
    public void PostReceives(int sizeBytes)
    {
        (_sizeBytes, _received, _receivesPosted) = (sizeBytes, 0, 0);
        while (_receivesPosted < Math.Min(end.ReceiveDepth, options.Iterations))
        {
            PostReceive();
        }
    }

    /// <summary>Runs one size.</summary>
    public PerftestTimes Run(int sizeBytes, CancellationToken cancellation)
    {
        _sizeBytes = sizeBytes;
        double[] samples = new double[options.Iterations];
        long before = Stopwatch.GetTimestamp();
        bool isPing = options.Verb is PerftestVerb.Write or PerftestVerb.Send;
        bool begins = options.Verb == PerftestVerb.Write ? !options.IsClient : options.IsClient;
        for (int i = 0; i < options.Iterations; i++)
        {
            if (isPing && !begins)
            {
                AwaitMessage(i + 1, cancellation);
            }

            Send(i + 1);
            if (isPing && begins)
            {
                AwaitMessage(i + 1, cancellation);
            }

            while (_sendsLeft > 0)
            {
                Progress(cancellation);
            }

            CheckAtomic();
            long now = Stopwatch.GetTimestamp();
            samples[i] = Stopwatch.GetElapsedTime(before, now).TotalSeconds / (isPing ? 2 : 1);
            before = now;
        }

        return Summarize(samples);
    }

    private void CheckAtomic()
    {
        if (options.Verb != PerftestVerb.Atomic || options.ComparesAndSwaps)
        {
            return;
        }

        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(end.SentBytes(0, sizeof(ulong)));
        _firstValue = Additions == 0 ? value : _firstValue;
        if (value != unchecked(_firstValue + (ulong)Additions))
        {
            throw new WayleaveException(
                Errno.EIO, "perftest", $"addition {Additions + 1} found {value}, after {_firstValue} first");
        }

        Additions++;
    }

    private static PerftestTimes Summarize(double[] samples)
    {
        Array.Sort(samples);
        double average = samples.Average();
        double variance = samples.Select(s => (s - average) * (s - average)).Average();
        double At(double share) => samples[Math.Min(samples.Length - 1, (int)(samples.Length * share))];
        return new PerftestTimes(
            samples[0], samples[^1], At(0.5), average, Math.Sqrt(variance), At(0.99), At(0.999));
    }

    private void AwaitMessage(int number, CancellationToken cancellation)
    {
        if (options.Verb == PerftestVerb.Send)
        {
            while (_received < number)
            {
                Progress(cancellation);
            }

            return;
        }

        while (Volatile.Read(ref end.ServedBytes(0, _sizeBytes)[^1]) != (byte)number)
        {
            Progress(cancellation);
        }
    }

    private void Send(int number)
    {
        if (options.Verb == PerftestVerb.Write)
        {
            end.SentBytes(0, _sizeBytes)[^1] = (byte)number;
        }

        ref readonly PerftestKeys peer = ref end.PeerKeys[0];
        SendWorkRequest request = new()
        {
            Opcode = PerftestRequests.OpcodeOf(options),
            Flags = SendFlags.Signaled,
            RemoteAddress = peer.Address,
            RKey = peer.RKey,
            CompareAdd = options.ComparesAndSwaps ? 0UL : 1UL,
        };
        end.Pairs[0].PostSend(end.Aim(0, request), end.SentPart(0, _sizeBytes)).ThrowIfFailed("post a request");
        _sendsLeft++;
    }

    private void PostReceive()
    {
        end.Pairs[0].PostReceive(new ReceiveWorkRequest(ReceiveMark), end.ServedPart(0, _sizeBytes))
            .ThrowIfFailed("post a receive");
        _receivesPosted++;
    }

    private void Progress(CancellationToken cancellation)
    {
        end.Nic.Driver.TryProgress();
        int count = end.Completions.Poll(_batch);
        foreach (ref readonly WorkCompletion completion in _batch.AsSpan(0, count))
        {
            if (completion.Status != WorkCompletionStatus.Success)
            {
                throw PerftestRequests.Failed(completion.Status, "");
            }

            if (completion.WrId == ReceiveMark)
            {
                _received++;
                if (_receivesPosted < options.Iterations)
                {
                    PostReceive();
                }
            }
            else
            {
                _sendsLeft--;
            }
        }

        // Who has no receive is asked again for ever, and that keeps the driver at work.
        _patience.Look(count > 0, cancellation);
    }
}
