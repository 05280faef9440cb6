using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Benchmarks;

/// <summary>The passive side of SEND bandwidth: keeps every queue pair full of receives.</summary>
internal sealed class ReceiveSink
{
    private readonly BenchmarkEnd _end;
    private readonly BenchmarkOptions _options;
    private readonly Dictionary<uint, QueuePair> _pairs = [];
    private readonly WorkCompletion[] _batch = new WorkCompletion[16];
    private readonly ulong _slots;
    private ulong _next;

    public ReceiveSink(BenchmarkEnd end, BenchmarkOptions options)
    {
        (_end, _options) = (end, options);
        _slots = (ulong)(options.EffectiveRegionBytes / options.SizeBytes);
        foreach (QueuePair pair in end.Pairs)
        {
            _pairs.Add(pair.QpNumber, pair);
            for (int i = 0; i < options.Depth; i++)
            {
                Post(pair);
            }
        }
    }

    /// <summary>Polls until told to stop.</summary>
    /// <returns>Messages received.</returns>
    public long Run(ref bool stop)
    {
        long received = 0;
        while (!Volatile.Read(ref stop))
        {
            _end.Nic.Driver.TryProgress();
            int count = _end.Receives.Poll(_batch);
            received += count;
            foreach (ref readonly WorkCompletion completion in _batch.AsSpan(0, count))
            {
                if (completion.Status != WorkCompletionStatus.Success)
                {
                    throw new WayleaveException(Errno.EIO, "receive", $"a receive ended with {completion.Status}");
                }

                Post(_pairs[completion.QpNumber]);
            }
        }

        return received;
    }

    private void Post(QueuePair pair)
    {
        ulong offset = _next++ % _slots * (ulong)_options.SizeBytes;
        pair.PostReceive(
            new ReceiveWorkRequest(0), new Sge(_end.Region.Iova + offset, (uint)_options.SizeBytes, _end.Region.Key))
            .ThrowIfFailed("post a receive");
    }
}
