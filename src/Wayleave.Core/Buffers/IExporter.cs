using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>What an exporter may do with its storage while others use it.</summary>
public enum StorageKind
{
    /// <summary>Stays where it is until the last attachment is gone.</summary>
    Static,

    /// <summary>
    /// Stays where it is, and may be taken back for good (<c>vfio_pci_dmabuf.c</c>): only importers that can be made to
    /// stop are let in.
    /// </summary>
    Revocable,

    /// <summary>
    /// May move at any time between uses, and may be taken back. Importers that cannot follow pin it, so its exporter
    /// is an <see cref="IPinningExporter"/> (<c>dma_buf_is_dynamic</c>).
    /// </summary>
    Movable,
}

/// <summary>
/// Who owns the memory behind a <see cref="SharedBuffer"/>: the mandatory part of <c>dma_buf_ops</c>. What is optional
/// there is an interface of its own here (<see cref="IPinningExporter"/>, <see cref="ICpuAccessExporter"/>,
/// <see cref="IVmapExporter"/>, <see cref="IMmapExporter"/>), so that half a pair cannot be written. Called with the
/// host lock held; nothing here blocks or calls back into Core.
/// </summary>
public interface IExporter
{
    /// <summary>For people and proofs: <c>gpu0 buffer 7</c>.</summary>
    string Name { get; }

    StorageKind Storage { get; }

    /// <summary>
    /// Looks at a new attachment. May clear <see cref="Attachment.PeerToPeer"/>; a refusal leaves nothing behind. Core
    /// has already refused importers that could not give the memory back (<see cref="SharedBuffer.TryAttach"/>).
    /// </summary>
    Errno Attach(Attachment attachment);

    /// <summary>The attachment is gone; it holds no mapping and no pin.</summary>
    void Detach(Attachment attachment);

    /// <summary>Where the storage is for the attachment's device. Reservation locked.</summary>
    /// <returns>
    /// Success with a list of exactly the buffer's length, or an errno with null. Null with success is ENOMEM to the
    /// importer, as in the kernel.
    /// </returns>
    Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses);

    /// <summary>
    /// Takes the list back. The reservation may be unlocked: an invalidated mapping ends when it has drained.
    /// </summary>
    void Unmap(Attachment attachment, DmaAddressList addresses);

    /// <summary>The last reference is gone, and with it every attachment, mapping and handle. Runs once.</summary>
    void Release(SharedBuffer buffer);

    /// <summary>
    /// Whether a buffer that was taken back may be mapped again: the storage is still the buffer's own, and nobody else
    /// has had it (memory decoding is on again, <c>vfio_pci_dmabuf.c</c>). Reservation locked.
    /// </summary>
    /// <returns>
    /// Success; otherwise the buffer stays dead. An exporter that gives storage away says EOPNOTSUPP.
    /// </returns>
    Errno Unrevoke(SharedBuffer buffer) => Errno.EOPNOTSUPP;
}

/// <summary>
/// An exporter that can be asked to keep its storage in place: <c>pin</c> and <c>unpin</c> of <c>dma_buf_ops</c>.
/// </summary>
public interface IPinningExporter : IExporter
{
    /// <summary>
    /// After success the storage does not move until as many <see cref="Unpin"/>. The exporter counts; Core knows only
    /// what each attachment holds. Reservation locked. It may start a last move itself, whose fence then stands in the
    /// reservation as KERNEL.
    /// </summary>
    Errno Pin(Attachment attachment);

    void Unpin(Attachment attachment);
}

/// <summary>
/// An exporter that prepares its storage for the processor: <c>begin_cpu_access</c> and <c>end_cpu_access</c>.
/// </summary>
public interface ICpuAccessExporter : IExporter
{
    /// <summary>
    /// The processor is about to read, write or both. Reservation not locked by the caller; the operation may start a
    /// move of its own.
    /// </summary>
    /// <param name="access">Which bytes, and in which direction.</param>
    /// <param name="maintenance">What has to be done to caches before the first touch.</param>
    /// <param name="work">
    /// A fence of work that must end first and may not stand in the reservation yet; or null.
    /// </param>
    /// <returns>An error ends the access before it began: no fence is waited for.</returns>
    Errno BeginCpuAccess(CpuAccess access, out CacheMaintenance maintenance, out Fence? work);

    /// <summary>The processor is done.</summary>
    /// <param name="access">As at the begin.</param>
    /// <param name="maintenance">What has to be done to caches before a device looks.</param>
    Errno EndCpuAccess(CpuAccess access, out CacheMaintenance maintenance);
}

/// <summary>An exporter that maps its storage for the host itself: <c>vmap</c> and <c>vunmap</c>.</summary>
public interface IVmapExporter : IExporter
{
    /// <summary>
    /// The bytes in one piece, in place until <see cref="Vunmap"/>; called for the first of nested requests.
    /// Reservation locked.
    /// </summary>
    Errno Vmap(SharedBuffer buffer, out Memory<byte> memory);

    /// <summary>The last of nested requests has ended. Reservation locked.</summary>
    void Vunmap(SharedBuffer buffer);
}

/// <summary>An exporter that lets processes map its storage: <c>mmap</c>.</summary>
public interface IMmapExporter : IExporter
{
    /// <summary>
    /// A process maps a range, which Core has checked. The storage stays in place until <see cref="Munmap"/>.
    /// </summary>
    Errno Mmap(CpuMapping mapping);

    /// <summary>The process has let go, or is dead.</summary>
    void Munmap(CpuMapping mapping);
}
