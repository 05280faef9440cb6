using System.Runtime.CompilerServices;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Audits;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Cli.Demo;

/// <summary>
/// The second half of the demo: host A writes to memory of host B without a pause while B takes it back, gives it to a
/// new owner who marks every byte, and looks for late bytes. A then connects again and again and tries the old key, to
/// write and to read.
/// </summary>
internal sealed class TakeBackRun(WayleaveHost host, ControlClient peer)
{
    private const ulong SizeBytes = 16UL << 20;
    // the rest is never written, so that a late read would find the new owner's bytes
    private const ulong WrittenBytes = 12UL << 20;
    private const ulong WarmUpBytes = 8UL << 20;
    private const uint AttemptBytes = 256 * 1024;
    private const int Attempts = 8;

    // A broken responder lets the writer go on: this much more is enough for every byte to be overwritten.
    private static readonly TimeSpan s_grace = TimeSpan.FromMilliseconds(300);

    /// <summary>Takes one region back under load.</summary>
    /// <returns>What was found, and the proof.</returns>
    public async Task<(TakeBackReport Report, ProofDocument Proof)> RunAsync(
        string name, ImporterKind kind, ulong seed, CancellationToken cancellation)
    {
        StorageKind storage = kind == ImporterKind.Dynamic ? StorageKind.Movable : StorageKind.Revocable;
        ObjectDocument made = await peer.CreateObjectAsync(
            new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = SizeBytes, Storage = storage },
            cancellation).ConfigureAwait(false);
        await peer.CommitObjectAsync(made.Id, null, cancellation).ConfigureAwait(false);
        DeviceObject source = await host.Objects
            .CreateAsync("gpu0", name, SizeBytes, StorageKind.Movable, cancellation).ConfigureAwait(false);
        await host.Objects.ForEachPieceAsync(
            source, (offset, bytes) => OwnerPattern.Fill(~seed, offset, bytes), cancellation).ConfigureAwait(false);
        Connection connection = await Connection.OpenAsync(host.Nics[0], source).ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            LeaseRequestDocument request = new()
            {
                Access = LeaseAccess.ReadWrite,
                Region = kind,
                Peer = ConnectionEndDocument.From(connection.Local),
            };
            HeldLease lease = await peer.LeaseAsync(made.Id, request, cancellation).ConfigureAwait(false);
            await using (lease.ConfigureAwait(false))
            {
                connection.Connect(lease.Lease.Local.ToEnd());
                return await RunAsync(
                    name, kind, seed, source, connection, lease.Lease, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async Task<(TakeBackReport Report, ProofDocument Proof)> RunAsync(
        string name,
        ImporterKind kind,
        ulong seed,
        DeviceObject source,
        Connection connection,
        LeaseDocument lease,
        CancellationToken cancellation)
    {
        using CancellationTokenSource stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        BulkRange range = new(0, connection.Region.Key, lease.Va, lease.Rkey, WrittenBytes);
        ByteCount written = new();
        Task<WorkCompletionStatus> writer = Task.Factory.StartNew(
            () => WriteUntilStopped(connection, range, written.Tell, stop.Token),
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        await written.WaitAsync(WarmUpBytes, writer, cancellation).ConfigureAwait(false);

        HeldAudit held = await peer.StartAuditAsync(
            "gpu0",
            name,
            new StartAuditDocument { Seed = seed, Reason = $"demo: {name} taken back under load" },
            cancellation).ConfigureAwait(false);
        await using ConfiguredAsyncDisposable untilSeen = held.ConfigureAwait(false);
        AuditDocument audit = held.Audit;
        ulong before = written.Bytes;
        await Task.WhenAny(writer, Task.Delay(s_grace, cancellation)).ConfigureAwait(false);
        await stop.CancelAsync().ConfigureAwait(false);
        WorkCompletionStatus ended = await writer.ConfigureAwait(false);

        (int refused, long lateReads) = await AttackAsync(
            source, connection, lease, seed, cancellation).ConfigureAwait(false);
        AuditFindingsDocument found = await peer.InspectAuditAsync(audit.Id, cancellation).ConfigureAwait(false);
        await peer.EndAuditAsync(audit.Id, cancellation).ConfigureAwait(false);
        AuditedRegionDocument? region = found.Regions.FirstOrDefault(r => r.Key == lease.Rkey);
        return (new TakeBackReport
        {
            Name = name,
            Region = kind == ImporterKind.Dynamic ? "dynamic" : "pinned_revocable",
            Rkey = lease.Rkey,
            RevokeUs = audit.Proof.DurationUs,
            ReclaimedBytes = SizeBytes,
            OverlapBytes = audit.OverlapBytes,
            WrittenBeforeBytes = (long)before,
            LastPlacedPsn = region?.LastPlacedPsn,
            FirstRefusedPsn = region?.FirstRefusedPsn,
            RejectedBytes = found.RejectedBytes,
            LateWriteBytes = found.LateWriteBytes,
            LateReadBytes = lateReads,
            KeyReused = found.KeyReused,
            WriterStatus = ended.ToString(),
            Attempts = Attempts,
            Refused = refused,
        }, audit.Proof);
    }

    private WorkCompletionStatus WriteUntilStopped(
        Connection connection, BulkRange range, Action<ulong> report, CancellationToken stop)
    {
        ulong total = 0;
        BulkTransfer bulk = new(connection.Nic.Driver, connection.QueuePair, connection.Completions, host.Context)
        {
            Progress = bytes => report(total + bytes),
        };
        while (!stop.IsCancellationRequested)
        {
            try
            {
                WorkCompletionStatus status = bulk.Run(BulkDirection.Write, range, stop);
                if (status != WorkCompletionStatus.Success)
                {
                    return status;
                }
            }
            catch (OperationCanceledException)
            {
                break;
            }

            total += range.LengthBytes;
        }

        return WorkCompletionStatus.Success;
    }

    // The old user does not give up: a new queue pair each time, in the same protection domain, with the key it was
    // once granted.
    private async Task<(int Refused, long LateReads)> AttackAsync(
        DeviceObject source, Connection connection, LeaseDocument lease, ulong seed, CancellationToken cancellation)
    {
        BulkRange write = new(0, connection.Region.Key, lease.Va, lease.Rkey, AttemptBytes);
        BulkRange read = new(WrittenBytes, connection.Region.Key, lease.Va + WrittenBytes, lease.Rkey, AttemptBytes);
        int refused = 0;
        long lateReads = 0;
        for (int attempt = 0; attempt < Attempts; attempt++)
        {
            connection.Renew();
            ConnectionEndDocument end = ConnectionEndDocument.From(connection.Local);
            ConnectionEndDocument remote = await peer.ReconnectAsync(lease.Id, end, cancellation).ConfigureAwait(false);
            connection.Connect(remote.ToEnd());
            bool reads = attempt % 2 == 0;
            BulkTransfer bulk = new(connection.Nic.Driver, connection.QueuePair, connection.Completions, host.Context);
            WorkCompletionStatus status = await Task.Run(
                () => reads
                    ? bulk.Run(BulkDirection.Read, read, cancellation)
                    : bulk.Run(BulkDirection.Write, write, cancellation),
                cancellation).ConfigureAwait(false);
            refused += status == WorkCompletionStatus.RemoteAccessError ? 1 : 0;
            if (reads && status == WorkCompletionStatus.Success)
            {
                lateReads += await CountReadAsync(source, seed, cancellation).ConfigureAwait(false);
            }
        }

        return (refused, lateReads);
    }

    private async Task<long> CountReadAsync(DeviceObject source, ulong seed, CancellationToken cancellation)
    {
        long count = 0;
        await host.Objects.ForEachPieceAsync(
            source,
            (offset, bytes) => count += offset == WrittenBytes
                ? OwnerPattern.CountMatching(seed, offset, bytes[..(int)AttemptBytes])
                : 0,
            cancellation).ConfigureAwait(false);
        return count;
    }
}
