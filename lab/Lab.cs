using System.Runtime.InteropServices;
using Wayleave.Lab.Machine;
using Wayleave.Lab.Packages;

namespace Wayleave.Lab;

/// <summary>What every run needs, from the cache or, the first time, from the network.</summary>
internal static class Lab
{
    /// <summary>
    /// The executable whose first arguments are <c>program</c> and the name of one of <see cref="TestPrograms"/>.
    /// </summary>
    internal static string Program { get; } = Path.ChangeExtension(typeof(Lab).Assembly.Location, null);

    /// <summary>
    /// Gives a kernel, the programs that every run needs, and those of one test; as far as the machine lacks them.
    /// </summary>
    /// <param name="cache">Where they are kept.</param>
    /// <param name="packages">Debian packages that the guest needs beyond the base.</param>
    /// <param name="refresh">Ask for a newer kernel, although there is one.</param>
    /// <param name="say">Takes what it does, when it does something.</param>
    /// <exception cref="LabException">It cannot be had here.</exception>
    internal static (KernelImage Kernel, ToolLayer Tools, ToolLayer Extra) Open(
        LabCache cache, IReadOnlyList<string> packages, bool refresh, Action<string> say)
    {
        using IDisposable hold = cache.Lock();
        if (refresh)
        {
            // Unpacked anew: the packages may be newer, and what no test needs any more goes.
            PackageTree.Delete(cache.Of("tools"));
        }

        ToolLayer tools = ToolLayer.Open(cache, ToolLayer.Base, say);
        ToolLayer extra = ToolLayer.Open(cache, packages, say);
        KernelImage? kernel = refresh ? null : KernelImage.Cached(cache);
        kernel ??= KernelImage.Fetch(cache, tools, say);
        Initramfs.Build(cache, kernel, tools);
        return (kernel, tools, extra);
    }

    /// <summary>
    /// What scripts in the guest may rely on. <c>"$LAB" program NAME</c> is a program of <see cref="TestPrograms"/>.
    /// </summary>
    internal static IReadOnlyDictionary<string, string> Environment(string root, string folder) =>
        new Dictionary<string, string>
        {
            ["LAB"] = Program,
            // Where this runtime is: share/dotnet, above shared/Microsoft.NETCore.App/VERSION.
            ["DOTNET_ROOT"] = Path.GetFullPath(Path.Combine(RuntimeEnvironment.GetRuntimeDirectory(), "../../..")),
            ["LAB_ROOT"] = root,
            ["LAB_TEST"] = folder,
            ["LAB_SHARE"] = "/run/lab",
            ["LAB_HOST"] = HostNetwork.HostAddress,
            ["LAB_GUEST"] = HostNetwork.GuestAddress,
            ["LAB_HOST6"] = HostNetwork.HostAddress6,
            ["LAB_GUEST6"] = HostNetwork.GuestAddress6,
            // Under emulation compiling costs more than it gains.
            ["DOTNET_TieredPGO"] = "0",
            ["DOTNET_TC_QuickJitForLoops"] = "1",
            // How much a test of TCP moves, for its long form.
            ["LAB_TCP_BYTES"] = System.Environment.GetEnvironmentVariable("LAB_TCP_BYTES") ?? "",
        };
}
