using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Sharing;

// Who has a descriptor of a memfd, or maps it, cannot be made to stop, and may pass both on. But the kernel counts who
// has it open for writing, mappings among them, and grants a write lease only to somebody who is alone
// (check_conflicting_open in fs/locks.c). The memfd's own file is not among the counted; so this end opens it once
// more, to ask with, and others get files of their own. Nobody opens it anew behind our back: its mode allows nothing.

/// <summary>Pages that other processes may map, and a way to know that none does any more.</summary>
public sealed unsafe class SharedPages : IDisposable
{
    private const int PunchAndKeepSize = 3; // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h

    private readonly string _name;
    private readonly FileDescriptor _file;
    private readonly FileDescriptor _asker;
    private readonly Lock _lock = new();
    private FileDescriptor? _forOthers; // under the lock: a file that was given out, or null

    private SharedPages(string name, FileDescriptor file, FileDescriptor asker, long lengthBytes) =>
        (_name, _file, _asker, LengthBytes) = (name, file, asker, lengthBytes);

    public long LengthBytes { get; }

    /// <summary>By which whoever is sent pages can tell that they are these.</summary>
    public PagesIdentity Identity { get; private init; }

    /// <summary>Whether this kernel grants leases on a memfd; without, nobody can be proven to be gone.</summary>
    public bool CanAsk { get; private init; }

    /// <summary>Makes zeroed pages that nobody has.</summary>
    /// <exception cref="LinuxException">ENOMEM or EMFILE.</exception>
    public static SharedPages Create(string name, long lengthBytes)
    {
        FileDescriptor file = MemFd.Create(name, lengthBytes);
        FileDescriptor? asker = null;
        try
        {
            asker = Open(file, name);
            if (!PagesIdentity.TryRead(file, out PagesIdentity identity, out _))
            {
                LinuxException.Throw("statx", name);
            }

            SharedPages made = new(name, file, asker, lengthBytes)
            {
                CanAsk = IsAlone(asker) == Errno.Success,
                Identity = identity,
            };

            // No seal is added by those who get it: one against writing would keep us from punching.
            return Libc.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL) < 0 || Libc.fchmod(file, 0) < 0
                ? throw new LinuxException("fcntl or fchmod", name, (Errno)Marshal.GetLastPInvokeError())
                : made;
        }
        catch
        {
            asker?.Dispose();
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// A descriptor to be sent, readable and writable: close it once it was. Whoever has it, or a copy of it, or a
    /// mapping that was made by it, counts as one that holds the pages. Those that are made between two questions
    /// share one open file.
    /// </summary>
    /// <exception cref="LinuxException">EMFILE; EACCES without CAP_DAC_OVERRIDE, for the mode.</exception>
    public FileDescriptor OpenForOthers()
    {
        lock (_lock)
        {
            _forOthers ??= OpenDespiteMode();
            FileDescriptor copy = Libc.fcntl_descriptor(_forOthers, fcntl.F_DUPFD_CLOEXEC, 0);
            if (copy.IsInvalid)
            {
                LinuxException.Throw("fcntl(F_DUPFD_CLOEXEC)", _name);
            }

            return copy;
        }
    }

    /// <summary>
    /// Asks the kernel whether any process besides this one has the pages, by a descriptor or a mapping.
    /// </summary>
    /// <returns>True also when the kernel does not say: <see cref="CanAsk"/>.</returns>
    public bool AreHeldElsewhere()
    {
        if (!CanAsk)
        {
            return true;
        }

        lock (_lock)
        {
            _forOthers?.Dispose();
            _forOthers = null;
            return IsAlone(_asker) != Errno.Success;
        }
    }

    /// <summary>
    /// Puts a part of these pages where a mapping of this process has others; the bytes there are gone.
    /// </summary>
    /// <param name="memory">A mapping of this process, of whole pages.</param>
    /// <param name="memoryOffset">Of the first byte there; whole pages.</param>
    /// <param name="offset">Of the first byte here; whole pages.</param>
    /// <param name="lengthBytes">Whole pages.</param>
    /// <exception cref="LinuxException">ENOMEM: too many mappings. What was there stays.</exception>
    public void MapInto(MappedMemory memory, long memoryOffset, long offset, long lengthBytes)
    {
        ArgumentNullException.ThrowIfNull(memory);
        memory.Replace(memoryOffset, lengthBytes, _file, offset);
    }

    /// <summary>
    /// Takes the bytes away from everybody who maps them: from now on they read as zero, and what is written is seen by
    /// those alone. This process has mapped other pages in their place before.
    /// </summary>
    /// <exception cref="LinuxException">EIO.</exception>
    public void Punch()
    {
        if (Libc.fallocate(_file, PunchAndKeepSize, 0, LengthBytes) < 0)
        {
            LinuxException.Throw("fallocate(FALLOC_FL_PUNCH_HOLE)", _name);
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _forOthers?.Dispose();
            _forOthers = null;
        }

        _asker.Dispose();
        _file.Dispose();
    }

    /// <summary>Past the lock, for the test of what happens then.</summary>
    internal FileDescriptor OpenAgainForTest() => OpenDespiteMode();

    private FileDescriptor OpenDespiteMode()
    {
        if (Libc.fchmod(_file, 0x180) < 0) // 0600, for as long as this call takes
        {
            LinuxException.Throw("fchmod", _name);
        }

        try
        {
            return Open(_file, _name);
        }
        finally
        {
            _ = Libc.fchmod(_file, 0);
        }
    }

    private static Errno IsAlone(FileDescriptor asker)
    {
        // Who opens the pages while the lease stands breaks it, and the kernel says so by a signal: one that is ignored
        // unless somebody asks for it, for SIGIO ends a process. The end of a lease forgets it (lease_modify).
        if (Libc.fcntl(asker, fcntl.F_SETSIG, signal.SIGURG) < 0
            || Libc.fcntl(asker, fcntl.F_SETLEASE, fcntl.F_WRLCK) < 0)
        {
            return (Errno)Marshal.GetLastPInvokeError();
        }

        _ = Libc.fcntl(asker, fcntl.F_SETLEASE, fcntl.F_UNLCK);
        return Errno.Success;
    }

    private static FileDescriptor Open(FileDescriptor file, string name)
    {
        using FileDescriptor.Borrowed borrowed = file.Borrow();
        string path = string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{borrowed.Number}");
        FileDescriptor opened = Libc.open_descriptor(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0);
        if (opened.IsInvalid)
        {
            LinuxException.Throw("open", name);
        }

        return opened;
    }
}
