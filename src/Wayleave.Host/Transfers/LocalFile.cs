using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Transfers;

/// <summary>
/// Files at the ends of a copy, with errors that name them. A target appears under its name whole or not at all.
/// </summary>
public static class LocalFile
{
    /// <summary>Opens a source.</summary>
    /// <exception cref="WayleaveException">Missing, no regular file, unreadable or empty.</exception>
    public static SafeFileHandle OpenSource(string path, out ulong lengthBytes)
    {
        string operation = $"read {path}";
        if (path.Length == 0)
        {
            throw new WayleaveException(Errno.EINVAL, "read a file", "the name is empty", "name a file");
        }

        try
        {
            // Asked before it is opened: a FIFO would wait for somebody who writes, perhaps for ever.
            if (FileStatus.TryReadThrough(path, out FileStatus status) && status.Kind != FileKind.Regular)
            {
                bool isFolder = status.Kind == FileKind.Directory;
                throw new WayleaveException(
                    Errno.EINVAL,
                    operation,
                    $"it is a {Describe(status.Kind)}",
                    isFolder ? "name a file" : "save what comes out of it to a file first, whose size is known");
            }

            SafeFileHandle file = File.OpenHandle(
                path, FileMode.Open, FileAccess.Read, FileShare.Read, FileOptions.SequentialScan);
            lengthBytes = (ulong)RandomAccess.GetLength(file);
            if (lengthBytes != 0)
            {
                return file;
            }

            file.Dispose();
        }
        catch (Exception e) when (e is IOException and not WayleaveException or UnauthorizedAccessException)
        {
            throw ErrnoMap.ToException(e, operation, ErrnoMap.ToErrno(e) switch
            {
                Errno.ENOENT or Errno.ENOTDIR => "check the name",
                Errno.EACCES => "ask its owner for the right to read it",
                _ => null,
            });
        }

        throw new WayleaveException(
            Errno.ENODATA, operation, "it is empty", "device memory has no objects of zero bytes");
    }

    /// <summary>Reads exactly <paramref name="bytes"/> from an offset.</summary>
    /// <exception cref="WayleaveException">The file became shorter, or could not be read.</exception>
    public static void ReadExactly(SafeFileHandle file, string path, ulong offset, Span<byte> bytes)
    {
        try
        {
            while (bytes.Length > 0)
            {
                int read = RandomAccess.Read(file, bytes, (long)offset);
                if (read == 0)
                {
                    throw new WayleaveException(
                        Errno.EIO, $"read {path}", "it became shorter while it was read", "start again");
                }

                bytes = bytes[read..];
                offset += (ulong)read;
            }
        }
        catch (Exception e) when (e is IOException and not WayleaveException)
        {
            throw ErrnoMap.ToException(e, $"read {path}");
        }
    }

    /// <summary>
    /// Writes a file that gets its name only when <paramref name="write"/> has returned. Whatever fails leaves the old
    /// file, if there was one, and no other trace.
    /// </summary>
    /// <exception cref="WayleaveException">As <see cref="WholeFile.Create"/>.</exception>
    public static async Task WriteWholeAsync(string path, ulong lengthBytes, Func<SafeFileHandle, Task> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        using WholeFile file = WholeFile.Create(path, (long)lengthBytes);
        try
        {
            await write(file.Handle).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw ToTargetFailure(e, $"write {path}", path);
        }

        file.Publish();
    }

    /// <summary>Says before a long run that a file cannot be written at its end.</summary>
    /// <exception cref="WayleaveException">As <see cref="WholeFile.Create"/>.</exception>
    public static void ThrowUnlessWritable(string path) => WholeFile.Create(path).Dispose();

    /// <summary>
    /// The path of a file that is about to be written: what a symbolic link leads to, in a folder that is there.
    /// </summary>
    /// <exception cref="WayleaveException">There is something else of that name, or no such folder.</exception>
    internal static string FindTarget(string path, string operation)
    {
        if (path.Length == 0)
        {
            throw new WayleaveException(Errno.EINVAL, "write a file", "the name is empty", "name a file");
        }

        if (FileStatus.TryReadThrough(path, out FileStatus status) && status.Kind != FileKind.Regular)
        {
            bool isFolder = status.Kind == FileKind.Directory;
            throw new WayleaveException(
                Errno.EINVAL,
                operation,
                $"it is a {Describe(status.Kind)}",
                isFolder ? "name the file too" : "name a file, which is replaced as a whole");
        }

        string target = Path.GetFullPath(path);
        FileInfo link = new(target);
        target = link.LinkTarget is null ? target : link.ResolveLinkTarget(returnFinalTarget: true)!.FullName;
        string folder = Path.GetDirectoryName(target)!;
        return Directory.Exists(folder)
            ? target
            : throw new WayleaveException(Errno.ENOENT, operation, $"there is no folder {folder}", "make it first");
    }

    /// <summary>
    /// What went wrong with a target, with a remedy; a failure that has one already stays what it is.
    /// </summary>
    internal static WayleaveException ToTargetFailure(Exception e, string operation, string path)
    {
        Errno errno = ErrnoMap.ToErrno(e);
        string folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        return e is WayleaveException known ? known : errno switch
        {
            Errno.ENOENT => new WayleaveException(
                errno, operation, $"no file can be made in {folder}", "name another folder", e),
            Errno.ENOSPC => new WayleaveException(
                errno, operation, ErrnoMap.Describe(errno), "free some space, or name another folder", e),
            Errno.EFBIG => new WayleaveException(
                errno, operation, ErrnoMap.Describe(errno), "raise the limit: ulimit -f", e),
            Errno.EACCES => new WayleaveException(
                errno,
                operation,
                ErrnoMap.Describe(errno),
                $"name a folder that you may write to, {folder} is none",
                e),
            _ => ErrnoMap.ToException(e, operation),
        };
    }

    private static string Describe(FileKind kind) => kind switch
    {
        FileKind.Directory => "folder",
        FileKind.Fifo => "FIFO",
        FileKind.Socket => "socket",
        FileKind.CharacterDevice or FileKind.BlockDevice => "device",
        _ => "special file",
    };
}
