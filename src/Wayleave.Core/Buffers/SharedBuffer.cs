using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>What an exporter says about a new buffer (<c>dma_buf_export_info</c>).</summary>
/// <param name="Exporter">Owns the storage.</param>
/// <param name="Name">At most 31 characters, as <c>DMA_BUF_SET_NAME</c>.</param>
/// <param name="SizeBytes">Fixed for life; positive.</param>
/// <param name="Reservation">Shared with other objects of the exporter, or null for one of the buffer's own.</param>
public sealed record ExportInfo(IExporter Exporter, string Name, ulong SizeBytes, Reservation? Reservation = null);

/// <summary>
/// A <c>dma_buf</c>: memory of one exporter that others may use, with one reservation and the attachments of its users.
/// Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class SharedBuffer
{
    /// <summary>The longest name, in characters (<c>DMA_BUF_NAME_LEN</c> - 1).</summary>
    public const int NameLengthMax = 31;

    private readonly List<Attachment> _attachments = [];
    private volatile bool _revoked;
    private bool _released;

    private SharedBuffer(HostContext host, ExportInfo info)
    {
        Host = host;
        Id = host.AllocateId();
        Exporter = info.Exporter;
        Name = info.Name;
        SizeBytes = info.SizeBytes;
        Reservation = info.Reservation ?? new Reservation(host, info.Name);
    }

    public HostContext Host { get; }

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    public string Name { get; }

    public ulong SizeBytes { get; }

    public IExporter Exporter { get; }

    public Reservation Reservation { get; }

    /// <summary>Taken back for good: maps fail with ENODEV. Readable without the lock.</summary>
    public bool IsRevoked => _revoked;

    /// <summary>In the order they came.</summary>
    public IReadOnlyList<Attachment> Attachments => _attachments;

    /// <summary>Makes a buffer (<c>dma_buf_export</c>). The caller owns it until <see cref="Release"/>.</summary>
    /// <returns><see cref="Errno.EINVAL"/> for an empty buffer or a name that is too long.</returns>
    public static Errno TryExport(HostContext host, ExportInfo info, out SharedBuffer? buffer)
    {
        host.AssertHeld();
        if (info.SizeBytes == 0 || info.Name.Length > NameLengthMax)
        {
            buffer = null;
            return Errno.EINVAL;
        }

        buffer = new SharedBuffer(host, info);
        return Errno.Success;
    }

    /// <summary>
    /// Makes <paramref name="device"/> a user of this buffer (<c>dma_buf_dynamic_attach</c>); nothing is pinned or
    /// mapped yet.
    /// </summary>
    /// <param name="device">Whose addresses a map will return.</param>
    /// <param name="importer">Null makes a static importer.</param>
    /// <param name="attachment">Owned by the caller until <see cref="Detach"/>.</param>
    /// <returns>
    /// <see cref="Errno.EOPNOTSUPP"/> when the storage is revocable and the importer cannot be made to stop; otherwise
    /// what the exporter says: whether a revoked buffer can still be attached is its choice (<c>vfio_pci_dmabuf.c</c>
    /// says ENODEV). It cannot be mapped.
    /// </returns>
    public Errno TryAttach(PciFunction device, IImporter? importer, out Attachment? attachment)
    {
        Host.AssertHeld();
        ObjectDisposedException.ThrowIf(_released, this);
        attachment = null;
        if (Exporter.Storage == StorageKind.Revocable && importer is not IRevocableImporter)
        {
            return Errno.EOPNOTSUPP;
        }

        Attachment made = new(this, device, importer);
        Errno errno = Exporter.Attach(made);
        if (errno != Errno.Success)
        {
            return errno;
        }

        _attachments.Add(made);
        attachment = made;
        return Errno.Success;
    }

    /// <summary>
    /// Ends an attachment that holds no mapping and no pin (<c>dma_buf_detach</c>); anything else is a bug and throws.
    /// </summary>
    public void Detach(Attachment attachment)
    {
        Host.AssertHeld();
        if (attachment.State != MappingState.Unmapped || attachment.PinCount != 0 || !_attachments.Remove(attachment))
        {
            throw new InvalidOperationException(
                $"{attachment} is still {attachment.State} with {attachment.PinCount} pins, or not attached");
        }

        Exporter.Detach(attachment);
    }

    /// <summary>
    /// Tells every importer that can stop to stop (<c>dma_buf_invalidate_mappings</c>), whether or not it is mapped.
    /// Returns at once; what is still under way stands in the reservation as BOOKKEEP fences.
    /// </summary>
    public void InvalidateMappings(AcquireTicket ticket)
    {
        Reservation.AssertLocked(ticket);
        if (_attachments.Count == 0)
        {
            return;
        }

        Reservation.ReserveFences(ticket, _attachments.Count);
        foreach (Attachment attachment in _attachments)
        {
            if (attachment.Invalidate() is { } fence)
            {
                Reservation.AddFence(ticket, fence, ReservationUsage.Bookkeep);
            }
        }
    }

    /// <summary>
    /// The buffer is gone (<c>dma_buf_put</c>, last reference). It has no attachment left; the exporter gets its
    /// storage back.
    /// </summary>
    public void Release()
    {
        Host.AssertHeld();
        if (_attachments.Count != 0)
        {
            throw new InvalidOperationException($"{this} has {_attachments.Count} attachments; detach them first");
        }

        if (!_released)
        {
            _released = true;
            Exporter.Release(this);
        }
    }

    public override string ToString() => $"buffer {Id} '{Name}' of {Exporter.Name}";

    internal void MarkRevoked() => _revoked = true;
}
