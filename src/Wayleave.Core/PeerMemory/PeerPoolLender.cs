using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Core.PeerMemory;

/// <summary>
/// Lends memory of a <see cref="PeerPool"/>: the owner of a controller memory buffer, whose only allocator the pool is.
/// Host lock held by the caller.
/// </summary>
public sealed class PeerPoolLender : IPeerMemoryOwner
{
    private readonly HostContext _host;
    private readonly PciFabric _fabric;
    private readonly PeerPool _pool;

    /// <param name="host">The host of the pool's function.</param>
    /// <param name="fabric">Where it is plugged in.</param>
    /// <param name="pool">Whose memory is lent. Its device gets this as its owner.</param>
    public PeerPoolLender(HostContext host, PciFabric fabric, PeerPool pool)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(pool);
        (_host, _fabric, _pool) = (host, fabric, pool);
        Quarantine = new Quarantine(host);
        Clearing = new LentClearing(host, fabric);
        pool.Device.SetMemoryOwner(this);
    }

    /// <summary>Memory that was taken back and may still be in use.</summary>
    public Quarantine Quarantine { get; }

    /// <summary>Clears what is lent, before anybody uses it. The edge may give it a thread.</summary>
    public LentClearing Clearing
    {
        get;
        internal init
        {
            field = value;
            field.Failed = buffer => TakeBack(buffer, new RevokePolicy { Reason = "it could not be cleared" });
        }
    }

    /// <summary>Physical addresses of what was lent; afterwards where it was.</summary>
    public static DmaAddressList AddressesOf(SharedBuffer buffer)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        return ((Loan)buffer.Exporter).Allocation.Addresses;
    }

    /// <summary>
    /// Off gives a range back when its revoke starts, not when it is proven: for the test that must notice.
    /// </summary>
    internal bool WaitsForProof { get; init; } = true;

    // The pool does, and this only takes from it.
    bool IPeerMemoryOwner.Allocates(PciBar bar) => false;

    /// <inheritdoc/>
    /// <remarks>
    /// The bytes are cleared by <see cref="Clearing"/>, outside of the host lock. <see cref="Errno.EFAULT"/> where
    /// nothing is behind the BAR.
    /// </remarks>
    public Errno TryLend(string name, ulong sizeBytes, out SharedBuffer? buffer)
    {
        buffer = null;
        Errno errno = _pool.TryAllocate(sizeBytes, name, out PeerAllocation? allocation);
        if (errno != Errno.Success)
        {
            return errno;
        }

        Loan loan = new(this, allocation!);
        ExportInfo info = new(loan, name, allocation!.Range.LengthBytes);
        errno = SharedBuffer.TryExport(_host, info, out SharedBuffer? made);
        if (errno == Errno.Success)
        {
            errno = Clearing.TryBegin(made!, allocation.Range);
        }

        if (errno != Errno.Success)
        {
            loan.IsNothing = true;
            made?.Release();
            _pool.Free(allocation);
            return errno;
        }

        buffer = made;
        return Errno.Success;
    }

    /// <inheritdoc/>
    public RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        ArgumentNullException.ThrowIfNull(policy);
        Loan loan = (Loan)buffer.Exporter;
        if (loan.Removal is not null)
        {
            return loan.Removal;
        }

        // Below Drained somebody may still be inside, whatever the borrower is content with.
        policy = policy.RequiredGrade < RetirementGrade.Drained
            ? policy with { RequiredGrade = RetirementGrade.Drained }
            : policy;
        Clearing.Cancel(buffer);
        RevokeOperation operation = RevokeOperation.Start(buffer, policy);
        loan.Removal = operation;
        if (WaitsForProof)
        {
            Quarantine.Hold(operation, loan.Name, buffer.SizeBytes, () =>
            {
                _pool.Free(loan.Allocation);
                buffer.Release(); // the last attachment lets go of it, if there is one
            });
        }
        else
        {
            _pool.Free(loan.Allocation);
        }

        return operation;
    }

    /// <summary>The exporter of one range.</summary>
    private sealed class Loan(PeerPoolLender lender, PeerAllocation allocation) : IExporter
    {
        private readonly PeerProvider _provider = lender._pool.Device.Provider(allocation.Chunk.Bar.Index)!;

        public PeerAllocation Allocation { get; } = allocation;

        public RevokeOperation? Removal { get; set; }

        /// <summary>It was never lent: there is nothing to take back.</summary>
        public bool IsNothing { get; set; }

        public string Name => $"{_provider.Owner.Name} {Allocation.Holder}";

        public StorageKind Storage => StorageKind.Revocable;

        public Errno Attach(Attachment attachment)
        {
            if (Removal is not null)
            {
                return Errno.ENODEV;
            }

            attachment.PeerToPeer &= _provider.Device.VerdictFor(attachment.Device).IsSupported;
            return Errno.Success;
        }

        public void Detach(Attachment attachment)
        {
            // An attachment by itself holds nothing.
        }

        public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses)
        {
            addresses = null;
            if (!attachment.PeerToPeer)
            {
                return Errno.EINVAL;
            }

            Errno errno =
                _provider.TryMap(lender._fabric, attachment.Device, Allocation.Addresses, out addresses);
            return errno == Errno.EREMOTEIO ? Errno.EINVAL : errno; // dma_buf_phys_vec_to_sgt
        }

        public void Unmap(Attachment attachment, DmaAddressList addresses) =>
            _provider.Unmap(lender._fabric, attachment.Device, addresses);

        public void Release(SharedBuffer buffer)
        {
            if (!IsNothing)
            {
                lender.TakeBack(buffer, new RevokePolicy { Reason = "released" });
            }
        }
    }
}
