using System.Buffers.Binary;
using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Perftest;

/// <summary>Bandwidth of one side: keeps queue pairs full, takes what the peer sends, and counts.</summary>
internal sealed class PerftestTraffic
{
    private const int PollBatch = 32;
    private const int PeakParts = 16;
    private const ulong ReceiveMark = 1UL << 63;
    private const double Mebibyte = 1 << 20;

    // The smallest piece of memory holds this many results; with more in flight nobody looks at them.
    private const int AtomicSlots = 4096 / sizeof(ulong);

    private readonly PerftestEnd _end;
    private readonly PerftestOptions _options;
    private readonly Dictionary<uint, int> _indexOf = [];
    private readonly int[] _inFlight;
    private readonly long[] _posted;
    private readonly long[] _receivesPosted;
    private readonly long[] _completed;
    private readonly ulong[] _firstValue;
    private int _sizeBytes;
    private long _received;

    public PerftestTraffic(PerftestEnd end, PerftestOptions options)
    {
        (_end, _options) = (end, options);
        int pairs = end.Pairs.Length;
        (_inFlight, _posted, _receivesPosted) = (new int[pairs], new long[pairs], new long[pairs]);
        (_completed, _firstValue) = (new long[pairs], new ulong[pairs]);
        for (int i = 0; i < pairs; i++)
        {
            _indexOf.Add(end.Pairs[i].QpNumber, i);
        }
    }

    /// <summary>Atomics that brought back what was expected of them, over all sizes.</summary>
    public long Additions { get; private set; }

    private bool IsTimed => _options.Duration > TimeSpan.Zero;

    private long ReceivesPerPair => IsTimed ? long.MaxValue : _options.Iterations;

    /// <summary>Posts receives for messages of a size; before the barrier behind which they come.</summary>
    public void PostReceives(int sizeBytes)
    {
        (_sizeBytes, _received) = (sizeBytes, 0);
        for (int i = 0; i < _end.Pairs.Length; i++)
        {
            _receivesPosted[i] = 0;
            while (_receivesPosted[i] < Math.Min(_end.ReceiveDepth, ReceivesPerPair))
            {
                PostReceive(i);
            }
        }
    }

    /// <summary>Runs until everything is sent and received, or the time is over.</summary>
    /// <param name="sizeBytes">Of a message.</param>
    /// <param name="sends">Whether this side sends.</param>
    /// <param name="receives">Whether it takes messages.</param>
    /// <param name="endOfPeer">
    /// Called once everything is sent, in a run by time or over what loses messages: completes when the peer has ended.
    /// Null goes by counts.
    /// </param>
    /// <param name="cancellation">Ends the run.</param>
    /// <returns>What was sent, or, by a side that only takes, received.</returns>
    public PerftestReport Run(
        int sizeBytes, bool sends, bool receives, Func<Task>? endOfPeer, CancellationToken cancellation)
    {
        _sizeBytes = sizeBytes;
        Array.Clear(_posted);
        Array.Clear(_completed);
        WorkCompletion[] batch = new WorkCompletion[PollBatch];
        long expected = IsTimed ? long.MaxValue : (long)_options.Iterations * _end.Pairs.Length;
        RateSamples rate = new(IsTimed ? 1 << 12 : Math.Max(1, expected / PeakParts));
        PerftestPatience patience = new(() => _end.IsPeerGone, _end.ReadProgress, _options);
        Task? ended = null;
        long sent = 0;
        PerftestDrain? drain = null;
        while (true)
        {
            bool isOver = !sends || (IsTimed && rate.Elapsed >= _options.Duration);
            bool isBusy = !isOver && PostAll();
            int count = Take(batch, ref sent);
            rate.Note(sends ? sent : _received);
            bool isSent = !sends || (IsTimed ? isOver && InFlight == 0 : sent == expected);
            if (isSent && endOfPeer is not null)
            {
                ended ??= endOfPeer();
            }

            bool isReceived = !receives
                || (ended is null ? _received == expected : ended.IsCompleted && IsDrained(ref drain, count > 0));
            if (isSent && isReceived)
            {
                ended?.GetAwaiter().GetResult();
                return ReportOf(sends ? sent : _received, rate);
            }

            patience.Look(count > 0 || isBusy, cancellation);
        }
    }

    private bool IsDrained(ref PerftestDrain? drain, bool found) =>
        _options.IsReliable ? !found : (drain ??= new PerftestDrain()).IsOver(found);

    private int InFlight => _inFlight.Sum();

    private PerftestReport ReportOf(long operations, RateSamples rate)
    {
        double perS = operations / rate.Elapsed.TotalSeconds;
        return new PerftestReport(
            _sizeBytes,
            IsTimed || !_options.IsReliable ? operations : _options.Iterations,
            rate.PeakPerS * _sizeBytes / Mebibyte,
            perS * _sizeBytes / Mebibyte,
            perS / 1e6);
    }

    private bool PostAll()
    {
        bool posted = false;
        for (int i = 0; i < _inFlight.Length; i++)
        {
            while (_inFlight[i] < _options.Depth && (IsTimed || _posted[i] < _options.Iterations))
            {
                Post(i);
                posted = true;
            }
        }

        return posted;
    }

    private int Take(WorkCompletion[] batch, ref long sent)
    {
        _end.Nic.Driver.TryProgress();
        int count = _end.Completions.Poll(batch);
        foreach (ref readonly WorkCompletion completion in batch.AsSpan(0, count))
        {
            if (completion.Status != WorkCompletionStatus.Success)
            {
                throw PerftestRequests.Failed(completion.Status, $" after {sent + _received}");
            }

            int index = _indexOf[completion.QpNumber];
            if ((completion.WrId & ReceiveMark) != 0)
            {
                _received++;
                if (_receivesPosted[index] < ReceivesPerPair)
                {
                    PostReceive(index);
                }

                continue;
            }

            CheckAtomic(index, completion.WrId);
            _inFlight[index]--;
            sent++;
        }

        return count;
    }

    private void PostReceive(int index)
    {
        _end.Pairs[index].PostReceive(
            new ReceiveWorkRequest(ReceiveMark | (uint)index), _end.ServedPart(index, _sizeBytes))
            .ThrowIfFailed("post a receive");
        _receivesPosted[index]++;
    }

    private void Post(int index)
    {
        ref readonly PerftestKeys peer = ref _end.PeerKeys[index];
        bool isAtomic = _options.Verb == PerftestVerb.Atomic;
        int slot = isAtomic ? (int)(_posted[index] % Math.Min(_options.Depth, AtomicSlots)) : 0;
        SendWorkRequest request = new()
        {
            WrId = (ulong)slot,
            Opcode = PerftestRequests.OpcodeOf(_options),
            Flags = SendFlags.Signaled,
            RemoteAddress = peer.Address,
            RKey = peer.RKey,
            CompareAdd = _options.ComparesAndSwaps ? 0UL : 1UL,
        };
        _end.Pairs[index].PostSend(
            _end.Aim(index, request), _end.SentPart(index, _sizeBytes, slot * sizeof(ulong)))
            .ThrowIfFailed("post a request");
        _posted[index]++;
        _inFlight[index]++;
    }

    // Additions of one after the other bring back numbers that grow by one.
    private void CheckAtomic(int index, ulong slot)
    {
        long number = _completed[index]++;
        if (_options.Verb != PerftestVerb.Atomic || _options.ComparesAndSwaps || _options.Depth > AtomicSlots)
        {
            return;
        }

        ReadOnlySpan<byte> result = _end.SentBytes(index, AtomicSlots * sizeof(ulong));
        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(result[((int)slot * sizeof(ulong))..]);
        if (number == 0)
        {
            _firstValue[index] = value;
        }

        if (value != unchecked(_firstValue[index] + (ulong)number))
        {
            throw new WayleaveException(
                Errno.EIO,
                "perftest",
                $"addition {number + 1} of {_end.Pairs[index].Name} found {value}, after {_firstValue[index]} first");
        }

        Additions++;
    }

    /// <summary>How fast it went, and in its best part.</summary>
    private sealed class RateSamples(long every)
    {
        private readonly long _start = Stopwatch.GetTimestamp();
        private long _lastTime = Stopwatch.GetTimestamp();
        private long _lastCount;

        public TimeSpan Elapsed => Stopwatch.GetElapsedTime(_start);

        public double PeakPerS { get; private set; }

        public void Note(long count)
        {
            if (count - _lastCount < every)
            {
                return;
            }

            long now = Stopwatch.GetTimestamp();
            double seconds = Stopwatch.GetElapsedTime(_lastTime, now).TotalSeconds;
            PeakPerS = Math.Max(PeakPerS, (count - _lastCount) / Math.Max(seconds, 1e-9));
            (_lastTime, _lastCount) = (now, count);
        }
    }
}
