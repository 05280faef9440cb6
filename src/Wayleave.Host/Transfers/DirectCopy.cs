using System.Runtime.CompilerServices;
using Wayleave.Core;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Transfers;

//   this process                 source host                       target host
//   open transfer    --------->  a region, a queue pair: its end
//   create           ------------------------------------------->  an object without a name
//   lease, for that end  --------------------------------------->  a region, a queue pair: its end and key
//   start, with these  ------->  RDMA WRITE  ====================>
//                    <---------  progress, done
//   commit, with the checksum  --------------------------------->  checks, and gives it its name
//
// The transfer ends with our stream to the source, the lease and the unnamed object with ours to the target: whichever
// of the three processes dies, nothing is left.

/// <summary>
/// Copies an object of one host to another: the bytes go from the one to the other by RDMA, and this process, which may
/// talk to both, only introduces them. Neither host is given a credential for the other.
/// </summary>
/// <param name="source">Has the object.</param>
/// <param name="target">Gets it. An object of that name is replaced when the new one is whole.</param>
public sealed class DirectCopy(ControlClient source, ControlClient target)
{
    /// <summary>Called with the bytes that have arrived so far and all there are; on a thread of the copy.</summary>
    public Action<ulong, ulong>? Progress { get; init; }

    /// <summary>See <see cref="BulkTransfer.StallMax"/>.</summary>
    public TimeSpan StallMax { get; init; } = BulkTransfer.DefaultStallMax;

    /// <summary>The port of the source's NIC; null for the first whose cable is in.</summary>
    public int? SourcePort { get; init; }

    /// <summary>The port of the target's NIC; null for the one that its routes to the source name.</summary>
    public int? TargetPort { get; init; }

    /// <summary>Copies.</summary>
    /// <param name="from">An object of the source.</param>
    /// <param name="to">Its device and name at the target.</param>
    /// <param name="cancellation">Ends the copy; both hosts give up what they had made ready.</param>
    /// <exception cref="WayleaveException">Names the object and the host, the reason and the remedy.</exception>
    public async Task<CopyResult> CopyAsync(WlUrl from, WlUrl to, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(from);
        ArgumentNullException.ThrowIfNull(to);
        string operation = $"copy {from} to {to}";
        ObjectDocument found = await source
            .GetObjectAsync(from.Device!, from.Name!, cancellation).ConfigureAwait(false);
        HeldTransfer transfer = await source.OpenTransferAsync(
            from.Device!,
            from.Name!,
            new OpenTransferDocument { ObjectId = found.Id, Port = SourcePort },
            bytes => Progress?.Invoke(bytes, found.SizeBytes),
            cancellation).ConfigureAwait(false);
        await using (transfer.ConfigureAwait(false))
        {
            LeaseRequestDocument request = new()
            {
                Access = LeaseAccess.Write,
                Peer = transfer.Transfer.Local,
                Port = TargetPort,
            };
            MadeObject made = await MadeObject
                .CreateAsync(target, to, found.SizeBytes, cancellation).ConfigureAwait(false);
            await using ConfiguredAsyncDisposable unleased = made.ConfigureAwait(false);
            HeldLease lease = await made.LeaseAsync(request, cancellation).ConfigureAwait(false);
            await using (lease.ConfigureAwait(false))
            {
                await source.StartTransferAsync(
                    transfer.Transfer.Id, Describe(lease.Lease), cancellation).ConfigureAwait(false);
                TransferEventDocument end =
                    await AwaitEndAsync(transfer, lease, operation, cancellation).ConfigureAwait(false);
                ThrowIfFailed(end, operation);
                Progress?.Invoke(end.CompletedBytes, found.SizeBytes);
                string sha256 = found.Sha256
                    ?? (
                        await source.GetSha256Async(
                            from.Device!, from.Name!, cancellation).ConfigureAwait(false)).Sha256;
                await target.CommitObjectAsync(made.Id, sha256, cancellation).ConfigureAwait(false);
                TimeSpan elapsed = ProofDocument.FromMicroseconds(end.ElapsedUs ?? 0);
                return new CopyResult(found.SizeBytes, sha256, elapsed);
            }
        }
    }

    private StartTransferDocument Describe(LeaseDocument lease) => new()
    {
        Peer = lease.Local,
        Rkey = lease.Rkey,
        Va = lease.Va,
        LengthBytes = lease.LengthBytes,
        StallTimeoutMs = StallMax == Timeout.InfiniteTimeSpan ? -1 : (int)Math.Ceiling(StallMax.TotalMilliseconds),
    };

    // A lease that ends, because its owner or its host is gone, says more than the time-outs that the source reports
    // afterwards.
    private async Task<TransferEventDocument> AwaitEndAsync(
        HeldTransfer transfer, HeldLease lease, string operation, CancellationToken cancellation)
    {
        Task first = await Task
            .WhenAny(transfer.Completion, lease.Completion).WaitAsync(cancellation).ConfigureAwait(false);
        if (first == lease.Completion)
        {
            try
            {
                await first.ConfigureAwait(false);
            }
            catch (WayleaveException e)
            {
                throw Retell(e, operation, target.HostName);
            }
        }

        try
        {
            return await transfer.Completion.WaitAsync(cancellation).ConfigureAwait(false);
        }
        catch (WayleaveException e)
        {
            throw Retell(e, operation, source.HostName);
        }
    }

    // The user asked for a copy and has never heard of leases and transfers.
    private static WayleaveException Retell(WayleaveException e, string operation, string host) =>
        new(e.Errno, operation, $"{host}: {e.Reason}", e.Remedy, e);

    private void ThrowIfFailed(TransferEventDocument end, string operation)
    {
        if (end.Status is { } status)
        {
            status.ThrowIfFailed(operation, target.HostName, source.HostName);
        }

        if (end.Event == TransferEventKind.Failed)
        {
            Errno errno = Enum.TryParse(end.Errno, out Errno known) ? known : Errno.EREMOTEIO;
            string reason = end.Reason ?? "it failed without a reason";
            throw new WayleaveException(errno, operation, $"{target.HostName}: {reason}", end.Remedy);
        }
    }
}
