using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;

namespace Wayleave.Linux.Pci;

/// <summary>
/// Lends the peer-to-peer memory that a driver of the kernel's offers: <see cref="IPeerMemoryOwner"/> over
/// <c>p2pmem/allocate</c>, as <see cref="PeerPoolLender"/> over a pool of ours. Devices of the host reach what is lent
/// through this process's mapping, so it counts as system memory to them; transfers between two real devices are the
/// kernel's (O_DIRECT on <see cref="TryGetMemory"/>). Host lock held by the caller.
/// </summary>
public sealed class KernelPeerMemory : IPeerMemoryOwner
{
    private readonly HostContext _host;
    private readonly PciFabric _fabric;

    /// <param name="host">Whose lock guards what is lent.</param>
    /// <param name="fabric">Through which devices of the host reach it.</param>
    /// <param name="file">The function's memory.</param>
    public KernelPeerMemory(HostContext host, PciFabric fabric, PeerMemoryFile file)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(file);
        (_host, _fabric, File) = (host, fabric, file);
        Quarantine = new Quarantine(host);
    }

    public PeerMemoryFile File { get; }

    /// <summary>Memory that was taken back and may still be in use.</summary>
    public Quarantine Quarantine { get; }

    /// <summary>The kernel's pool does, so nobody else may: every BAR of the function.</summary>
    public bool Allocates(PciBar bar)
    {
        ArgumentNullException.ThrowIfNull(bar);
        return bar.Owner.Address.ToString() == File.Address;
    }

    /// <inheritdoc/>
    /// <remarks>The kernel's errno; the bytes are cleared before this returns, in time in proportion.</remarks>
    public Errno TryLend(string name, ulong sizeBytes, out SharedBuffer? buffer)
    {
        buffer = null;
        if (sizeBytes is 0 or > int.MaxValue)
        {
            return sizeBytes == 0 ? Errno.EINVAL : Errno.ENOMEM;
        }

        Errno errno = File.TryAllocate((int)sizeBytes, out MappedMemory? memory);
        if (errno != Errno.Success)
        {
            return errno;
        }

        memory!.GetSpan().Clear();
        Loan loan = new(this, memory, _fabric.AddWindow(memory.Memory, owner: null), name);
        errno = SharedBuffer.TryExport(_host, new ExportInfo(loan, name, sizeBytes), out buffer);
        if (errno != Errno.Success)
        {
            loan.LetGo();
        }

        return errno;
    }

    /// <summary>
    /// The mapping of what is lent: for a read or write of the kernel's, which the owner waits for before
    /// <see cref="TakeBack"/>.
    /// </summary>
    /// <returns>False: not lent here, or given back.</returns>
    public bool TryGetMemory(SharedBuffer buffer, out Memory<byte> memory)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        bool isLent = buffer.Exporter is Loan { IsGone: false } loan && ReferenceEquals(loan.Lender, this);
        memory = isLent ? ((Loan)buffer.Exporter).Memory : default;
        return isLent;
    }

    /// <inheritdoc/>
    /// <remarks>The kernel gets the pages back when the operation has retired, at Drained or better.</remarks>
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
        loan.Removal = RevokeOperation.Start(buffer, policy);
        Quarantine.Hold(loan.Removal, loan.Name, buffer.SizeBytes, () =>
        {
            loan.LetGo();
            buffer.Release(); // the last attachment lets go of it, if there is one
        });
        return loan.Removal;
    }

    /// <summary>The exporter of one range.</summary>
    private sealed class Loan(KernelPeerMemory lender, MappedMemory mapped, MemoryWindow window, string holder)
        : IExporter
    {
        private readonly DmaAddressList _addresses = new([window.Range]);

        public KernelPeerMemory Lender => lender;

        public Memory<byte> Memory => mapped.Memory;

        public bool IsGone { get; private set; }

        public RevokeOperation? Removal { get; set; }

        public string Name => $"p2pmem {lender.File.Address} {holder}";

        public StorageKind Storage => StorageKind.Revocable;

        public Errno Attach(Attachment attachment) => Removal is null ? Errno.Success : Errno.ENODEV;

        public void Detach(Attachment attachment)
        {
            // An attachment by itself holds nothing.
        }

        public Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses) =>
            lender._fabric.TryMap(attachment.Device, _addresses, out addresses);

        public void Unmap(Attachment attachment, DmaAddressList addresses) =>
            lender._fabric.Unmap(attachment.Device, addresses);

        public void Release(SharedBuffer buffer) =>
            lender.TakeBack(buffer, new RevokePolicy { Reason = "released" });

        /// <summary>Nobody reaches it any more: the pages go back to the kernel's pool.</summary>
        public void LetGo()
        {
            IsGone = true;
            lender._fabric.RemoveWindow(window);
            ((IDisposable)mapped).Dispose();
        }
    }
}
