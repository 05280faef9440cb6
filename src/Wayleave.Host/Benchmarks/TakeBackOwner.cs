using System.Diagnostics;
using System.Globalization;
using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Audits;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// The owner in the revoke test. Each time: fresh memory, a fresh key and a fresh queue pair for the writer; once the
/// writer is well under way the memory is taken back, marked as a new owner would, and looked at again when the writer
/// has been refused.
/// </summary>
internal sealed class TakeBackOwner(BenchmarkEnd end, BenchmarkOptions options)
{
    // Bytes that the writer places first, so that every take-back meets a stream and not its beginning.
    private const long PlacedBefore = 1 << 20;

    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(10);

    private DeviceObject? _lent;
    private MemoryRegion? _region;
    private QueuePair? _pair;
    private TakeBackSample? _sample;
    private ulong _seed;

    /// <summary>Memory is lent and was not taken back yet.</summary>
    public bool IsLent => _lent is not null && _sample is null;

    public async Task<EndMessage> LendAsync(EndMessage writer)
    {
        _sample = null;
        _lent = await end.Host.Objects.CreateAsync(
            BenchmarkEnd.GpuName,
            "lent",
            (ulong)options.EffectiveRegionBytes,
            StorageKind.Movable).ConfigureAwait(false);
        _region = await end.Nic.RegisterAsync(
            end.Region.Domain,
            _lent.Buffer,
            new MemoryRegionRequest(
                0, _lent.SizeBytes, 0, AccessFlags.LocalWrite | AccessFlags.RemoteWrite, ImporterKind.Dynamic))
            .ConfigureAwait(false);
        _pair = end.Nic.CreateQueuePair(end.Region.Domain, end.Nic.PassiveCompletions);
        PairMessage pair = PairMessage.From(end.Nic.Connect(_pair, writer.Pairs[0].ToEnd(), AccessFlags.RemoteWrite));
        return new EndMessage([pair], _region.Key, _region.Iova, _region.LengthBytes);
    }

    /// <summary>Waits until the writer is under way, takes the memory back, and marks it.</summary>
    public async Task TakeBackAsync()
    {
        (DeviceObject lent, MemoryRegion region) = (_lent!, _region!);
        long start = Stopwatch.GetTimestamp();
        while (region.BytesPlaced < PlacedBefore)
        {
            if (Stopwatch.GetElapsedTime(start) > s_patience)
            {
                throw new IOException(
                    $"the writer placed only {region.BytesPlaced} bytes within {s_patience.TotalSeconds} s");
            }

            Thread.Sleep(1);
        }

        _sample = Measure(lent, region.BytesPlaced);
        _seed++;
        await end.Host.Objects
            .ForEachPieceAsync(lent, (offset, bytes) => OwnerPattern.Fill(_seed, offset, bytes)).ConfigureAwait(false);
    }

    /// <summary>After the writer was refused: counts what changed since the mark, and gives the memory up.</summary>
    public async Task<TakeBackSample> InspectAsync()
    {
        (DeviceObject lent, MemoryRegion region, TakeBackSample sample) = (_lent!, _region!, _sample!);
        long late = 0;
        await end.Host.Objects.ForEachPieceAsync(
            lent, (offset, bytes) => late += OwnerPattern.CountForeign(_seed, offset, bytes)).ConfigureAwait(false);
        end.Nic.Destroy(_pair!);
        await end.Nic.DeregisterAsync(region).ConfigureAwait(false);
        await end.Host.Objects
            .RevokeAsync(lent, new RevokePolicy { Reason = "the take-back was measured" }).ConfigureAwait(false);
        (_lent, _region, _pair) = (null, null, null);
        return sample with { LateBytes = late, RejectedBytes = region.BytesRejected };
    }

    private static TakeBackSample Measure(DeviceObject lent, long placedBytes)
    {
        (long voluntary, long involuntary) = ReadContextSwitches();
        long start = Stopwatch.GetTimestamp();
        RetirementProof proof = OwnerWait.Revoke(lent.Buffer, new RevokePolicy { Reason = "benchmark" });
        TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
        (long voluntaryAfter, long involuntaryAfter) = ReadContextSwitches();
        return new TakeBackSample(
            elapsed.TotalMicroseconds,
            proof.Grade.ToString(),
            voluntaryAfter - voluntary,
            involuntaryAfter - involuntary,
            LateBytes: 0,
            RejectedBytes: 0,
            placedBytes);
    }

    /// <summary>Of the calling thread (proc(5), /proc/thread-self/status).</summary>
    private static (long Voluntary, long Involuntary) ReadContextSwitches()
    {
        long voluntary = 0, involuntary = 0;
        foreach (string line in File.ReadLines("/proc/thread-self/status"))
        {
            if (line.StartsWith("voluntary_ctxt_switches:", StringComparison.Ordinal))
            {
                voluntary = Number(line);
            }
            else if (line.StartsWith("nonvoluntary_ctxt_switches:", StringComparison.Ordinal))
            {
                involuntary = Number(line);
            }
        }

        return (voluntary, involuntary);
    }

    private static long Number(string line) =>
        long.Parse(line.AsSpan(line.IndexOf(':', StringComparison.Ordinal) + 1), CultureInfo.InvariantCulture);
}
