using Microsoft.Win32.SafeHandles;
using Wayleave.Core;

namespace Wayleave.Host.Transfers;

/// <summary>
/// Files at the ends of a copy, with errors that name them. A target appears under its name whole or not at all.
/// </summary>
public static class LocalFile
{
    /// <summary>Opens a source.</summary>
    /// <exception cref="WayleaveException">Missing, a folder, unreadable or empty.</exception>
    public static SafeFileHandle OpenSource(string path, out ulong lengthBytes)
    {
        string operation = $"read {path}";
        if (Directory.Exists(path))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "it is a folder", "name a file");
        }

        try
        {
            SafeFileHandle file = File.OpenHandle(
                path, FileMode.Open, FileAccess.Read, FileShare.Read, FileOptions.SequentialScan);
            lengthBytes = (ulong)RandomAccess.GetLength(file);
            if (lengthBytes != 0)
            {
                return file;
            }

            file.Dispose();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
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
    /// Writes a file beside its final name, and gives it that name only when <paramref name="write"/> has returned.
    /// Whatever fails leaves the old file, if there was one, and no other trace.
    /// </summary>
    /// <exception cref="WayleaveException">The folder is missing, not writable or full.</exception>
    public static async Task WriteWholeAsync(string path, ulong lengthBytes, Func<SafeFileHandle, Task> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        string operation = $"write {path}";
        string target = Path.GetFullPath(path);
        if (Directory.Exists(target))
        {
            throw new WayleaveException(Errno.EINVAL, operation, "it is a folder", "name the file too");
        }

        string folder = Path.GetDirectoryName(target)!;
        if (!Directory.Exists(folder))
        {
            throw new WayleaveException(Errno.ENOENT, operation, $"there is no folder {folder}", "make it first");
        }

        string part = Path.Combine(folder, $".{Path.GetFileName(target)}.{Environment.ProcessId}.part");
        try
        {
            using (SafeFileHandle file = File.OpenHandle(
                part, FileMode.Create, FileAccess.Write, FileShare.None, FileOptions.None, (long)lengthBytes))
            {
                await write(file).ConfigureAwait(false);
                RandomAccess.FlushToDisk(file);
            }

            File.Move(part, target, overwrite: true);
        }
        catch (Exception e)
        {
            File.Delete(part);
            if (e is WayleaveException or not (IOException or UnauthorizedAccessException))
            {
                throw;
            }

            throw ErrnoMap.ToException(e, operation, ErrnoMap.ToErrno(e) switch
            {
                Errno.ENOSPC => "free some space, or name another folder",
                Errno.EACCES => $"name a folder that you may write to, {folder} is none",
                _ => null,
            });
        }
    }
}
