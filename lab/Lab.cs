using Wayleave.Lab.Machine;
using Wayleave.Lab.Packages;

namespace Wayleave.Lab;

/// <summary>What every run needs, from the cache or, the first time, from the network.</summary>
internal static class Lab
{
    /// <summary>Gives a kernel, and the programs for it as far as the machine lacks them.</summary>
    /// <param name="cache">Where they are kept.</param>
    /// <param name="packages">Debian packages that the guest needs beyond the base.</param>
    /// <param name="refresh">Ask for a newer kernel, although there is one.</param>
    /// <param name="say">Takes what it does, when it does something.</param>
    /// <exception cref="LabException">It cannot be had here.</exception>
    internal static (KernelImage Kernel, ToolLayer Tools) Open(
        LabCache cache, IReadOnlyList<string> packages, bool refresh, Action<string> say)
    {
        using IDisposable hold = cache.Lock();
        ToolLayer tools = ToolLayer.Open(cache, [.. ToolLayer.Base, .. packages], say);
        KernelImage? kernel = refresh ? null : KernelImage.Cached(cache);
        kernel ??= KernelImage.Fetch(cache, tools, say);
        Initramfs.Build(cache, kernel, tools);
        return (kernel, tools);
    }

    /// <summary>What scripts in the guest may rely on.</summary>
    internal static IReadOnlyDictionary<string, string> Environment(string root, string folder) =>
        new Dictionary<string, string>
        {
            // The lab's own program, whose subcommands look at the kernel from inside.
            ["LAB"] = $"dotnet {typeof(Lab).Assembly.Location} guest",
            ["LAB_ROOT"] = root,
            ["LAB_TEST"] = folder,
            ["LAB_SHARE"] = "/run/lab",
            ["LAB_HOST"] = HostNetwork.HostAddress,
            ["LAB_GUEST"] = HostNetwork.GuestAddress,
            // Under emulation compiling costs more than it gains.
            ["DOTNET_TieredPGO"] = "0",
            ["DOTNET_TC_QuickJitForLoops"] = "1",
        };
}
