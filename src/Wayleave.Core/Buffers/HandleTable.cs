namespace Wayleave.Core.Buffers;

/// <summary>
/// The handles of one process, or of one connection: small numbers that stand for references to buffers, as file
/// descriptors do. Duplicates share the buffer, which is released once, with the last reference of any kind. Host lock
/// held by the caller.
/// </summary>
/// <param name="host">The host whose buffers it names.</param>
/// <param name="capacity">How many handles it holds at most (<c>RLIMIT_NOFILE</c>).</param>
public sealed class HandleTable(HostContext host, int capacity = 1024)
{
    private readonly List<SharedBuffer?> _entries = [];

    /// <summary>Handles that are open.</summary>
    public int Count { get; private set; }

    /// <summary>
    /// Gives a buffer the smallest free number (<c>dma_buf_fd</c>). On success the handle owns the caller's reference;
    /// on failure the caller still does.
    /// </summary>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> without a buffer, <see cref="Errno.EMFILE"/> when the table is full.
    /// </returns>
    public Errno TryInstall(SharedBuffer? buffer, out int handle)
    {
        host.AssertHeld();
        handle = -1;
        if (buffer is null)
        {
            return Errno.EINVAL;
        }

        if (Count == capacity)
        {
            return Errno.EMFILE;
        }

        int free = _entries.IndexOf(null);
        handle = free >= 0 ? free : _entries.Count;
        if (free >= 0)
        {
            _entries[free] = buffer;
        }
        else
        {
            _entries.Add(buffer);
        }

        Count++;
        return Errno.Success;
    }

    /// <summary>The buffer of a handle, with a reference of the caller's own (<c>dma_buf_get</c>).</summary>
    /// <returns><see cref="Errno.EBADF"/> when nothing is open under that number.</returns>
    public Errno TryGet(int handle, out SharedBuffer? buffer)
    {
        host.AssertHeld();
        buffer = (uint)handle < (uint)_entries.Count ? _entries[handle] : null;
        buffer?.Get();
        return buffer is null ? Errno.EBADF : Errno.Success;
    }

    /// <summary>
    /// A second number for the same buffer (<c>dup</c>; passing it on to <paramref name="receiver"/> is a send).
    /// </summary>
    /// <returns><see cref="Errno.EBADF"/>, or <see cref="Errno.EMFILE"/> when the receiver's table is full.</returns>
    public Errno TryDuplicate(int handle, HandleTable receiver, out int duplicate)
    {
        duplicate = -1;
        Errno errno = TryGet(handle, out SharedBuffer? buffer);
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = receiver.TryInstall(buffer, out duplicate);
        if (errno != Errno.Success)
        {
            buffer!.Put();
        }

        return errno;
    }

    /// <summary>Closes a handle and drops its reference.</summary>
    /// <returns><see cref="Errno.EBADF"/> when it is not open.</returns>
    public Errno Close(int handle)
    {
        host.AssertHeld();
        if ((uint)handle >= (uint)_entries.Count || _entries[handle] is not { } buffer)
        {
            return Errno.EBADF;
        }

        _entries[handle] = null;
        Count--;
        buffer.Put();
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
}
