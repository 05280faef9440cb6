using System.Globalization;
using Microsoft.Win32.SafeHandles;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Transfers;

// With O_TMPFILE    no name ------------------------ link --> NAME
//                             or, if NAME is there,  link --> .NAME.PID.part -- rename --> NAME
// Without           .NAME.PID.part -------------------------------------------- rename --> NAME
//
// A process that is killed leaves nothing in the first case but for the instant before the rename, and its part in the
// second. The next one that writes NAME removes the parts whose writers are dead: their process is gone and their lock
// is free.

/// <summary>
/// A file that appears under its name whole or not at all: until <see cref="Publish"/> the name is what it was before.
/// Disposing without that leaves no trace.
/// </summary>
public sealed class WholeFile : IDisposable
{
    private readonly string _path;
    private readonly string _operation;
    private string? _part; // the name it has on the way, if it has one

    private WholeFile(SafeFileHandle handle, string path, string operation, string? part)
    {
        (Handle, _path, _operation, _part) = (handle, path, operation, part);
    }

    /// <summary>Where to write.</summary>
    public SafeFileHandle Handle { get; }

    /// <summary>Makes the file, still without its name.</summary>
    /// <param name="path">What it will be called. A symbolic link there is followed.</param>
    /// <param name="lengthBytes">How much will be written, as far as it is known: a full disk is told at once.</param>
    /// <exception cref="WayleaveException">
    /// The folder is missing, not writable or full, or the name is that of something that is no file; says what to do.
    /// </exception>
    public static WholeFile Create(string path, long lengthBytes = 0) =>
        CreateAs(path, lengthBytes, prefersUnnamed: true);

    /// <summary>As the other; tests also take the way of file systems without O_TMPFILE.</summary>
    internal static WholeFile CreateAs(string path, long lengthBytes, bool prefersUnnamed)
    {
        ArgumentNullException.ThrowIfNull(path);
        string operation = $"write {path}";
        try
        {
            string target = LocalFile.FindTarget(path, operation);
            string folder = Path.GetDirectoryName(target)!;
            RemoveStaleParts(target);
            if (prefersUnnamed && UnnamedFile.TryCreate(folder, lengthBytes) is { } unnamed)
            {
                return new WholeFile(unnamed, target, operation, part: null);
            }

            // .NET locks what it opens without sharing.
            string part = PartOf(target);
            SafeFileHandle named = File.OpenHandle(
                part, FileMode.Create, FileAccess.Write, FileShare.None, FileOptions.None, lengthBytes);
            return new WholeFile(named, target, operation, part);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw LocalFile.ToTargetFailure(e, operation, path);
        }
    }

    /// <summary>
    /// The same as a stream; to be disposed before <see cref="Publish"/>, which closes the file.
    /// </summary>
    public Stream OpenStream() =>
        new FileStream(new SafeFileHandle(Handle.DangerousGetHandle(), ownsHandle: false), FileAccess.Write);

    /// <summary>Cuts the file to a length: what was written was whole blocks.</summary>
    /// <exception cref="WayleaveException">As <see cref="Create"/>.</exception>
    public void Truncate(long lengthBytes)
    {
        try
        {
            RandomAccess.SetLength(Handle, lengthBytes);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw LocalFile.ToTargetFailure(e, _operation, _path);
        }
    }

    /// <summary>
    /// Writes through to the disk, gives the file its name and closes it; what had the name before is gone.
    /// </summary>
    /// <exception cref="WayleaveException">As <see cref="Create"/>; the name is what it was before.</exception>
    public void Publish()
    {
        try
        {
            RandomAccess.FlushToDisk(Handle);
            if (_part is null)
            {
                Errno errno = UnnamedFile.TryLink(Handle, _path);
                if (errno == Errno.Success)
                {
                    Handle.Dispose();
                    return;
                }

                if (errno != Errno.EEXIST)
                {
                    throw new LinuxException("linkat", _path, errno);
                }

                LinkAsPart();
            }

            File.Move(_part!, _path, overwrite: true);
            _part = null;
            Handle.Dispose();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw LocalFile.ToTargetFailure(e, _operation, _path);
        }
    }

    public void Dispose()
    {
        if (_part is not null)
        {
            File.Delete(_part);
            _part = null;
        }

        Handle.Dispose();
    }

    private void LinkAsPart()
    {
        UnnamedFile.TryLock(Handle); // without locks the process number alone protects the part
        string part = PartOf(_path);
        File.Delete(part); // of a dead process that had our number
        Errno errno = UnnamedFile.TryLink(Handle, part);
        if (errno != Errno.Success)
        {
            throw new LinuxException("linkat", part, errno);
        }

        _part = part;
    }

    private static string PartOf(string path) => Path.Combine(
        Path.GetDirectoryName(path)!,
        string.Create(CultureInfo.InvariantCulture, $".{Path.GetFileName(path)}.{Environment.ProcessId}.part"));

    private static void RemoveStaleParts(string path)
    {
        string prefix = $".{Path.GetFileName(path)}.";
        const string Suffix = ".part";
        foreach (string part in Directory.EnumerateFiles(Path.GetDirectoryName(path)!))
        {
            string name = Path.GetFileName(part);
            if (name.StartsWith(prefix, StringComparison.Ordinal) && name.EndsWith(Suffix, StringComparison.Ordinal)
                && name.Length > prefix.Length + Suffix.Length
                && int.TryParse(
                    name[prefix.Length..^Suffix.Length],
                    NumberStyles.None,
                    CultureInfo.InvariantCulture,
                    out int process)
                && !Directory.Exists(string.Create(CultureInfo.InvariantCulture, $"/proc/{process}")))
            {
                TryRemovePart(part);
            }
        }
    }

    private static void TryRemovePart(string part)
    {
        try
        {
            using SafeFileHandle file = File.OpenHandle(part, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
            File.Delete(part);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Somebody on another machine still writes it, or it is not ours: it does not hinder us.
        }
    }
}
