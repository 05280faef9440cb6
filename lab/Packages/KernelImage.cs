using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Packages;

/// <summary>A kernel of Debian's, unpacked in the cache with the table of its modules.</summary>
/// <param name="Version">As <c>uname -r</c> says it.</param>
/// <param name="Package">The version of the Debian package.</param>
/// <param name="Tree">Root of the tree that holds <c>usr/lib/modules/VERSION</c>.</param>
internal sealed record KernelImage(string Version, string Package, string Tree)
{
    /// <summary>The suite that has kernels newer than the stable release's.</summary>
    internal const string Suite = "trixie-backports";

    private const string MetaPackage = "linux-image-amd64";
    private const long Bytes = 600L << 20;

    private static readonly string[] s_parts = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

    internal string Modules => Path.Combine(Tree, "usr/lib/modules", Version);

    internal string Image => new[]
    {
        Path.Combine(Modules, "vmlinuz"), Path.Combine(Tree, "boot", "vmlinuz-" + Version),
    }.First(File.Exists);

    /// <summary>The kernel in the cache, or null when none was fetched.</summary>
    internal static KernelImage? Cached(LabCache cache)
    {
        string mark = cache.Of("kernel", "current");
        if (!File.Exists(mark))
        {
            return null;
        }

        string[] lines = File.ReadAllLines(mark);
        KernelImage? image =
            lines.Length == 2 ? new KernelImage(lines[0], lines[1], cache.Of("kernel", lines[0])) : null;
        return image is not null && File.Exists(Path.Combine(image.Modules, "modules.dep")) ? image : null;
    }

    /// <summary>Fetches the newest kernel of the suite. Older ones in the cache go.</summary>
    internal static KernelImage Fetch(LabCache cache, ToolLayer tools, Action<string> say)
    {
        cache.RequireSpace(Bytes);
        say($"fetching the kernel of {Suite}");
        AptRoot apt = new(cache, "kernel", Suite);
        apt.Update();
        (IReadOnlyList<string> packages, string package) = Closure(apt);
        IReadOnlyList<string> files = apt.Download(packages);
        string next = cache.Of("kernel", "fetched");
        say($"unpacking {package}");
        PackageTree.Unpack(files, next);
        apt.Clear();
        string modules = Path.Combine(next, "usr/lib/modules");
        string version = Directory.Exists(modules)
            ? Path.GetFileName(Directory.GetDirectories(modules).Single())
            : throw new LabException(ExitCodes.Failed, $"{package} holds no modules: {string.Join(' ', packages)}");
        ToolResult depmod = tools.Run("depmod", "-b", Path.Combine(next, "usr"), version);
        if (depmod.ExitCode != 0 || !File.Exists(Path.Combine(modules, version, "modules.dep")))
        {
            throw new LabException(ExitCodes.Failed, $"depmod: {depmod.Complaint}");
        }

        KernelImage image = new(version, package, cache.Of("kernel", version));
        PackageTree.Delete(image.Tree);
        Directory.Move(next, image.Tree);
        File.WriteAllLines(cache.Of("kernel", "current"), [version, package]);
        foreach (string old in Directory.GetDirectories(cache.Of("kernel")).Where(f => f != image.Tree))
        {
            PackageTree.Delete(old);
        }

        return image;
    }

    // The metapackage depends on the image of the day. Since 7.x the kernel itself is spread over several packages.
    private static (IReadOnlyList<string> Packages, string Version) Closure(AptRoot apt)
    {
        List<string> found = [];
        string version = "";
        Queue<string> next = new([MetaPackage]);
        while (next.TryDequeue(out string? package))
        {
            if (found.Contains(package))
            {
                continue;
            }

            IReadOnlyDictionary<string, string> fields = apt.Show(package);
            if (!fields.TryGetValue("Version", out string? itsVersion))
            {
                throw new LabException(
                    ExitCodes.NotSupported, $"{Suite} has no package {package}",
                    "does the mirror of this machine carry that suite?");
            }

            if (package != MetaPackage)
            {
                found.Add(package);
            }

            version = itsVersion;
            string depends = $"{fields.GetValueOrDefault("Pre-Depends")},{fields.GetValueOrDefault("Depends")}";
            foreach (string one in depends.Split(','))
            {
                string name = one.Trim().Split(' ')[0];
                if (IsKernelPart(name))
                {
                    next.Enqueue(name);
                }
            }
        }

        return (found, version);
    }

    private static bool IsKernelPart(string name) =>
        s_parts.Any(prefix =>
            name.StartsWith(prefix, StringComparison.Ordinal)
            && name.Length > prefix.Length && char.IsAsciiDigit(name[prefix.Length]));
}
