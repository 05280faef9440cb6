using System.Globalization;

namespace Wayleave.Linux.Sharing;

/// <summary>Which processes have a socket open, as <c>/proc</c> shows them to this user: what lsof does.</summary>
public static class DescriptorOwners
{
    private const string Prefix = "socket:[";

    /// <summary>Looks through all processes that this user may look at.</summary>
    /// <param name="inodes">Of the sockets that are meant.</param>
    /// <returns>By inode, the process of each descriptor: one that has two copies is there twice.</returns>
    public static ILookup<ulong, int> OfSockets(IReadOnlySet<ulong> inodes)
    {
        ArgumentNullException.ThrowIfNull(inodes);
        List<(ulong Inode, int ProcessId)> found = [];
        if (inodes.Count > 0)
        {
            foreach (string process in Directory.EnumerateDirectories("/proc"))
            {
                if (int.TryParse(Path.GetFileName(process), CultureInfo.InvariantCulture, out int id))
                {
                    found.AddRange(SocketsOf(process).Where(inodes.Contains).Select(i => (i, id)));
                }
            }
        }

        return found.ToLookup(f => f.Inode, f => f.ProcessId);
    }

    // A process that has ended meanwhile, or is another user's, has none.
    private static List<ulong> SocketsOf(string process)
    {
        List<ulong> sockets = [];
        try
        {
            foreach (string descriptor in Directory.EnumerateFileSystemEntries(Path.Combine(process, "fd")))
            {
                if (new FileInfo(descriptor).LinkTarget is { } target
                    && target.StartsWith(Prefix, StringComparison.Ordinal)
                    && ulong.TryParse(
                        target.AsSpan(Prefix.Length).TrimEnd(']'), CultureInfo.InvariantCulture, out ulong inode))
                {
                    sockets.Add(inode);
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return sockets;
        }

        return sockets;
    }
}
