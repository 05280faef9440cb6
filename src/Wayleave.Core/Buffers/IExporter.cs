using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>What an exporter may do with its storage while others use it.</summary>
public enum StorageKind
{
    /// <summary>Stays where it is until the last attachment is gone.</summary>
    Static,

    /// <summary>Stays where it is, and may be taken back for good.</summary>
    Revocable,

    /// <summary>May move at any time between uses, and may be taken back.</summary>
    Movable,
}

/// <summary>
/// Who owns the memory behind a <see cref="SharedBuffer"/> (<c>dma_buf_ops</c>). Called with the host lock held;
/// nothing here blocks or calls back into Core.
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

    /// <summary>After success the storage does not move. Reservation locked. The exporter counts.</summary>
    Errno Pin(Attachment attachment);

    void Unpin(Attachment attachment);

    /// <summary>Where the storage is for the attachment's device. Reservation locked.</summary>
    /// <returns>Success with a list, or an errno with null.</returns>
    Errno Map(Attachment attachment, DmaDirection direction, out DmaAddressList? addresses);

    /// <summary>
    /// Takes the list back. The reservation may be unlocked: an invalidated mapping ends when it has drained.
    /// </summary>
    void Unmap(Attachment attachment, DmaAddressList addresses);

    /// <summary>The buffer is gone: no attachment is left.</summary>
    void Release(SharedBuffer buffer);
}
