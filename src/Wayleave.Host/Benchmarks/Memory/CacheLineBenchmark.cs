using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks.Memory;

/// <summary>
/// How long a word needs from one processor to another when both spin: what a hop costs at least. Measured beside the
/// hops, because the processors of a virtual machine are nearer or further from each other from one second to the next.
/// </summary>
internal sealed class CacheLineBenchmark
{
    private const int TurnsPerSample = 100;

    // Where both have one processor, the other one needs it now.
    private const int LooksPerYield = 64;

    private Line _line;
    private int _isOver;

    /// <summary>Each sample is the mean of so many ways there and back, halved, in microseconds.</summary>
    public static List<double> Run(int samples, CancellationToken cancellation)
    {
        CacheLineBenchmark benchmark = new();
        List<double> ways = [];
        Thread echo = new(benchmark.Echo) { IsBackground = true };
        Thread measure = new(() => benchmark.Measure(ways, samples, cancellation)) { IsBackground = true };
        echo.Start();
        measure.Start();
        measure.Join();
        Volatile.Write(ref benchmark._isOver, 1);
        echo.Join();
        cancellation.ThrowIfCancellationRequested();
        return ways;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Measure(List<double> ways, int samples, CancellationToken cancellation)
    {
        _ = ProcessorAffinity.TryStayOn(0);
        int turn = 0;
        for (int sample = 0; sample <= samples && !cancellation.IsCancellationRequested; sample++)
        {
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < TurnsPerSample; i++)
            {
                Volatile.Write(ref _line.Turn, ++turn);
                turn++;
                for (int looks = 1; Volatile.Read(ref _line.Turn) != turn; looks++)
                {
                    Wait(looks);
                }
            }

            if (sample > 0) // in the first one the other thread was started
            {
                ways.Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds / (2 * TurnsPerSample));
            }
        }
    }

    // Answers each odd number with the next even one.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Echo()
    {
        _ = ProcessorAffinity.TryStayOn(1);
        for (int looks = 1; Volatile.Read(ref _isOver) == 0; looks++)
        {
            int turn = Volatile.Read(ref _line.Turn);
            if ((turn & 1) != 0)
            {
                Volatile.Write(ref _line.Turn, turn + 1);
                looks = 0;
            }
            else
            {
                Wait(looks);
            }
        }
    }

    private static void Wait(int looks)
    {
        if (looks % LooksPerYield == 0)
        {
            Thread.Yield();
        }
        else
        {
            Thread.SpinWait(1);
        }
    }

    // Wherever the object begins.
    [StructLayout(LayoutKind.Explicit, Size = 384)]
    private struct Line
    {
        [FieldOffset(192)]
        public int Turn;
    }
}
