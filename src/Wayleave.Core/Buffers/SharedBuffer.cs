using System.Text;
using Wayleave.Core.Checking;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>What an exporter says about a new buffer (<c>dma_buf_export_info</c>).</summary>
/// <param name="Exporter">Owns the storage.</param>
/// <param name="Name">At most 31 bytes of UTF-8, as <c>DMA_BUF_SET_NAME</c>.</param>
/// <param name="SizeBytes">Fixed for life; positive, and less than 2^63, as a file.</param>
/// <param name="Reservation">Shared with other objects of the exporter, or null for one of the buffer's own.</param>
public sealed record ExportInfo(IExporter Exporter, string Name, ulong SizeBytes, Reservation? Reservation = null);

/// <summary>
/// A <c>dma_buf</c>: memory of one exporter that others may use, with one reservation and the attachments of its users.
/// It lives as long as somebody holds a reference: the owner until <see cref="Release"/>, each attachment, each handle,
/// an armed poll. Host lock held by the caller, unless a member says otherwise.
/// </summary>
public sealed class SharedBuffer
{
    /// <summary>The longest name, in bytes (<c>DMA_BUF_NAME_LEN</c> - 1).</summary>
    public const int NameLengthMax = 31;

    private readonly List<Attachment> _attachments = [];
    private readonly List<CpuMapping> _cpuMappings = [];
    private readonly BufferPoll _poll;
    private readonly LinkedListNode<SharedBuffer> _listed;
    private volatile bool _revoked;
    private bool _ownerLetGo;
    private CpuMapping? _vmap;
    private Memory<byte> _vmapped;

    private SharedBuffer(HostContext host, ExportInfo info)
    {
        Host = host;
        Id = host.AllocateId();
        Exporter = info.Exporter;
        Name = info.Name;
        SizeBytes = info.SizeBytes;
        Reservation = info.Reservation ?? new Reservation(host, info.Name);
        _poll = new BufferPoll(this);
        _listed = host.Buffers.AddLast(this);
    }

    public HostContext Host { get; }

    /// <summary>Unique in the host, never used again.</summary>
    public ulong Id { get; }

    /// <summary>For people; may change at any time (<see cref="SetName"/>).</summary>
    public string Name { get; private set; }

    public ulong SizeBytes { get; }

    public IExporter Exporter { get; }

    public Reservation Reservation { get; }

    /// <summary>
    /// Taken back: maps and pins fail with ENODEV, until the exporter takes that back in turn
    /// (<see cref="TryUnrevokeLocked"/>), which most never do. Readable without the lock.
    /// </summary>
    public bool IsRevoked => _revoked;

    /// <summary>In the order they came.</summary>
    public IReadOnlyList<Attachment> Attachments => _attachments;

    /// <summary>Mappings by processors, of processes and of the host itself, in the order they came.</summary>
    public IReadOnlyList<CpuMapping> CpuMappings => _cpuMappings;

    /// <summary>Who keeps the buffer alive; 0 once it is released.</summary>
    public int ReferenceCount { get; private set; } = 1;

    /// <summary>How often the host's own mapping was asked for and not yet given back.</summary>
    public int VmapCount { get; private set; }

    /// <summary>Accesses of the processor that have begun and not ended.</summary>
    public int CpuAccessCount { get; internal set; }

    // Revokes that have not retired; a new life before their end would take their proof away.
    internal int PendingRevokes { get; set; }

    // Counts lives: a proof of an earlier one says nothing about this one.
    internal int Epoch { get; private set; }

    /// <summary>Whether a buffer may be called so: at most 31 bytes of UTF-8, and no NUL.</summary>
    public static bool IsName(string? name) =>
        name is not null && Encoding.UTF8.GetByteCount(name) <= NameLengthMax
            && !name.Contains('\0', StringComparison.Ordinal);

    /// <summary>
    /// Makes a buffer (<c>dma_buf_export</c>). The caller owns it until <see cref="Release"/>.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/>, and a violation in the trace, without an exporter, for an empty buffer or one of
    /// 2^63 bytes and more, for a name that is too long, and for storage that moves and cannot be pinned.
    /// </returns>
    public static Errno TryExport(HostContext host, ExportInfo info, out SharedBuffer? buffer)
    {
        host.AssertHeld();
        buffer = null;
        if (info.Exporter is null
            || info.SizeBytes is 0 or > long.MaxValue
            || !IsName(info.Name)
            || (info.Exporter.Storage == StorageKind.Movable && info.Exporter is not IPinningExporter))
        {
            host.Checker.Report(
                ViolationKind.Export,
                info.Name ?? "no name",
                $"{info.SizeBytes} bytes of {info.Exporter?.Name ?? "nobody"} cannot be a buffer");
            return Errno.EINVAL;
        }

        buffer = new SharedBuffer(host, info);
        return Errno.Success;
    }

    /// <summary>
    /// Makes <paramref name="device"/> a user of this buffer (<c>dma_buf_dynamic_attach</c>); nothing is pinned or
    /// mapped yet. The attachment keeps the buffer alive.
    /// </summary>
    /// <param name="device">Whose addresses a map will return.</param>
    /// <param name="importer">Null makes a static importer.</param>
    /// <param name="attachment">Owned by the caller until <see cref="Detach"/>.</param>
    /// <returns>
    /// <see cref="Errno.ENODEV"/> when the buffer is released; <see cref="Errno.EINVAL"/>, and a violation in the
    /// trace, when what the importer says of its kind and what it can do differ; <see cref="Errno.EOPNOTSUPP"/> when
    /// the storage is revocable and the importer cannot be made to stop; otherwise what the exporter says: whether a
    /// revoked buffer can still be attached is its choice (<c>vfio_pci_dmabuf.c</c> says ENODEV). It cannot be mapped.
    /// </returns>
    public Errno TryAttach(PciFunction device, IImporter? importer, out Attachment? attachment)
    {
        Host.AssertHeld();
        attachment = null;
        if (ReferenceCount == 0)
        {
            return Errno.ENODEV;
        }

        if (importer is not null && !IsConsistent(importer))
        {
            Host.Checker.Report(
                ViolationKind.ImporterKind, importer.Name, $"says {importer.Kind}, which is not what it can do");
            return Errno.EINVAL;
        }

        Attachment made = new(this, device, importer);
        if (Exporter.Storage == StorageKind.Revocable && !made.IsRevocable)
        {
            return Errno.EOPNOTSUPP;
        }

        Errno errno = Exporter.Attach(made);
        if (errno != Errno.Success)
        {
            return errno;
        }

        _attachments.Add(made);
        Get();
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
        Put();
    }

    /// <summary>
    /// Tells every importer that can stop to stop (<c>dma_buf_invalidate_mappings</c>), whether or not it is mapped.
    /// Returns at once; what is still under way stands in the reservation as BOOKKEEP fences. When those have signalled
    /// nobody writes (stage 1); when the mappings have ended too nobody reads (stage 2). A map may follow at once,
    /// unless the buffer is revoked.
    /// </summary>
    public void InvalidateMappings(AcquireTicket ticket)
    {
        Reservation.AssertLocked(ticket);
        foreach (CpuMapping mapping in _cpuMappings)
        {
            mapping.Invalidate();
        }

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
    /// Ends the time during which the buffer was taken back, if its exporter still has the storage: dynamic importers
    /// may map again; those that pin have stopped for good. Proofs of the time before are void from now on.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EBUSY"/> while a revoke has not retired; otherwise what the exporter says, which is
    /// <see cref="Errno.EOPNOTSUPP"/> for those that give storage away.
    /// </returns>
    public Errno TryUnrevokeLocked(AcquireTicket ticket)
    {
        Reservation.AssertLocked(ticket);
        if (!_revoked)
        {
            return Errno.Success;
        }

        Errno errno = PendingRevokes > 0 ? Errno.EBUSY : Exporter.Unrevoke(this);
        if (errno != Errno.Success)
        {
            return errno;
        }

        InvalidateMappings(ticket); // vfio_pci_dma_buf_move: told once more, so that nobody sleeps through it
        Epoch++;
        _revoked = false;
        Host.Trace("buffer.unrevoked", Name, (long)Id, Epoch);
        return Errno.Success;
    }

    /// <summary>Gives the buffer another name, at any time (<c>DMA_BUF_SET_NAME</c>).</summary>
    /// <returns><see cref="Errno.EINVAL"/> for more than 31 bytes of UTF-8 or a NUL.</returns>
    public Errno SetName(string name)
    {
        Host.AssertHeld();
        if (!IsName(name))
        {
            return Errno.EINVAL;
        }

        Name = name;
        return Errno.Success;
    }

    /// <summary>
    /// What of <paramref name="requested"/> is ready (<c>dma_buf_poll</c>). If nothing is, <paramref name="wake"/> is
    /// kept: it runs once, after the host lock is released, when that may have changed; then the caller asks again.
    /// Until it runs it keeps the buffer alive.
    /// </summary>
    /// <param name="requested">In, out or both; neither returns at once.</param>
    /// <param name="wake">Null only asks.</param>
    public PollEvents Poll(PollEvents requested, Action? wake = null)
    {
        Host.AssertHeld();
        ObjectDisposedException.ThrowIf(ReferenceCount == 0, this);
        return _poll.Poll(requested, wake);
    }

    /// <summary>True when the callback was kept by <see cref="Poll"/> and will not run now.</summary>
    public bool TryCancelPoll(Action wake)
    {
        Host.AssertHeld();
        return _poll.TryCancel(wake);
    }

    /// <summary>
    /// The processor is about to read or write a part of the buffer (<c>dma_buf_begin_cpu_access</c>): the exporter
    /// prepares it, then <see cref="CpuAccess.FirstUnsignaled"/> says what to wait for.
    /// </summary>
    /// <param name="direction">Seen from the device: the processor reads what came from it.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="lengthBytes">Not zero.</param>
    /// <param name="access">Owned by the caller until <see cref="CpuAccess.End"/>.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for a range outside the buffer, <see cref="Errno.ENODEV"/> when it is revoked or
    /// released, or what the exporter says; then no fence is waited for.
    /// </returns>
    public Errno TryBeginCpuAccess(DmaDirection direction, ulong offset, ulong lengthBytes, out CpuAccess? access)
    {
        Host.AssertHeld();
        access = null;
        if (!Contains(offset, lengthBytes))
        {
            return Errno.EINVAL;
        }

        if (_revoked || ReferenceCount == 0)
        {
            return Errno.ENODEV;
        }

        CpuAccess made = new(this, direction, offset, lengthBytes);
        Errno errno = made.Begin();
        access = errno == Errno.Success ? made : null;
        return errno;
    }

    /// <summary>As above, for the whole buffer.</summary>
    public Errno TryBeginCpuAccess(DmaDirection direction, out CpuAccess? access) =>
        TryBeginCpuAccess(direction, 0, SizeBytes, out access);

    /// <summary>
    /// The buffer's bytes for the host itself, in one piece and in place (<c>dma_buf_vmap</c>). Nested requests get the
    /// same memory; the exporter is asked once. To be given back with <see cref="VunmapLocked"/>.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when the exporter cannot; <see cref="Errno.EOPNOTSUPP"/> when the storage is
    /// revocable, because nobody could make the holder stop; <see cref="Errno.ENODEV"/> when it is revoked; or what the
    /// exporter says.
    /// </returns>
    public Errno TryVmapLocked(AcquireTicket ticket, out Memory<byte> memory)
    {
        Reservation.AssertLocked(ticket);
        memory = default;
        if (RefusesCpuMapping(Exporter is IVmapExporter) is var refused and not Errno.Success)
        {
            return refused;
        }

        if (VmapCount == 0)
        {
            Errno errno = ((IVmapExporter)Exporter).Vmap(this, out _vmapped);
            if (errno != Errno.Success)
            {
                Host.Checker.Report(ViolationKind.ExporterAnswer, Exporter.Name, $"cannot vmap {this}: {errno}");
                return errno;
            }

            _vmap = new CpuMapping(this, "the host", 0, SizeBytes);
            _cpuMappings.Add(_vmap);
        }

        VmapCount++;
        memory = _vmapped;
        return Errno.Success;
    }

    /// <summary>Ends one request; the last ends the mapping (<c>dma_buf_vunmap</c>).</summary>
    /// <exception cref="InvalidOperationException">
    /// There is none, or it was for other memory: a bug, fatal in Linux.
    /// </exception>
    public void VunmapLocked(AcquireTicket ticket, Memory<byte> memory)
    {
        Reservation.AssertLocked(ticket);
        if (VmapCount == 0 || !memory.Equals(_vmapped))
        {
            throw new InvalidOperationException(
                $"{this} has {VmapCount} mappings of the host, and none of that memory");
        }

        if (--VmapCount > 0)
        {
            return;
        }

        (CpuMapping ended, _vmap, _vmapped) = (_vmap!, null, default);
        ((IVmapExporter)Exporter).Vunmap(this);
        _cpuMappings.Remove(ended);
        ended.HandleEnded();
    }

    /// <summary>
    /// A process maps a part of the buffer (<c>dma_buf_mmap</c>): from now on it reaches the memory by itself, and
    /// nobody can make it stop.
    /// </summary>
    /// <param name="holder">Who, for people and proofs: <c>process 4711</c>.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="lengthBytes">Not zero.</param>
    /// <param name="mapping">
    /// Ends with <see cref="CpuMapping.End"/>, or with its holder. It keeps the buffer alive.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> when the exporter has no such mappings or the range leaves the buffer;
    /// <see cref="Errno.EOVERFLOW"/> when offset and length wrap; otherwise as <see cref="TryVmapLocked"/>.
    /// </returns>
    public Errno TryMmap(string holder, ulong offset, ulong lengthBytes, out CpuMapping? mapping)
    {
        Host.AssertHeld();
        mapping = null;
        if (RefusesCpuMapping(Exporter is IMmapExporter) is var refused and not Errno.Success)
        {
            return refused;
        }

        if (offset + lengthBytes < offset)
        {
            return Errno.EOVERFLOW;
        }

        if (!Contains(offset, lengthBytes))
        {
            return Errno.EINVAL;
        }

        CpuMapping made = new(this, holder, offset, lengthBytes);
        Errno errno = ((IMmapExporter)Exporter).Mmap(made);
        if (errno == Errno.Success)
        {
            _cpuMappings.Add(made);
            Get();
            mapping = made;
        }

        return errno;
    }

    /// <summary>One more reference (<c>get_dma_buf</c>).</summary>
    public void Get()
    {
        Host.AssertHeld();
        ObjectDisposedException.ThrowIf(ReferenceCount == 0, this);
        ReferenceCount++;
    }

    /// <summary>
    /// One reference less (<c>dma_buf_put</c>). With the last one the buffer is gone, and the exporter gets its storage
    /// back.
    /// </summary>
    /// <exception cref="InvalidOperationException">There is none, or the host itself still maps the buffer.</exception>
    public void Put()
    {
        Host.AssertHeld();
        if (ReferenceCount == 0 || (ReferenceCount == 1 && VmapCount != 0))
        {
            throw new InvalidOperationException(
                $"{this} has {ReferenceCount} references and {VmapCount} mappings of the host");
        }

        if (--ReferenceCount == 0)
        {
            Host.Buffers.Remove(_listed);
            Exporter.Release(this);
        }
    }

    /// <summary>
    /// The owner lets go of what <see cref="TryExport"/> gave it. The buffer lives on while it has attachments,
    /// mappings or handles. The second call does nothing.
    /// </summary>
    public void Release()
    {
        Host.AssertHeld();
        if (!_ownerLetGo)
        {
            _ownerLetGo = true;
            Put();
        }
    }

    public override string ToString() => $"buffer {Id} '{Name}' of {Exporter.Name}";

    internal void MarkRevoked() => _revoked = true;

    internal void EndProcessMapping(CpuMapping mapping)
    {
        if (ReferenceEquals(mapping, _vmap) || !_cpuMappings.Remove(mapping))
        {
            throw new InvalidOperationException($"{mapping} has ended, or is the host's own");
        }

        ((IMmapExporter)Exporter).Munmap(mapping);
        mapping.HandleEnded();
        Put();
    }

    // Whether an importer can be made to stop is part of its type; what it says of itself has to agree.
    private static bool IsConsistent(IImporter importer) => importer.Kind switch
    {
        ImporterKind.Pinned => importer is not IRevocableImporter,
        ImporterKind.PinnedRevocable or ImporterKind.Dynamic => importer is IRevocableImporter,
        _ => false, // a static importer has no object
    };

    private bool Contains(ulong offset, ulong lengthBytes) =>
        lengthBytes != 0 && offset < SizeBytes && lengthBytes <= SizeBytes - offset;

    private Errno RefusesCpuMapping(bool exporterCan) =>
        !exporterCan ? Errno.EINVAL
        : Exporter.Storage == StorageKind.Revocable ? Errno.EOPNOTSUPP
        : _revoked || ReferenceCount == 0 ? Errno.ENODEV
        : Errno.Success;
}
