using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// What keeps the other queue pairs of a latency test busy: WRITEs from the active side, as many in flight at each as
/// the depth says. Their completions are looked for while an answer is waited for, as by a program with both in one
/// thread.
/// </summary>
internal sealed class BesideLoad
{
    private const int PollBatch = 16;

    private readonly BenchmarkEnd _end;
    private readonly EndMessage _peer;
    private readonly int _depth;
    private readonly ulong _first; // behind what the latency test uses
    private readonly ulong _slots;
    private readonly WorkCompletion[] _batch = new WorkCompletion[PollBatch];
    private ulong _next;
    private int _inFlight;

    public BesideLoad(BenchmarkEnd end, EndMessage peer, BenchmarkOptions options)
    {
        (_end, _peer, _depth) = (end, peer, options.Depth);
        _first = 2UL * (ulong)options.SizeBytes;
        _slots = ((ulong)options.EffectiveRegionBytes - _first) / BenchmarkOptions.BesideBytes;
    }

    /// <summary>Payload bytes of what has completed, of all rounds.</summary>
    public long CompletedBytes { get; private set; }

    /// <summary>Fills every queue pair.</summary>
    public void Start()
    {
        for (int i = 0; i < _depth; i++)
        {
            for (int pair = 0; pair < _end.BesidePairs.Length; pair++)
            {
                Post(pair);
            }
        }
    }

    /// <summary>Puts a new request in the place of each that has completed.</summary>
    public void Refill() => Collect(renews: true);

    /// <summary>Waits for what is in flight.</summary>
    /// <exception cref="WayleaveException">A request failed.</exception>
    public void Drain()
    {
        while (_inFlight > 0)
        {
            _end.Nic.Driver.TryProgress();
            Collect(renews: false);
        }
    }

    private void Collect(bool renews)
    {
        int count = _end.BesideSends!.Poll(_batch);
        for (int i = 0; i < count; i++)
        {
            ref readonly WorkCompletion completion = ref _batch[i];
            if (completion.Status != WorkCompletionStatus.Success)
            {
                throw new WayleaveException(
                    Errno.EIO, "measure latency", $"a request beside it ended with {completion.Status}");
            }

            _inFlight--;
            CompletedBytes += BenchmarkOptions.BesideBytes;
            if (renews)
            {
                Post((int)completion.WrId);
            }
        }
    }

    private void Post(int pair)
    {
        ulong offset = _first + _next++ % _slots * BenchmarkOptions.BesideBytes;
        SendWorkRequest request = new()
        {
            WrId = (ulong)pair,
            Opcode = WorkRequestOpcode.RdmaWrite,
            Flags = SendFlags.Signaled,
            RemoteAddress = _peer.Address + offset,
            RKey = _peer.RKey,
        };
        _end.BesidePairs[pair].PostSend(
            request, new Sge(_end.Region.Iova + offset, BenchmarkOptions.BesideBytes, _end.Region.Key))
            .ThrowIfFailed("measure latency: post beside it");
        _inFlight++;
    }
}
