namespace Wayleave.Core.PeerMemory;

/// <summary>
/// The handles of one process as small numbers, as file descriptors are. A number means nothing in another process's
/// table: a handle is sent, not guessed. Host lock held by the caller.
/// </summary>
/// <param name="host">The host whose resources it names.</param>
/// <param name="holder">Whose it is, for people: <c>process 4711</c>.</param>
/// <param name="capacity">How many handles it holds at most (<c>RLIMIT_NOFILE</c>).</param>
public sealed class PeerHandleTable(HostContext host, string holder, int capacity = 1024)
{
    private readonly List<PeerHandle?> _entries = [];

    /// <summary>Whose it is.</summary>
    public string Holder { get; } = holder;

    /// <summary>Numbers in use.</summary>
    public int Count { get; private set; }

    /// <summary>Gives a handle the smallest free number; from now on the table closes it.</summary>
    /// <returns><see cref="Errno.EMFILE"/> when the table is full: the handle stays the caller's.</returns>
    public Errno TryInstall(PeerHandle handle, out int number)
    {
        ArgumentNullException.ThrowIfNull(handle);
        host.AssertHeld();
        number = -1;
        if (Count == capacity)
        {
            return Errno.EMFILE;
        }

        number = _entries.IndexOf(null);
        if (number < 0)
        {
            number = _entries.Count;
            _entries.Add(null);
        }

        _entries[number] = handle;
        Count++;
        return Errno.Success;
    }

    /// <summary>The handle of a number; the table keeps it.</summary>
    /// <returns><see cref="Errno.EBADF"/> when nothing is open under that number.</returns>
    public Errno TryGet(int number, out PeerHandle? handle)
    {
        host.AssertHeld();
        handle = (uint)number < (uint)_entries.Count ? _entries[number] : null;
        return handle is null ? Errno.EBADF : Errno.Success;
    }

    /// <summary>Sends a handle to another process, which gets one of its own.</summary>
    /// <returns>
    /// <see cref="Errno.EBADF"/>, <see cref="Errno.ENODEV"/> when the resource is removed, or
    /// <see cref="Errno.EMFILE"/> when the receiver's table is full.
    /// </returns>
    public Errno TrySend(int number, PeerHandleTable receiver, out int received)
    {
        ArgumentNullException.ThrowIfNull(receiver);
        received = -1;
        Errno errno = TryGet(number, out PeerHandle? handle);
        PeerHandle? duplicate = null;
        errno = errno == Errno.Success ? handle!.TryDuplicate(receiver.Holder, out duplicate) : errno;
        if (errno != Errno.Success)
        {
            return errno;
        }

        errno = receiver.TryInstall(duplicate!, out received);
        if (errno != Errno.Success)
        {
            duplicate!.Close(); // not the last: the sender has one
        }

        return errno;
    }

    /// <returns><see cref="Errno.EBADF"/> when nothing is open under that number.</returns>
    public Errno Close(int number)
    {
        Errno errno = TryGet(number, out PeerHandle? handle);
        if (errno == Errno.Success)
        {
            _entries[number] = null;
            Count--;
            handle!.Close();
        }

        return errno;
    }

    /// <summary>The process is gone: every handle closes, in the order of their numbers.</summary>
    public void CloseAll()
    {
        for (int number = 0; number < _entries.Count; number++)
        {
            if (_entries[number] is not null)
            {
                Close(number);
            }
        }
    }
}
