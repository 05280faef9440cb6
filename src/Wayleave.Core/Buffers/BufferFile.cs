using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;

namespace Wayleave.Core.Buffers;

/// <summary>From where a seek counts (<c>SEEK_*</c>, same numbers).</summary>
public enum SeekWhence
{
    Set = 0,
    Current = 1,
    End = 2,
}

/// <summary>
/// What <c>DMA_BUF_IOCTL_SYNC</c> takes (<c>DMA_BUF_SYNC_*</c>, same numbers). A start is the lack of an end.
/// </summary>
[Flags]
public enum BufferSync : ulong
{
    None = 0,
    Read = 1,
    Write = 2,
    End = 4,
}

/// <summary>
/// What a process can do with a handle of a buffer: the file operations and ioctls of <c>dma-buf.c</c>, with their
/// argument checks. Reading and writing are not among them. It holds no reference of its own: the handle does. Host
/// lock held by the caller.
/// </summary>
public sealed class BufferFile(SharedBuffer buffer)
{
    private const BufferSync Known = BufferSync.Read | BufferSync.Write | BufferSync.End;

    private readonly List<CpuAccess> _open = []; // begun and not ended, oldest first

    public SharedBuffer Buffer { get; } = buffer;

    /// <summary>Only asks for the size, or goes back to the start (<c>dma_buf_llseek</c>).</summary>
    /// <returns><see cref="Errno.EINVAL"/> unless the offset is 0 from the start or from the end.</returns>
    public Errno TrySeek(long offset, SeekWhence whence, out ulong position)
    {
        Buffer.Host.AssertHeld();
        position = whence == SeekWhence.End ? Buffer.SizeBytes : 0;
        return offset == 0 && whence is SeekWhence.Set or SeekWhence.End ? Errno.Success : Errno.EINVAL;
    }

    /// <summary><c>DMA_BUF_IOCTL_SYNC</c>: a process is about to touch its mapping, or has done so.</summary>
    /// <param name="flags">Read, write or both; with end, or without for a start.</param>
    /// <param name="access">
    /// After a start: <see cref="CpuAccess.FirstUnsignaled"/> says what to wait for. After an end: what ended.
    /// </param>
    /// <param name="maintenance">
    /// What caches need: at a start before the first touch, at an end before a device looks.
    /// </param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for unknown bits, or neither read nor write; otherwise what the exporter says.
    /// </returns>
    public Errno TrySync(BufferSync flags, out CpuAccess? access, out CacheMaintenance maintenance)
    {
        Buffer.Host.AssertHeld();
        (access, maintenance) = (null, CacheMaintenance.None);
        if ((flags & ~Known) != 0 || (flags & (BufferSync.Read | BufferSync.Write)) == 0)
        {
            return Errno.EINVAL;
        }

        DmaDirection direction = (flags & ~BufferSync.End) switch
        {
            BufferSync.Read => DmaDirection.FromDevice,
            BufferSync.Write => DmaDirection.ToDevice,
            _ => DmaDirection.Bidirectional,
        };
        return flags.HasFlag(BufferSync.End)
            ? End(direction, out access, out maintenance)
            : Begin(direction, out access, out maintenance);
    }

    /// <summary>
    /// A snapshot of what an access has to wait for (<c>DMA_BUF_IOCTL_EXPORT_SYNC_FILE</c>): what is added to the
    /// buffer later is not in it.
    /// </summary>
    /// <param name="flags">Write: for a writer, all but BOOKKEEP. Read alone: for a reader, writers and moves.</param>
    /// <param name="file">Signalled at once when there is nothing to wait for.</param>
    /// <returns><see cref="Errno.EINVAL"/> unless the flags are read, write or both.</returns>
    public Errno TryExportSyncFile(BufferSync flags, out SyncFile? file)
    {
        Buffer.Host.AssertHeld();
        file = null;
        if (!IsDirection(flags))
        {
            return Errno.EINVAL;
        }

        ReservationUsage usage = (flags & BufferSync.Write) != 0 ? ReservationUsage.Read : ReservationUsage.Write;
        Fence fence = Buffer.Reservation.GetSingleton(usage) ?? Buffer.Host.GetStubFence();
        file = new SyncFile(Buffer.Host, fence);
        return Errno.Success;
    }

    /// <summary>
    /// Lets others wait implicitly for what <paramref name="file"/> stands for
    /// (<c>DMA_BUF_IOCTL_IMPORT_SYNC_FILE</c>): its plain fences go in one by one, no container does. Export, submit
    /// and import are not one step: what came in between is not waited for. Reservation held by the ticket.
    /// </summary>
    /// <param name="ticket">Holds the reservation.</param>
    /// <param name="flags">Write: as WRITE, readers wait too. Read alone: as READ, only writers wait.</param>
    /// <param name="file">Of the same host.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for other flags, without a file, or with one of another host;
    /// <see cref="Errno.ENODEV"/> on a revoked buffer, which takes no new work.
    /// </returns>
    public Errno TryImportSyncFileLocked(AcquireTicket ticket, BufferSync flags, SyncFile? file)
    {
        Buffer.Reservation.AssertLocked(ticket);
        if (!IsDirection(flags) || file is null || !ReferenceEquals(file.Fence.Host, Buffer.Host))
        {
            return Errno.EINVAL;
        }

        if (Buffer.IsRevoked)
        {
            return Errno.ENODEV;
        }

        Fence[] fences = [.. FenceUnwrap.Unwrap(file.Fence).Where(f => !f.HasEnded)];
        if (fences.Length == 0)
        {
            return Errno.Success;
        }

        Errno errno = Buffer.Reservation.ReserveFences(ticket, fences.Length);
        foreach (Fence fence in fences)
        {
            Buffer.Reservation.AddFence(
                ticket, fence, (flags & BufferSync.Write) != 0 ? ReservationUsage.Write : ReservationUsage.Read);
        }

        return errno;
    }

    private static bool IsDirection(BufferSync flags) =>
        flags is BufferSync.Read or BufferSync.Write or (BufferSync.Read | BufferSync.Write);

    private Errno Begin(DmaDirection direction, out CpuAccess? access, out CacheMaintenance maintenance)
    {
        Errno errno = Buffer.TryBeginCpuAccess(direction, out access);
        maintenance = access?.Maintenance ?? CacheMaintenance.None;
        if (access is not null)
        {
            _open.Add(access);
        }

        return errno;
    }

    // The kernel does not pair them: an end without a start goes to the exporter all the same.
    private Errno End(DmaDirection direction, out CpuAccess? access, out CacheMaintenance maintenance)
    {
        int index = _open.FindIndex(a => a.Direction == direction);
        if (index < 0)
        {
            access = null;
            return new CpuAccess(Buffer, direction, 0, Buffer.SizeBytes).EndAtExporter(out maintenance);
        }

        access = _open[index];
        _open.RemoveAt(index);
        return access.End(out maintenance);
    }
}
