using System.Net;
using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Audits;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Tracing;
using Wayleave.Host.Transfers;

namespace Wayleave.Cli.Demo;

/// <summary>What to do in a demo.</summary>
/// <param name="File">The source, or null for seeded data.</param>
/// <param name="SeededBytes">How much seeded data.</param>
/// <param name="Break">A defence of host B to switch off, or null.</param>
/// <param name="Trace">Events of both hosts are kept.</param>
/// <param name="PcapFile">Where host A's packets go, or null.</param>
internal sealed record DemoOptions(string? File, ulong SeededBytes, string? Break, bool Trace, string? PcapFile);

/// <summary>
/// The main job, for real: a file goes into the memory of a software GPU on host A, over RoCEv2 into that of host B,
/// another process, while B's GPU evicts and restores the buffer underneath; then B takes memory back while A writes,
/// and proves it.
/// </summary>
internal sealed class DemoRun(DemoOptions options, DemoStory story)
{
    private const string ObjectName = "demo";
    private const int MovesWanted = 4;
    private const long ExtraVramBytes = 96L << 20; // the take-back regions and what audits make of them
    private const ulong Seed = 0x57_41_59_4C_45_41_56_45;

    // The transfer starts the next move when it has come this far, in sixteenths; its last sixteenth waits for all of
    // them.
    private static readonly ulong[] s_moveAt = [1, 4, 8, 12];

    public ChromeTrace? Trace { get; } = options.Trace ? new ChromeTrace("host A") : null;

    /// <summary>
    /// Where host B left its events; read it before this returns control to the disposal of the peer.
    /// </summary>
    public Action<string>? PeerTrace { get; init; }

    public async Task<DemoReport> RunAsync(CancellationToken cancellation)
    {
        ulong length = options.SeededBytes;
        using SafeFileHandle? file = options.File is null ? null : LocalFile.OpenSource(options.File, out length);
        ThrowIfTooLarge(length);
        long vram = RoundUp((long)length + ExtraVramBytes);
        IPAddress addressA = new([127, 0, 0, 2]), addressB = new([127, 0, 0, 3]);
        DemoPeer peer = await DemoPeer
            .StartAsync(addressB, vram, options.Break, options.Trace, cancellation).ConfigureAwait(false);
        await using (peer.ConfigureAwait(false))
        {
            HostConfig config = new()
            {
                Name = "demo",
                Gpus = [new GpuConfig { VramBytes = vram, SystemPoolBytes = 0 }],
                Nics = [new NicConfig { Address = addressA, UdpPort = 0 }],
            };
            using PcapFile? capture = Parsing.Capture(options.PcapFile);
            WayleaveHostOptions hostOptions = new()
            {
                Trace = Trace,
                Tap = capture is null ? null : capture.Of,
            };
            WayleaveHost host = await WayleaveHost.StartAsync(config, hostOptions).ConfigureAwait(false);
            await using (host.ConfigureAwait(false))
            {
                story.Begin(host, peer);
                DemoReport report = await RunAsync(host, peer.Client, file, length, cancellation).ConfigureAwait(false);
                story.End(report);
                await peer.StopAsync().ConfigureAwait(false);
                if (peer.TraceFile is { } traceFile && File.Exists(traceFile))
                {
                    PeerTrace?.Invoke(traceFile);
                }

                return report;
            }
        }
    }

    // A's memory, B's, and where B evicts to. A machine that is out of memory kills processes, and not always ours.
    private static void ThrowIfTooLarge(ulong length)
    {
        const int Copies = 3;
        long available = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes;
        if (length > (ulong)available / Copies)
        {
            throw new WayleaveException(
                Errno.ENOMEM,
                $"send {ByteSize.Format(length)}",
                $"both hosts need {Copies} times that, and this machine has {ByteSize.Format(available)} of memory",
                "give a smaller FILE or --size");
        }
    }

    private async Task<DemoReport> RunAsync(
        WayleaveHost host, ControlClient peer, SafeFileHandle? file, ulong length, CancellationToken cancellation)
    {
        DeviceObject source = await host.Objects
            .CreateAsync("gpu0", ObjectName, length, StorageKind.Movable, cancellation).ConfigureAwait(false);
        string sha256 = await LoadAsync(host, source, file, cancellation).ConfigureAwait(false);
        story.Loaded(options.File, length, sha256);

        StatsDocument before = await peer.GetStatsAsync(cancellation).ConfigureAwait(false);
        (TimeSpan elapsed, int moves) = await TransferAsync(host, peer, source, cancellation).ConfigureAwait(false);
        DigestDocument digest = await peer.GetSha256Async("gpu0", ObjectName, cancellation).ConfigureAwait(false);
        StatsDocument after = await peer.GetStatsAsync(cancellation).ConfigureAwait(false);
        double throughput = length / elapsed.TotalSeconds;
        long retransmits = host.Nics[0].Device.Port.Stats.Retransmits;
        story.Transferred(digest.Sha256 == sha256, throughput, moves, Delta(before, after, "faults"), retransmits);

        List<TakeBackReport> regions = [];
        List<ProofDocument> proofs = [];
        TakeBackRun takeBack = new(host, peer);
        (string, ImporterKind)[] lent =
            [("lent-dynamic", ImporterKind.Dynamic), ("lent-pinned", ImporterKind.PinnedRevocable)];
        foreach ((string name, ImporterKind kind) in lent)
        {
            (TakeBackReport region, ProofDocument proof) = await takeBack
                .RunAsync(name, kind, Seed + (ulong)regions.Count, cancellation).ConfigureAwait(false);
            regions.Add(region);
            proofs.Add(proof);
            story.TakenBack(region, proof);
        }

        StatsDocument last = await peer.GetStatsAsync(cancellation).ConfigureAwait(false);
        DemoReport report = new()
        {
            Bytes = length,
            Sha256 = sha256,
            Sha256Match = digest.Sha256 == sha256,
            StagingBytes = StagedBytes(host) + Total(last, "staged_bytes"),
            Moves = moves,
            DynamicFaults = Delta(before, after, "faults"),
            Retransmits = host.Nics[0].Device.Port.Stats.Retransmits,
            ThroughputBytesPerS = throughput,
            RevokeGrade = proofs.Min(p => p.Grade).ToString(),
            RevokeUs = regions.Max(r => r.RevokeUs),
            BytesRejectedAfterRevoke = regions.Sum(r => r.RejectedBytes),
            LateWrites = regions.Sum(r => r.LateWriteBytes),
            LateReads = regions.Sum(r => r.LateReadBytes),
            KeyReused = regions.Any(r => r.KeyReused),
            IcrcCheck = host.Nics[0].Device.Port.Stats.IcrcChecksSolved == 0 ? "full" : "16_bits",
            Proof = proofs,
            TakenBack = regions,
        };
        return report with { Passed = IsGood(report) };
    }

    private static bool IsGood(DemoReport report) =>
        report.Sha256Match
        && report is { LateWrites: 0, LateReads: 0, KeyReused: false, RevokeGrade: "Retired" }
        && report is { Moves: >= MovesWanted, BytesRejectedAfterRevoke: > 0 }
        && report.TakenBack.All(r => r.OverlapBytes == r.ReclaimedBytes && r.Refused == r.Attempts);

    private async Task<string> LoadAsync(
        WayleaveHost host, DeviceObject source, SafeFileHandle? file, CancellationToken cancellation)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        await host.Objects.ForEachPieceAsync(
            source,
            (offset, bytes) =>
            {
                if (file is null)
                {
                    OwnerPattern.Fill(Seed, offset, bytes);
                }
                else
                {
                    LocalFile.ReadExactly(file, options.File!, offset, bytes);
                }

                hash.AppendData(bytes);
            },
            cancellation).ConfigureAwait(false);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    private async Task<(TimeSpan Elapsed, int Moves)> TransferAsync(
        WayleaveHost host, ControlClient peer, DeviceObject source, CancellationToken cancellation)
    {
        ulong length = source.SizeBytes;
        ObjectDocument target = await peer.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = ObjectName, SizeBytes = length },
            cancellation).ConfigureAwait(false);
        await peer.CommitObjectAsync(target.Id, null, cancellation).ConfigureAwait(false);
        Connection connection = await Connection.OpenAsync(host.Nics[0], source).ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            LeaseRequestDocument request =
                new() { Access = LeaseAccess.Write, Peer = ConnectionEndDocument.From(connection.Local) };
            HeldLease lease = await peer.LeaseAsync(target.Id, request, cancellation).ConfigureAwait(false);
            await using (lease.ConfigureAwait(false))
            {
                connection.Connect(lease.Lease.Local.ToEnd());
                ByteCount completed = new();
                int moves = 0;
                using CancellationTokenSource failed = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
                BulkTransfer bulk = new(
                    connection.Nic.Driver, connection.QueuePair, connection.Completions, host.Context)
                {
                    Progress = bytes =>
                    {
                        completed.Tell(bytes);
                        story.Progress(bytes);
                    },
                    PostLimit = () => Volatile.Read(ref moves) < MovesWanted ? length / 16 * 15 : length,
                };
                BulkRange range = new(0, connection.Region.Key, lease.Lease.Va, lease.Lease.Rkey, length);
                story.Sending(length);
                TimeSpan start = host.Context.Now;
                Task<WorkCompletionStatus> transfer = Task.Factory.StartNew(
                    () => bulk.Run(BulkDirection.Write, range, failed.Token),
                    CancellationToken.None,
                    TaskCreationOptions.LongRunning,
                    TaskScheduler.Default);
                try
                {
                    while (moves < MovesWanted && !transfer.IsCompleted)
                    {
                        await completed
                            .WaitAsync(length / 16 * s_moveAt[moves], transfer, cancellation).ConfigureAwait(false);
                        if (transfer.IsCompleted)
                        {
                            break;
                        }

                        ObjectDocument moved = moves % 2 == 0
                            ? await peer.EvictAsync("gpu0", ObjectName, cancellation).ConfigureAwait(false)
                            : await peer.RestoreAsync("gpu0", ObjectName, cancellation).ConfigureAwait(false);
                        story.Moved(
                            moved.Placement == ObjectPlace.Vram ? "restored to VRAM" : "evicted to system memory",
                            completed.Bytes,
                            length);
                        Volatile.Write(ref moves, moves + 1);
                    }
                }
                catch
                {
                    await failed.CancelAsync().ConfigureAwait(false);
                    connection.Abort();
                    // the first failure is the one to tell
                    await ((Task)transfer).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                    throw;
                }

                WorkCompletionStatus status = await transfer.ConfigureAwait(false);
                status.ThrowIfFailed("transfer", peer.HostName);
                return (host.Context.Now - start, moves);
            }
        }
    }

    private static long StagedBytes(WayleaveHost host) =>
        host.Nics.Sum(
            n => n.Device.Port.Dma.BytesRead(PeerRoute.Staging) + n.Device.Port.Dma.BytesWritten(PeerRoute.Staging))
        + host.Gpus.Select(g => g.Device.CopyEngine.Port).Sum(
            p => p.BytesRead(PeerRoute.Staging) + p.BytesWritten(PeerRoute.Staging));

    private static long Delta(StatsDocument before, StatsDocument after, string counter) =>
        Total(after, counter) - Total(before, counter);

    private static long Total(StatsDocument stats, string counter) =>
        stats.Devices.Values.Sum(d => d.GetValueOrDefault(counter));

    private static long RoundUp(long bytes) =>
        (bytes + GpuConfig.GranuleBytes - 1) / GpuConfig.GranuleBytes * GpuConfig.GranuleBytes;
}
