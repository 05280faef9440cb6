using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;

namespace Wayleave.Devices.Nvme;

/// <summary>A command for <see cref="NvmeDriver"/>: blocks of a namespace to or from addresses of the drive.</summary>
public sealed class NvmeTransfer
{
    public required NvmeOpcode Opcode { get; init; }

    public required uint NamespaceId { get; init; }

    public ulong StartLba { get; init; }

    /// <summary>Blocks; 0 for a flush.</summary>
    public int BlockCount { get; init; }

    /// <summary>The size of a block in bytes.</summary>
    public int BlockBytes { get; init; } = 512;

    /// <summary>
    /// Addresses as the drive reaches the memory, or null for a flush. They stay mapped until the end. A read may bring
    /// less than a block more than there is room for: that goes into a bit bucket.
    /// </summary>
    public DmaAddressList? Addresses { get; init; }

    /// <summary>The first byte of <see cref="Addresses"/> that is meant.</summary>
    public ulong Offset { get; init; }

    /// <summary>Called once, host lock held, when the drive does no more DMA for it.</summary>
    public Action<NvmeTransfer>? Ended { get; init; }

    /// <summary>How it ended.</summary>
    public NvmeStatus Status { get; internal set; }

    /// <summary>
    /// The same as an error number, by the table of <c>nvme_error_status</c>; ETIME for one that was aborted because it
    /// was late.
    /// </summary>
    public Errno Errno => IsLate && Status == NvmeStatus.AbortRequested ? Errno.ETIME : ToErrno(Status);

    internal int Slot { get; set; } = -1;

    /// <summary>Signals when the transfer has ended; null when nobody waits by a fence.</summary>
    internal Fence? Fence { get; init; }

    /// <summary>It was aborted because its time was over.</summary>
    internal bool IsLate { get; set; }

    /// <summary>How often an Abort that finds nothing is sent again at once; null while nobody wants the end.</summary>
    internal int? AbortsLeft { get; set; }

    /// <summary>An Abort is under way.</summary>
    internal bool IsAborting { get; set; }

    internal static Errno ToErrno(NvmeStatus status) => status switch
    {
        NvmeStatus.Success => Errno.Success,
        NvmeStatus.AbortRequested or NvmeStatus.QueueDeleted => Errno.ECANCELED,
        NvmeStatus.DataTransferError => Errno.EFAULT,
        NvmeStatus.LbaOutOfRange => Errno.EREMOTEIO,
        NvmeStatus.InvalidOpcode or NvmeStatus.InvalidField or NvmeStatus.InvalidNamespace => Errno.EOPNOTSUPP,
        NvmeStatus.WriteFault or NvmeStatus.UnrecoveredReadError => Errno.ENODATA,
        _ => Errno.EIO,
    };
}
