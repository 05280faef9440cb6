using System.Security.Cryptography;
using System.Text;
using Wayleave.Lab.Machine;

namespace Wayleave.Lab.Packages;

/// <summary>
/// Programs that the lab needs and this machine has not installed: unpacked below the cache, used from there on the
/// host, and laid over the host's root in the guest, where they look installed.
/// </summary>
internal sealed class ToolLayer
{
    private const long Bytes = 700L << 20;

    // What has to be there for each program, by the package that has it.
    private static readonly Dictionary<string, string> s_programs = new()
    {
        ["qemu-system-x86"] = "qemu-system-x86_64",
        ["busybox-static"] = "", // the package busybox has the same program, but not static
        ["kmod"] = "depmod",
        ["rdmacm-utils"] = "rping",
        ["ibverbs-utils"] = "ibv_rc_pingpong",
        ["perftest"] = "ib_write_bw",
        ["iproute2"] = "ip",
        ["tcpdump"] = "tcpdump",
    };

    private static readonly string[] s_folders = ["usr/bin", "usr/sbin"];

    private ToolLayer(string? tree) => Tree = tree;

    /// <summary>Root of the unpacked tree, or null when the machine has everything itself.</summary>
    internal string? Tree { get; }

    /// <summary>What every run needs.</summary>
    internal static IReadOnlyList<string> Base { get; } = ["qemu-system-x86", "busybox-static", "kmod"];

    /// <summary>
    /// Gives the layer that has these packages, as far as the machine lacks them; fetches it when it is not cached.
    /// </summary>
    internal static ToolLayer Open(LabCache cache, IReadOnlyList<string> packages, Action<string> say)
    {
        string[] missing = [.. packages.Distinct().Order().Where(IsMissing)];
        if (missing.Length == 0)
        {
            return new ToolLayer(tree: null);
        }

        byte[] names = Encoding.UTF8.GetBytes(string.Join('\n', missing));
        string key = Convert.ToHexStringLower(SHA256.HashData(names))[..12];
        string tree = cache.Of("tools", key);
        if (!Directory.Exists(tree))
        {
            cache.RequireSpace(Bytes);
            say($"fetching {string.Join(' ', missing)}");
            AptRoot apt = new(cache, "tools");
            apt.Update();
            Directory.CreateDirectory(cache.Of("tools"));
            PackageTree.Unpack(apt.DownloadMissing(missing), tree);
            apt.Clear();
        }

        return new ToolLayer(tree);
    }

    /// <summary>The path of a program of the layer or of the machine.</summary>
    /// <exception cref="LabException">Neither has it.</exception>
    internal string Find(string program)
    {
        string? own = Tree is null
            ? null
            : s_folders.Select(f => Path.Combine(Tree, f, program)).FirstOrDefault(File.Exists);
        return own ?? Tool.Find(program) ?? throw new LabException(
            ExitCodes.NotSupported, $"no {program}",
            "install it, or delete the lab's cache so that it is fetched again");
    }

    /// <summary>Runs a program of the layer or of the machine.</summary>
    internal ToolResult Run(string program, params string[] arguments) =>
        Tool.Run(Find(program), arguments, Environment());

    /// <summary>What a program of the layer needs to find its libraries.</summary>
    internal IReadOnlyDictionary<string, string> Environment()
    {
        if (Tree is null)
        {
            return new Dictionary<string, string>();
        }

        string libraries = Path.Combine(Tree, "usr/lib");
        string[] machine = Directory.GetDirectories(libraries, "*-linux-gnu");
        // QEMU links the sound server's library, which keeps its own part in a folder of its own.
        IEnumerable<string> folders = [.. machine, .. machine.Select(f => Path.Combine(f, "pulseaudio")), libraries];
        string path = string.Join(':', folders.Where(Directory.Exists));
        return new Dictionary<string, string> { ["LD_LIBRARY_PATH"] = path };
    }

    // The status file of dpkg tells what is installed; a program in PATH may as well come from elsewhere.
    private static bool IsMissing(string package)
    {
        if (s_programs.TryGetValue(package, out string? program) && program.Length > 0)
        {
            return Tool.Find(program) is null;
        }

        ToolResult result = Tool.Run("dpkg-query", ["-W", "-f", "${db:Status-Status}", package]);
        return result.ExitCode != 0 || !result.Output.Contains("installed", StringComparison.Ordinal)
            || result.Output.Contains("not-installed", StringComparison.Ordinal);
    }
}
