using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Configuration;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>
/// Measures copies by the GPUs' engines between every pair of devices of a host of its own, each beside plain copies
/// between the same places. The engines reach memory as always: through attachments, fences and their DMA ports.
/// </summary>
public static class CopyBenchmark
{
    // Until the engine's step is compiled for good.
    private static readonly TimeSpan s_warmUp = TimeSpan.FromMilliseconds(600);

    private const int ShrinkBy = 4;

    /// <summary>Starts the host, measures every pair, and stops it.</summary>
    /// <param name="options">What to run.</param>
    /// <param name="cancellation">Ends the benchmark between two rounds.</param>
    /// <exception cref="ArgumentException">The options do not work together; names every problem.</exception>
    /// <exception cref="ConfigurationException">Nor does the configuration.</exception>
    /// <exception cref="WayleaveException">The host cannot be started, or a copy failed.</exception>
    public static async Task<CopyBenchmarkReport> RunAsync(
        CopyBenchmarkOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        WayleaveHost host = await WayleaveHost.StartAsync(
            options.Config with { Nics = [.. options.Config.Nics.Select(n => n with { UdpPort = 0 })] })
            .ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            List<CopyPlace> places = Places(host);
            List<CopyCell> cells = [];
            bool isWarm = false;
            foreach (int size in options.SizesBytes)
            {
                foreach (CopyPlace from in places)
                {
                    foreach (CopyPlace to in places)
                    {
                        CopyCell cell = new()
                        {
                            SizeBytes = size,
                            From = from.Name,
                            To = to.Name,
                            Status = CopyStatus.Waived,
                        };
                        cells.Add(await MeasureAsync(host, options, cell, from, to, isWarm, cancellation)
                            .ConfigureAwait(false));
                        isWarm |= cells[^1].Status == CopyStatus.Passed;
                    }
                }
            }

            return new CopyBenchmarkReport
            {
                Depth = options.Depth,
                RegionBytes = options.RegionBytes,
                Processors = Environment.ProcessorCount,
                Devices = [.. places.Select(p => p.Name)],
                Cells = cells,
            };
        }
    }

    private static List<CopyPlace> Places(WayleaveHost host) =>
        [.. host.MemoryDevices.Select(d => new DevicePlace(d)), new HostPlace()];

    private static async Task<CopyCell> MeasureAsync(
        WayleaveHost host,
        CopyBenchmarkOptions options,
        CopyCell cell,
        CopyPlace from,
        CopyPlace to,
        bool isWarm,
        CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        if ((from.Engine ?? to.Engine) is not GpuDevice engine)
        {
            return cell with { Reason = "neither has a copy engine" };
        }

        cell = cell with { Engine = engine.Function.Name };
        if (FindRefusal(host, engine, from, to) is { } refusal)
        {
            return cell with { Status = CopyStatus.Refused, Reason = refusal };
        }

        // A controller memory buffer has less than others.
        for (int slots = options.SlotsOf(cell.SizeBytes); ; slots /= ShrinkBy)
        {
            ulong bytes = (ulong)Math.Max(1, slots) * (ulong)cell.SizeBytes;
            try
            {
                return await MeasureAsync(
                    host, options, cell with { RegionBytes = (long)bytes }, engine, from, to, isWarm, cancellation)
                    .ConfigureAwait(false);
            }
            catch (WayleaveException e) when (e.Errno is Errno.ENOSPC or Errno.ENOMEM)
            {
                if (slots <= 1)
                {
                    return cell with { Reason = $"needs {ByteSize.ToText((long)bytes)} at either end: {e.Reason}" };
                }
            }
        }
    }

    private static async Task<CopyCell> MeasureAsync(
        WayleaveHost host,
        CopyBenchmarkOptions options,
        CopyCell cell,
        GpuDevice engine,
        CopyPlace from,
        CopyPlace to,
        bool isWarm,
        CancellationToken cancellation)
    {
        ulong bytes = (ulong)cell.RegionBytes!.Value;
        List<CopyEnd> ends = [];
        try
        {
            ends.Add(await CopyEnd.OpenAsync(host.Context, from, engine, bytes).ConfigureAwait(false));
            ends.Add(await CopyEnd.OpenAsync(host.Context, to, engine, bytes).ConfigureAwait(false));
            int slots = (int)(bytes / (ulong)cell.SizeBytes);
            CopyPair pair = new(host, engine, ends[0], ends[1], cell.SizeBytes, slots, options.Depth);
            return await Task.Factory.StartNew(
                () => Measure(pair, options, cell, engine, isWarm, cancellation),
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default).ConfigureAwait(false);
        }
        finally
        {
            foreach (CopyEnd end in ends)
            {
                await end.CloseAsync().ConfigureAwait(false);
            }
        }
    }

    private static CopyCell Measure(
        CopyPair pair,
        CopyBenchmarkOptions options,
        CopyCell cell,
        GpuDevice engine,
        bool isWarm,
        CancellationToken cancellation)
    {
        DmaPort port = engine.CopyEngine.Port;
        long[] before = BytesByRoute(port);
        long wrong = pair.CountWrong();
        PeerRoute[] routes = [.. Enum.GetValues<PeerRoute>().Where(r => BytesByRoute(port)[(int)r] > before[(int)r])];
        cell = cell with { Routes = routes };
        if (wrong > 0)
        {
            return cell with { Status = CopyStatus.Failed, Reason = $"{wrong} bytes did not arrive" };
        }

        pair.RunPlain(isWarm ? options.Duration : s_warmUp);
        pair.RunEngine(isWarm ? options.Duration : s_warmUp);
        List<CopyRound> rounds = [];
        for (int i = 0; i < options.Rounds; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            double plain = pair.RunPlain(options.Duration);
            rounds.Add(new CopyRound(pair.RunEngine(options.Duration), plain));
        }

        return cell with
        {
            Status = CopyStatus.Passed,
            Rounds = rounds,
            MedianBytesPerS = Samples.Median(rounds.Select(r => r.BytesPerS)),
            MedianPlainBytesPerS = Samples.Median(rounds.Select(r => r.PlainBytesPerS)),
            MedianRatio = Samples.Median(rounds.Select(r => r.Ratio)),
        };
    }

    // The rules say why, which the errno of a map does not.
    private static string? FindRefusal(WayleaveHost host, GpuDevice engine, CopyPlace from, CopyPlace to)
    {
        using (host.Context.Enter())
        {
            foreach (CopyPlace place in (CopyPlace[])[from, to])
            {
                if (place.Function is { } owner && !ReferenceEquals(owner, engine.Function)
                    && owner.PeerDevice?.VerdictFor(engine.Function) is { IsSupported: false } verdict)
                {
                    return verdict.Refusal;
                }
            }
        }

        return null;
    }

    private static long[] BytesByRoute(DmaPort port) =>
        [.. Enum.GetValues<PeerRoute>().Select(r => port.BytesRead(r) + port.BytesWritten(r))];
}
