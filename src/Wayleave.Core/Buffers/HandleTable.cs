using Wayleave.Core.Fences;

namespace Wayleave.Core.Buffers;

/// <summary>
/// The handles of one process, or of one connection: small numbers that stand for references to buffers and sync files,
/// as file descriptors do. Duplicates share the buffer, which is released once, with the last reference of any kind.
/// Host lock held by the caller.
/// </summary>
/// <param name="host">The host whose objects it names.</param>
/// <param name="capacity">How many handles it holds at most (<c>RLIMIT_NOFILE</c>).</param>
public sealed class HandleTable(HostContext host, int capacity = 1024)
{
    private readonly List<object?> _entries = [];

    /// <summary>Handles that are open.</summary>
    public int Count { get; private set; }

    /// <summary>
    /// Gives a buffer the smallest free number (<c>dma_buf_fd</c>). On success the handle owns the caller's reference;
    /// on failure the caller still does.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> without a buffer, <see cref="Errno.EMFILE"/> when the table is full.
    /// </returns>
    public Errno TryInstall(SharedBuffer? buffer, out int handle) => TryInstallObject(buffer, out handle);

    /// <summary>As above, for a sync file (<c>DMA_BUF_IOCTL_EXPORT_SYNC_FILE</c>).</summary>
    public Errno TryInstall(SyncFile? file, out int handle) => TryInstallObject(file, out handle);

    /// <summary>The buffer of a handle, with a reference of the caller's own (<c>dma_buf_get</c>).</summary>
    /// <returns>
    /// <see cref="Errno.EBADF"/> when nothing is open under that number, <see cref="Errno.EINVAL"/> when it is no
    /// buffer.
    /// </returns>
    public Errno TryGet(int handle, out SharedBuffer? buffer)
    {
        object? found = Find(handle);
        buffer = found as SharedBuffer;
        buffer?.Get();
        return found is null ? Errno.EBADF : buffer is null ? Errno.EINVAL : Errno.Success;
    }

    /// <summary>The sync file of a handle (<c>sync_file_get_fence</c>).</summary>
    /// <returns><see cref="Errno.EINVAL"/> when nothing is open under that number, or something else.</returns>
    public Errno TryGet(int handle, out SyncFile? file)
    {
        file = Find(handle) as SyncFile;
        return file is null ? Errno.EINVAL : Errno.Success;
    }

    /// <summary>
    /// A second number for the same object (<c>dup</c>), in this table or in that of whom it is sent to.
    /// </summary>
    /// <returns><see cref="Errno.EBADF"/>, or <see cref="Errno.EMFILE"/> when the receiver's table is full.</returns>
    public Errno TryDuplicate(int handle, HandleTable receiver, out int duplicate)
    {
        duplicate = -1;
        object? found = Find(handle);
        Errno errno = found is null ? Errno.EBADF : receiver.TryInstallObject(found, out duplicate);
        if (errno == Errno.Success)
        {
            (found as SharedBuffer)?.Get();
        }

        return errno;
    }

    /// <summary>Closes a handle and drops its reference.</summary>
    /// <returns><see cref="Errno.EBADF"/> when it is not open.</returns>
    public Errno Close(int handle)
    {
        if (Find(handle) is not { } found)
        {
            return Errno.EBADF;
        }

        _entries[handle] = null;
        Count--;
        (found as SharedBuffer)?.Put();
        return Errno.Success;
    }

    /// <summary>The process is gone: every handle closes, in the order of their numbers.</summary>
    public void CloseAll()
    {
        for (int handle = 0; handle < _entries.Count; handle++)
        {
            Close(handle);
        }
    }

    private object? Find(int handle)
    {
        host.AssertHeld();
        return (uint)handle < (uint)_entries.Count ? _entries[handle] : null;
    }

    private Errno TryInstallObject(object? installed, out int handle)
    {
        host.AssertHeld();
        handle = -1;
        if (installed is null)
        {
            return Errno.EINVAL;
        }

        if (Count == capacity)
        {
            return Errno.EMFILE;
        }

        handle = _entries.IndexOf(null);
        if (handle < 0)
        {
            handle = _entries.Count;
            _entries.Add(null);
        }

        _entries[handle] = installed;
        Count++;
        return Errno.Success;
    }
}
