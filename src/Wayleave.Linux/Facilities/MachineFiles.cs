using System.Globalization;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Linux.Interop;

namespace Wayleave.Linux.Facilities;

// A device node is looked at, never opened: the node of a module that is not loaded loads it when opened, an open of a
// sleeping GPU wakes it, and the first who opens a DRM card becomes its master.

/// <summary>What <c>/sys</c>, <c>/proc</c> and <c>/dev</c> of a machine say, read and nothing else.</summary>
/// <param name="root">The folder that holds them.</param>
/// <param name="access">
/// Whether this process may read and write a file; null asks the kernel (faccessat(2)), which opens nothing.
/// </param>
internal sealed class MachineFiles(string root, Func<string, Errno>? access = null)
{
    private const int KeyAndValue = 2;

    /// <summary>Whether this is the machine that runs, so that system calls say the same.</summary>
    public bool IsThisMachine => root == "/";

    /// <summary>The full path, for people too.</summary>
    public string PathOf(string path) => Path.Combine(root, path);

    public bool Exists(string path) => Path.Exists(PathOf(path));

    /// <summary>The names in a folder, sorted; none when it is not there or may not be read.</summary>
    public IReadOnlyList<string> List(string folder)
    {
        try
        {
            return [.. Directory.GetFileSystemEntries(PathOf(folder)).Select(e => Path.GetFileName(e))
                .Order(StringComparer.Ordinal)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>The text without its last line feed; null when there is none for this process.</summary>
    public string? Read(string path)
    {
        try
        {
            return File.ReadAllText(PathOf(path)).TrimEnd('\n');
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    public long? ReadNumber(string path) =>
        long.TryParse(Read(path), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number)
            ? number
            : null;

    /// <summary>The name that a symbolic link ends with; null when it is none.</summary>
    public string? LinkTarget(string path)
    {
        try
        {
            return new FileInfo(PathOf(path)).LinkTarget is { } target ? Path.GetFileName(target) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Whether this process may read and write the file.</summary>
    /// <returns>EACCES, EROFS as its number, ENOENT.</returns>
    public Errno Access(string path)
    {
        if (access is not null)
        {
            return access(path);
        }

        int result = Libc.faccessat(
            fcntl.AT_FDCWD, PathOf(path), Interop.access.R_OK | Interop.access.W_OK, fcntl.AT_EACCESS);
        return result == 0 ? Errno.Success : (Errno)Marshal.GetLastPInvokeError();
    }

    /// <summary>Whether this process has a capability (<c>CapEff</c> of proc/self/status), by its bit.</summary>
    public bool HasCapability(int bit)
    {
        const string key = "CapEff:";
        string? line = (Read("proc/self/status") ?? "").Split('\n')
            .FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal));
        return line?.Split(':', KeyAndValue) is [_, string mask]
            && ulong.TryParse(mask.Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong bits)
            && (bits & (1UL << bit)) != 0;
    }
}
