using System.Runtime.InteropServices;

namespace Wayleave.Lab.Guests;

/// <summary>What .NET sees of the guest: that the host's runtime and our own program run on the lab's kernel.</summary>
internal static class BootReport
{
    /// <summary>Prints kernel, runtime and processors, one <c>key: value</c> a line.</summary>
    internal static int Run(string[] arguments)
    {
        Console.WriteLine($"kernel: {Environment.OSVersion.Version}");
        Console.WriteLine($"runtime: {RuntimeInformation.FrameworkDescription}");
        Console.WriteLine($"processors: {Environment.ProcessorCount}");
        return arguments.Length == 0 ? ExitCodes.Done : ExitCodes.Usage;
    }
}
