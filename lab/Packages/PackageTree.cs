using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Packages;

/// <summary>
/// A folder into which packages were unpacked, laid out as a root file system; nothing of them was run.
/// </summary>
internal static class PackageTree
{
    private static readonly string[] s_merged = ["bin", "sbin", "lib", "lib64", "lib32"];

    /// <summary>
    /// Unpacks into <paramref name="target"/>, which appears when it is complete: a run that was killed leaves no
    /// half tree.
    /// </summary>
    internal static void Unpack(IEnumerable<string> files, string target)
    {
        string next = target + ".next";
        Delete(next);
        Directory.CreateDirectory(next);
        foreach (string file in files)
        {
            ToolResult result = Tool.Run("dpkg-deb", ["-x", file, next]);
            if (result.ExitCode != 0)
            {
                throw new LabException(
                    ExitCodes.NotSupported, $"dpkg-deb -x {Path.GetFileName(file)}: {result.Complaint}",
                    "delete the cache, or make room in it, and try again");
            }
        }

        MergeUsr(next);
        MakeLinksRelative(next);
        Delete(target);
        Directory.Move(next, target);
    }

    internal static void Delete(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    // A folder /lib of an older package would hide the link /lib -> usr/lib of the root that the tree is laid over.
    private static void MergeUsr(string root)
    {
        foreach (string name in s_merged)
        {
            string from = Path.Combine(root, name);
            if (Directory.Exists(from) && new DirectoryInfo(from).LinkTarget is null)
            {
                Merge(from, Path.Combine(root, "usr", name));
                Directory.Delete(from, recursive: true);
            }
        }
    }

    // On the host the tree is not the root: /sbin/depmod -> /bin/kmod has to point into the tree.
    private static void MakeLinksRelative(string root)
    {
        EnumerationOptions all = new() { RecurseSubdirectories = true, AttributesToSkip = FileAttributes.None };
        foreach (FileSystemInfo entry in new DirectoryInfo(root).EnumerateFileSystemInfos("*", all).ToArray())
        {
            if (entry.LinkTarget is not string link || !link.StartsWith('/'))
            {
                continue;
            }

            bool isMerged = s_merged.Any(name => link.StartsWith($"/{name}/", StringComparison.Ordinal));
            string target = isMerged ? "/usr" + link : link;
            if (Path.Exists(root + target))
            {
                entry.Delete();
                File.CreateSymbolicLink(
                    entry.FullName, Path.GetRelativePath(Path.GetDirectoryName(entry.FullName)!, root + target));
            }
        }
    }

    private static void Merge(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (FileSystemInfo entry in new DirectoryInfo(from).EnumerateFileSystemInfos())
        {
            string target = Path.Combine(to, entry.Name);
            if (entry is DirectoryInfo { LinkTarget: null } && Directory.Exists(target))
            {
                Merge(entry.FullName, target);
            }
            else if (entry is DirectoryInfo { LinkTarget: null } folder)
            {
                folder.MoveTo(target);
            }
            else
            {
                new FileInfo(entry.FullName).MoveTo(target, overwrite: true);
            }
        }
    }
}
