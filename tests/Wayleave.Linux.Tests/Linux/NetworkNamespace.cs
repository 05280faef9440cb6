using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>Runs a test in a network namespace of its own: an own loopback, own routes, every port free.</summary>
internal static unsafe partial class NetworkNamespace
{
    private const int CLONE_NEWNET = 0x40000000;

    /// <summary>
    /// Skips the test where the machine does not allow it. The namespace goes with the thread that runs the body.
    /// </summary>
    /// <param name="setUp">Arguments of ip(8), one command each.</param>
    /// <param name="body">Runs after them.</param>
    internal static void Run(IEnumerable<string> setUp, Action body)
    {
        string? skip = null;
        ExceptionDispatchInfo? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                skip = Enter(setUp);
                if (skip is null)
                {
                    body();
                }
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
        if (skip is not null)
        {
            Assert.Skip(skip);
        }
    }

    /// <summary>Runs ip(8) in the namespace of the calling thread.</summary>
    /// <returns>What it complained about, or null.</returns>
    internal static string? Ip(string arguments)
    {
        try
        {
            // A child process starts in the namespace of the thread that forks it.
            using Process ip = Process.Start(new ProcessStartInfo("ip", arguments) { RedirectStandardError = true })!;
            string errors = ip.StandardError.ReadToEnd();
            ip.WaitForExit();
            return ip.ExitCode == 0 ? null : $"ip {arguments}: {errors.Trim()}";
        }
        catch (Win32Exception e)
        {
            return $"ip: {e.Message}";
        }
    }

    private static string? Enter(IEnumerable<string> setUp) =>
        unshare(CLONE_NEWNET) < 0
            ? $"no network namespace: {Marshal.GetLastPInvokeErrorMessage()}"
            : setUp.Select(Ip).FirstOrDefault(complaint => complaint is not null);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unshare(int flags);
}
