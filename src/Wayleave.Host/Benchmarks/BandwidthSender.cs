using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Benchmarks;

/// <summary>Keeps every queue pair full of requests of one size and counts what completes.</summary>
internal sealed class BandwidthSender
{
    private const int PollBatch = 16;

    private readonly BenchmarkEnd _end;
    private readonly EndMessage _peer;
    private readonly BenchmarkOptions _options;
    private readonly WorkRequestOpcode _opcode;
    private readonly Queue<int> _free; // queue pairs, each as often as it has room for a request
    private readonly ulong _slots;
    private ulong _next;

    public BandwidthSender(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options)
    {
        (_end, _peer, _options) = (end, peer, options);
        _opcode = options.Test switch
        {
            BenchmarkTest.ReadBw => WorkRequestOpcode.RdmaRead,
            BenchmarkTest.SendBw => WorkRequestOpcode.Send,
            _ => WorkRequestOpcode.RdmaWrite,
        };
        int capacity = end.Pairs.Length * options.Depth;
        _free = new Queue<int>(capacity);
        for (int i = 0; i < capacity; i++)
        {
            _free.Enqueue(i % end.Pairs.Length);
        }

        _slots = (ulong)(options.EffectiveRegionBytes / options.SizeBytes);
    }

    /// <summary>
    /// Runs for the time or the operations given, then waits for what is in flight. Everything that completes counts,
    /// and so does the time until the last completion.
    /// </summary>
    /// <exception cref="WayleaveException">A request failed.</exception>
    public (long Operations, TimeSpan Elapsed) Run(TimeSpan duration, int iterations)
    {
        Span<WorkCompletion> batch = stackalloc WorkCompletion[PollBatch];
        long posted = 0, completed = 0;
        long start = Stopwatch.GetTimestamp();
        bool stopping = false;
        while (!stopping || completed < posted)
        {
            while (!stopping && (iterations == 0 || posted < iterations) && _free.TryDequeue(out int pair))
            {
                Post(pair);
                posted++;
            }

            _end.Nic.Driver.TryProgress();
            int count = _end.Sends.Poll(batch);
            foreach (ref readonly WorkCompletion completion in batch[..count])
            {
                ThrowIfFailed(completion);
                _free.Enqueue((int)completion.WrId);
            }

            completed += count;
            stopping = iterations != 0 ? posted == iterations : Stopwatch.GetElapsedTime(start) >= duration;
        }

        return (completed, Stopwatch.GetElapsedTime(start));
    }

    private static void ThrowIfFailed(in WorkCompletion completion)
    {
        if (completion.Status != WorkCompletionStatus.Success)
        {
            throw new WayleaveException(Errno.EIO, "measure bandwidth", $"a request ended with {completion.Status}");
        }
    }

    private void Post(int pair)
    {
        // Both ends walk over their region in step, one message behind the other.
        ulong offset = _next++ % _slots * (ulong)_options.SizeBytes;
        SendWorkRequest request = new()
        {
            WrId = (ulong)pair,
            Opcode = _opcode,
            Flags = SendFlags.Signaled,
            RemoteAddress = _peer.Address + offset,
            RKey = _peer.RKey,
        };
        Errno errno = _end.Pairs[pair].PostSend(
            request, new Sge(_end.Region.Iova + offset, (uint)_options.SizeBytes, _end.Region.Key));
        errno.ThrowIfFailed("measure bandwidth: post");
    }
}
