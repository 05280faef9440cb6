using System.Diagnostics;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Benchmarks.Memory;

// Two GPUs, each driven by a thread that spins. A chain of jobs that do nothing is submitted beforehand, each on the
// other engine than the one before, whose fence it waits for; then the first fence is signalled, and the time until the
// last one is divided by the number of hops. A hop is: end a job, signal its fence, be noticed by the other engine,
// choose the next job, run it.

/// <summary>How fast work goes from one engine to another by a fence: <c>wayleave bench fence-hop</c>.</summary>
internal sealed class FenceHopBenchmark
{
    private const int Hops = 32;
    private const int Page = 4096;

    // Without work: looks between two at the processors, and until others may have this one.
    private const int LooksPerMark = 64;
    private const int LooksPerYield = 4096;

    private readonly HostContext _host = new(TimeProvider.System);
    private readonly PciFabric _fabric = new();
    private readonly GpuDevice[] _gpus;
    private readonly ComputeQueue[] _queues;
    private readonly Timeline _start;

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
            .. benchmark._gpus.Select((gpu, i) => new Thread(
                () => Spin(gpu.ComputeEngine, marks[i], marks[1 - i], stop.Token))),
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
        for (int chain = -Math.Max(1, chains / 10); chain < chains; chain++)
        {
            cancellation.ThrowIfCancellationRequested();
            (Fence first, Fence last) = Submit();
            long end = 0;
            using SemaphoreSlim ended = new(0);
            long start;
            using (_host.Enter())
            {
                last.TryAddCallback(_ =>
                {
                    end = Stopwatch.GetTimestamp();
                    ended.Release();
                });
                start = Stopwatch.GetTimestamp();
                first.Signal();
            }

            ended.Wait(cancellation); // asleep: the two that spin need the processors
            double elapsed = Stopwatch.GetElapsedTime(start, end).TotalMicroseconds;
            if (last.Error != Errno.Success)
            {
                throw new InvalidOperationException($"a job that does nothing ended with {last.Error}");
            }

            if (chain >= 0)
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
    private static void Spin(QueueEngine engine, ProcessorMark own, ProcessorMark other, CancellationToken stop)
    {
        uint idle = 0;
        while (!stop.IsCancellationRequested)
        {
            if (engine.HasReadyJob)
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
}
