using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>What a copy did.</summary>
/// <param name="Bytes">Length of the object.</param>
/// <param name="Sha256">Of its content, checked at both ends.</param>
/// <param name="Elapsed">From the first posted byte to the last completion.</param>
public sealed record CopyResult(ulong Bytes, string Sha256, TimeSpan Elapsed)
{
    /// <summary>What the drive said, of a file that went to one; null for an object.</summary>
    public StoredFileDocument? Stored { get; init; }
}

/// <summary>
/// Copies between a local file and an object of another host: file bytes go straight into the memory of this host's
/// GPU, and from there over RDMA into the other's; or the way back. The other end shows the object only when it is
/// whole and its checksum is right.
/// </summary>
/// <param name="host">Where the local GPU and NIC are.</param>
/// <param name="remote">The other host.</param>
public sealed class RemoteCopy(WayleaveHost host, ControlClient remote)
{
    private readonly GpuHandle _gpu = host.Gpus[0];
    private readonly NicHandle _nic = host.Nics[0];

    /// <summary>Called once, when everything is ready and the first byte is about to be sent.</summary>
    public Action? Started { get; init; }

    /// <summary>Called with the bytes that have arrived so far; on a thread of the transfer.</summary>
    public Action<ulong, ulong>? Progress { get; init; }

    /// <summary>See <see cref="BulkTransfer.StallMax"/>.</summary>
    public TimeSpan StallMax { get; init; } = BulkTransfer.DefaultStallMax;

    /// <summary>The port of the other host's NIC; null for the one that its routes to this host name.</summary>
    public int? RemotePort { get; init; }

    /// <summary>
    /// Copies a file to <c>DEVICE/NAME</c> of the other host. An object of that name is replaced when the new one is
    /// whole.
    /// </summary>
    /// <exception cref="WayleaveException">Names the file, object or host, the reason and the remedy.</exception>
    public async Task<CopyResult> PushAsync(string path, WlUrl target, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(target);
        using SafeFileHandle file = LocalFile.OpenSource(path, out ulong length);

        // The own end first: as much memory may take longer to be cleared than the other end waits for a lease.
        DeviceObject source = await host.Objects
            .CreateAsync(_gpu.Name, "cp", length, StorageKind.Movable, cancellation).ConfigureAwait(false);
        try
        {
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            string sha256 = "";
            MadeObject? made = null;

            // A host that has no room is told before a byte is read. The file is read under the lease, whose heartbeats
            // keep the other end patient however slow the disk is.
            TransferPlan plan = new(LeaseAccess.Write, BulkDirection.Write, $"copy {path} to {target}")
            {
                LeaseAsync = async request =>
                {
                    made = await MadeObject.CreateAsync(remote, target, length, cancellation).ConfigureAwait(false);
                    await using (made.ConfigureAwait(false))
                    {
                        return await made.LeaseAsync(request, cancellation).ConfigureAwait(false);
                    }
                },
                Before = async () =>
                {
                    await host.Objects.ForEachPieceAsync(
                        source,
                        (offset, bytes) =>
                        {
                            LocalFile.ReadExactly(file, path, offset, bytes);
                            hash.AppendData(bytes);
                        },
                        cancellation).ConfigureAwait(false);
                    sha256 = Convert.ToHexStringLower(hash.GetHashAndReset());
                },
                After = () => remote.CommitObjectAsync(made!.Id, sha256, cancellation),
            };
            TimeSpan elapsed = await TransferAsync(source, plan, cancellation).ConfigureAwait(false);
            return new CopyResult(length, sha256, elapsed);
        }
        finally
        {
            await host.Objects.AbortAsync(source, "the copy ended").ConfigureAwait(false);
        }
    }

    /// <summary>Copies an object of the other host to a file, which appears under its name when it is whole.</summary>
    /// <exception cref="WayleaveException">Names the file, object or host, the reason and the remedy.</exception>
    public async Task<CopyResult> PullAsync(WlUrl source, string path, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(source);
        ObjectDocument found = await remote
            .GetObjectAsync(source.Device!, source.Name!, cancellation).ConfigureAwait(false);
        DeviceObject target = await host.Objects
            .CreateAsync(_gpu.Name, "cp", found.SizeBytes, StorageKind.Movable, cancellation).ConfigureAwait(false);
        try
        {
            CopyResult? result = null;
            await LocalFile.WriteWholeAsync(path, found.SizeBytes, async file =>
            {
                string operation = $"copy {source} to {path}";
                TransferPlan plan = new(LeaseAccess.Read, BulkDirection.Read, operation)
                {
                    LeaseAsync = request => remote.LeaseAsync(found.Id, request, cancellation),
                };
                TimeSpan elapsed = await TransferAsync(target, plan, cancellation).ConfigureAwait(false);
                using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
                await host.Objects.ForEachPieceAsync(
                    target,
                    (offset, bytes) =>
                    {
                        hash.AppendData(bytes);
                        RandomAccess.Write(file, bytes, (long)offset);
                    },
                    cancellation).ConfigureAwait(false);
                string sha256 = Convert.ToHexStringLower(hash.GetHashAndReset());
                string expected = found.Sha256
                    ?? (await remote
                        .GetSha256Async(source.Device!, source.Name!, cancellation).ConfigureAwait(false)).Sha256;
                if (sha256 != expected)
                {
                    throw new WayleaveException(
                        Errno.EIO,
                        operation,
                        $"the checksum is {sha256}, {expected} was expected",
                        "somebody writes to the object; copy it again");
                }

                result = new CopyResult(found.SizeBytes, sha256, elapsed);
            }).ConfigureAwait(false);
            return result!;
        }
        finally
        {
            await host.Objects.AbortAsync(target, "the copy ended").ConfigureAwait(false);
        }
    }

    private async Task<WorkCompletionStatus> AwaitTransferAsync(
        Task<WorkCompletionStatus> transfer, string operation)
    {
        try
        {
            return await transfer.ConfigureAwait(false);
        }
        catch (TransferStalledException e)
        {
            throw e.ForOperation(operation, remote.HostName);
        }
    }

    private static async Task AwaitLeaseEndAsync(HeldLease lease, string operation)
    {
        try
        {
            await lease.Completion.ConfigureAwait(false);
        }
        catch (WayleaveException e)
        {
            // The user asked for a copy and has never heard of the lease.
            throw new WayleaveException(e.Errno, operation, e.Reason, e.Remedy, e);
        }
    }

    private sealed record TransferPlan(LeaseAccess Access, BulkDirection Direction, string Operation)
    {
        /// <summary>Leases the object of the other end, which may have to be made.</summary>
        public required Func<LeaseRequestDocument, Task<HeldLease>> LeaseAsync { get; init; }

        /// <summary>Runs when the lease is there, before the first byte is posted.</summary>
        public Func<Task>? Before { get; init; }

        /// <summary>Runs when the last byte has arrived, while the lease is still there.</summary>
        public Func<Task>? After { get; init; }
    }

    private async Task<TimeSpan> TransferAsync(
        DeviceObject local, TransferPlan plan, CancellationToken cancellation)
    {
        await using Connection connection = await Connection.OpenAsync(_nic, local).ConfigureAwait(false);
        LeaseRequestDocument request = new()
        {
            Access = plan.Access,
            Peer = ConnectionEndDocument.From(connection.Local),
            Port = RemotePort,
        };
        HeldLease lease = await plan.LeaseAsync(request).ConfigureAwait(false);
        await using (lease.ConfigureAwait(false))
        {
            connection.Connect(lease.Lease.Local.ToEnd());
            await (plan.Before?.Invoke() ?? Task.CompletedTask).ConfigureAwait(false);
            using CancellationTokenRegistration abort = cancellation.Register(connection.Abort);
            Started?.Invoke();
            TimeSpan start = host.Context.Now;
            BulkTransfer bulk = new(_nic.Driver, connection.QueuePair, connection.Completions, host.Context)
            {
                Progress = bytes => Progress?.Invoke(bytes, local.SizeBytes),
                StallMax = StallMax,
            };
            BulkRange range = new(0, connection.Region.Key, lease.Lease.Va, lease.Lease.Rkey, local.SizeBytes);
            Task<WorkCompletionStatus> transfer = Task.Factory.StartNew(
                () => bulk.Run(plan.Direction, range, cancellation),
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default);

            // A lease that ends, because its owner or its host is gone, says more than the time-outs that follow on the
            // wire.
            if (await Task.WhenAny(transfer, lease.Completion).ConfigureAwait(false) == lease.Completion)
            {
                connection.Abort();
                // lease.Completion says why
                await ((Task)transfer).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                await AwaitLeaseEndAsync(lease, plan.Operation).ConfigureAwait(false);
            }

            WorkCompletionStatus status = await AwaitTransferAsync(transfer, plan.Operation).ConfigureAwait(false);
            cancellation.ThrowIfCancellationRequested(); // which flushed the queue pair: its status is no news
            status.ThrowIfFailed(plan.Operation, remote.HostName);
            TimeSpan elapsed = host.Context.Now - start;
            await (plan.After?.Invoke() ?? Task.CompletedTask).ConfigureAwait(false);
            return elapsed;
        }
    }
}
