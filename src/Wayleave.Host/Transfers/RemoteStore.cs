using System.Runtime.CompilerServices;
using System.Security.Cryptography;
using Microsoft.Win32.SafeHandles;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Transfers;

/// <summary>
/// Writes a local file to a drive of another host, the NVMe-oF way: RDMA WRITE into the drive's controller memory
/// buffer, from where the drive writes its medium. A part is sent while the drive writes the ones before it.
/// </summary>
/// <param name="host">Where the local GPU and NIC are.</param>
/// <param name="remote">The other host.</param>
public sealed class RemoteStore(WayleaveHost host, ControlClient remote)
{
    /// <summary>One part: a window has up to <see cref="Slots"/> of them.</summary>
    public const ulong SlotBytes = 1 << 20;

    /// <summary>Parts that are on their way at once.</summary>
    public const int Slots = 4;

    private const ulong BlockBytes = 1UL << NvmeHandle.BlockShift;

    /// <summary>Called with the bytes that the drive has written so far, and all there are.</summary>
    public Action<ulong, ulong>? Progress { get; init; }

    /// <summary>See <see cref="BulkTransfer.StallMax"/>.</summary>
    public TimeSpan StallMax { get; init; } = BulkTransfer.DefaultStallMax;

    /// <summary>The port of the other host's NIC; null for the one that its routes to this host name.</summary>
    public int? RemotePort { get; init; }

    /// <summary>How much of the drive's memory buffer a file of that length is written through.</summary>
    public static ulong WindowBytes(ulong lengthBytes) =>
        Math.Min(Slots * SlotBytes, (lengthBytes + BlockBytes - 1) / BlockBytes * BlockBytes);

    /// <summary>
    /// Writes the file; a file of that name in the drive's folder is replaced when the new one is whole.
    /// </summary>
    /// <exception cref="WayleaveException">Names the file, drive or host, the reason and the remedy.</exception>
    public async Task<(StoredFileDocument Stored, TimeSpan Elapsed)> PushAsync(
        string path, WlUrl target, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(target);
        using SafeFileHandle file = LocalFile.OpenSource(path, out ulong length);
        ulong window = WindowBytes(length);
        DeviceObject local = await host.Objects
            .CreateAsync(host.Gpus[0].Name, "cp", window, storage: null, cancellation).ConfigureAwait(false);
        try
        {
            NicHandle nic = host.Nics[0];
            await using Connection connection = await Connection.OpenAsync(nic, local).ConfigureAwait(false);
            LeaseRequestDocument request = new()
            {
                Access = LeaseAccess.Write,
                Peer = ConnectionEndDocument.From(connection.Local),
                Port = RemotePort,
            };
            MadeObject made = await MadeObject
                .CreateAsync(remote, target, window, cancellation).ConfigureAwait(false);
            await using ConfiguredAsyncDisposable unleased = made.ConfigureAwait(false);
            await remote.OpenFileAsync(
                made.Id, new OpenFileDocument { SizeBytes = length }, cancellation).ConfigureAwait(false);
            HeldLease lease = await made.LeaseAsync(request, cancellation).ConfigureAwait(false);
            await using (lease.ConfigureAwait(false))
            {
                connection.Connect(lease.Lease.Local.ToEnd());
                using CancellationTokenRegistration abort = cancellation.Register(connection.Abort);
                TimeSpan start = host.Context.Now;
                Parts parts = new(this, local, made.Id, connection, lease, $"copy {path} to {target}");
                string sha256 = await parts.SendAsync(file, path, length, cancellation).ConfigureAwait(false);
                StoredFileDocument stored = await remote
                    .CommitFileAsync(made.Id, sha256, cancellation).ConfigureAwait(false);
                return (stored, host.Context.Now - start);
            }
        }
        finally
        {
            await host.Objects.AbortAsync(local, "the copy ended").ConfigureAwait(false);
        }
    }

    /// <summary>The parts of one file on their way.</summary>
    private sealed class Parts(
        RemoteStore store, DeviceObject local, ulong windowId, Connection connection, HeldLease lease, string operation)
    {
        private readonly Task[] _writes = [.. Enumerable.Repeat(Task.CompletedTask, Slots)];
        private ulong _written;

        public async Task<string> SendAsync(
            SafeFileHandle file, string path, ulong length, CancellationToken cancellation)
        {
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            int slot = 0;
            for (ulong offset = 0; offset < length; offset += SlotBytes, slot = (slot + 1) % Slots)
            {
                await _writes[slot].ConfigureAwait(false); // then the slot is free, here and there
                ulong bytes = Math.Min(SlotBytes, length - offset);
                ulong at = (ulong)slot * SlotBytes;
                ulong from = offset;
                await store.Host.Objects.ForEachPieceAsync(
                    local,
                    at,
                    bytes,
                    (position, piece) =>
                    {
                        LocalFile.ReadExactly(file, path, from + (position - at), piece);
                        hash.AppendData(piece);
                    },
                    cancellation).ConfigureAwait(false);
                await SendAsync(at, bytes, cancellation).ConfigureAwait(false);
                _writes[slot] = WriteAsync(at, offset, bytes, length, cancellation);
            }

            await Task.WhenAll(_writes).ConfigureAwait(false);
            return Convert.ToHexStringLower(hash.GetHashAndReset());
        }

        // By RDMA WRITE into the slot.
        private async Task SendAsync(ulong at, ulong bytes, CancellationToken cancellation)
        {
            BulkTransfer bulk = new(
                connection.Nic.Driver, connection.QueuePair, connection.Completions, store.Host.Context)
            {
                StallMax = store.StallMax,
            };
            BulkRange range = new(at, connection.Region.Key, lease.Lease.Va + at, lease.Lease.Rkey, bytes);
            Task<WorkCompletionStatus> transfer = Task.Factory.StartNew(
                () => bulk.Run(BulkDirection.Write, range, cancellation),
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default);
            if (await Task.WhenAny(transfer, lease.Completion).ConfigureAwait(false) == lease.Completion)
            {
                connection.Abort();
                await ((Task)transfer).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing); // the lease says why
                await ThrowLeaseEndAsync().ConfigureAwait(false);
            }

            WorkCompletionStatus status;
            try
            {
                status = await transfer.ConfigureAwait(false);
            }
            catch (TransferStalledException e)
            {
                throw e.ForOperation(operation, store.Remote.HostName);
            }

            cancellation.ThrowIfCancellationRequested();
            status.ThrowIfFailed(operation, store.Remote.HostName);
        }

        // By the drive, from the slot.
        private async Task WriteAsync(
            ulong at, ulong offset, ulong bytes, ulong length, CancellationToken cancellation)
        {
            WriteFileDocument write = new() { WindowOffset = at, FileOffset = offset, LengthBytes = bytes };
            await store.Remote.WriteFileAsync(windowId, write, cancellation).ConfigureAwait(false);
            store.Progress?.Invoke(Interlocked.Add(ref _written, bytes), length);
        }

        private async Task ThrowLeaseEndAsync()
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
    }

    private WayleaveHost Host => host;

    private ControlClient Remote => remote;
}
