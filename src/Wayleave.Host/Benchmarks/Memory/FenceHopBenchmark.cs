using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Runners;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks.Memory;

// Two GPUs, each driven by a thread that spins. A chain of jobs that do nothing is submitted beforehand, each on the
// other engine than the one before, whose fence it waits for; then one of the two threads signals the first fence, and
// the time until the last one is divided by the number of hops. A hop is: end a job, signal its fence, be noticed by
// the other engine, choose the next job, run it.

/// <summary>How fast work goes from one engine to another by a fence: <c>wayleave bench fence-hop</c>.</summary>
internal sealed class FenceHopBenchmark
{
    private const int Hops = 32;
    private const int Page = 4096;

    // Until then most of what a hop runs is not compiled for the second time: that begins 100 ms after the last method
    // was new.
    private static readonly TimeSpan s_warmUp = TimeSpan.FromMilliseconds(1200);

    // Without work: looks between two at the processors, and until others may have this one.
    private const int LooksPerMark = 64;
    private const int LooksPerYield = 4096;

    // Before a chain is started: whoever submitted it has gone to sleep by then.
    private const int LooksBeforeChain = 2048;

    private readonly HostContext _host = new(TimeProvider.System);
    private readonly PciFabric _fabric = new();
    private readonly GpuDevice[] _gpus;
    private readonly ComputeQueue[] _queues;
    private readonly Timeline _start;
    private Fence? _first; // for the first of those that spin
    private long _started; // its time, read when the chain has ended

    private FenceHopBenchmark()
    {
        using (_host.Enter())
        {
            _gpus =
            [
                new GpuDevice(
                    _host, _fabric, new PciFunction("0000:01:00.0", "gpu0"), new GpuOptions(), [new byte[Page]],
                    [new byte[Page]]),
                new GpuDevice(
                    _host, _fabric, new PciFunction("0000:02:00.0", "gpu1"), new GpuOptions(), [new byte[Page]],
                    [new byte[Page]]),
            ];
            _queues = [.. _gpus.Select(g => g.OpenProcess("benchmark").CreateQueue("chain"))];
            _start = new Timeline(_host, "start");
        }
    }

    /// <summary>Each sample is the mean hop of one chain.</summary>
    public static List<double> Run(int chains, CancellationToken cancellation)
    {
        FenceHopBenchmark benchmark = new();
        using CancellationTokenSource stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        ProcessorMark[] marks = [.. benchmark._gpus.Select(_ => new ProcessorMark())];
        Thread[] drivers =
        [
            .. benchmark._gpus.Select((_, i) => new Thread(
                () => benchmark.Spin(i, marks[i], marks[1 - i], stop.Token))),
        ];
        foreach (Thread driver in drivers)
        {
            driver.IsBackground = true;
            driver.Start();
        }

        try
        {
            return benchmark.Measure(chains, cancellation);
        }
        finally
        {
            stop.Cancel();
            foreach (Thread driver in drivers)
            {
                driver.Join();
            }
        }
    }

    private List<double> Measure(int chains, CancellationToken cancellation)
    {
        List<double> hops = [];
        long warm = Stopwatch.GetTimestamp();
        while (hops.Count < chains)
        {
            cancellation.ThrowIfCancellationRequested();
            bool counts = Stopwatch.GetElapsedTime(warm) >= s_warmUp;
            (Fence first, Fence last) = Submit();
            long end = 0;
            using ManualResetEventSlim ended = new(initialState: false, spinCount: 0);
            using (_host.Enter())
            {
                last.TryAddCallback(_ =>
                {
                    end = Stopwatch.GetTimestamp();
                    ended.Set();
                });
            }

            Volatile.Write(ref _first, first);
            ended.Wait(cancellation); // asleep: the two that spin need the processors
            double elapsed = Stopwatch.GetElapsedTime(_started, end).TotalMicroseconds;
            if (last.Error != Errno.Success)
            {
                throw new InvalidOperationException($"a job that does nothing ended with {last.Error}");
            }

            if (counts)
            {
                hops.Add(elapsed / Hops);
            }
        }

        return hops;
    }

    private (Fence First, Fence Last) Submit()
    {
        byte[] nothing = new byte[GpuCommand.SizeBytes];
        new GpuCommand { Opcode = GpuOpcode.Nop }.Write(nothing);
        using (_host.Enter())
        {
            Fence first = _start.CreateFence(); // signalled by Measure
            Fence before = first;
            for (int hop = 0; hop < Hops; hop++)
            {
                SubmitOperation submitted = SubmitOperation.Start(
                    _queues[hop % 2], new GpuSubmission(GpuCommandMode.Paged, nothing, [before]));
                before = submitted.Fence
                    ?? throw new InvalidOperationException($"a job that does nothing was refused: {submitted.Error}");
            }

            return (first, before);
        }
    }

    // A look at a clock would take as long as a part of a hop, so idle time is counted in looks. Whoever spins on the
    // processor of the other, whom he waits for, yields to him; and now and then to anybody else.
    private void Spin(int index, ProcessorMark own, ProcessorMark other, CancellationToken stop)
    {
        QueueEngine engine = _gpus[index].ComputeEngine;

        // Each on one of its own, where there are two: woken beside each other they may stay so for long.
        _ = ProcessorAffinity.TryStayOn(index);
        uint idle = 0;
        while (!stop.IsCancellationRequested)
        {
            if (index == 0 && idle >= LooksBeforeChain && Volatile.Read(ref _first) is { } first)
            {
                StartChain(first);
            }

            if (engine.HasDoorbell) // what the thread of an engine in a host looks at: nothing else than one word
            {
                engine.Drive(int.MaxValue);
                idle = 0;
            }
            else if (++idle % LooksPerMark == 0)
            {
                own.Note();
                if (other.IsHere || idle % LooksPerYield == 0)
                {
                    Thread.Yield();
                }
            }
            else
            {
                Thread.SpinWait(1);
            }
        }
    }

    // By one of those that spin: a third thread would share a processor with one of them just then, and hold the host
    // lock there.
    private void StartChain(Fence first)
    {
        _first = null;
        using (_host.Enter())
        {
            _started = Stopwatch.GetTimestamp();
            first.Signal();
        }
    }
}
