using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Wayleave.Compare;

/// <summary>Programs of this machine that a comparison runs: ours and its peers.</summary>
public static class PeerProgram
{
    private static readonly TimeSpan s_most = TimeSpan.FromMinutes(5);

    /// <summary>
    /// The launcher of the repository that a comparison lies in: its folder's neighbour.
    /// </summary>
    public static string Wayleave => Path.Combine(Root, "wayleave");

    /// <summary>The repository.</summary>
    public static string Root => Path.GetFullPath(Path.Combine(Folder, ".."));

    /// <summary>Where the comparison itself lies.</summary>
    public static string Folder => AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".";

    /// <summary>
    /// Says on the standard error which packages are to be installed, if a program is nowhere in PATH.
    /// </summary>
    /// <returns>Whether one is missing.</returns>
    public static bool IsMissing(string comparison, params IEnumerable<(string Program, string Package)> peers)
    {
        string[] missing = [.. peers.Where(p => !IsInPath(p.Program)).Select(p => p.Package).Distinct()];
        if (missing.Length > 0)
        {
            Console.Error.WriteLine($"{comparison}: a peer is missing: apt-get install {string.Join(' ', missing)}");
        }

        return missing.Length > 0;
    }

    /// <summary>Runs a program to its end.</summary>
    /// <returns>What it printed.</returns>
    /// <exception cref="PeerException">
    /// It does not start, exits with another code than 0, or is not done within five minutes and was killed.
    /// </exception>
    public static string Run(
        string program,
        string[] arguments,
        (string Name, string Value)[]? environment = null,
        string? folder = null)
    {
        (int exit, string output, string errors) = TryRun(program, arguments, environment, folder);
        return exit == 0
            ? output
            : throw new PeerException($"{program} {string.Join(' ', arguments)} exited with {exit}: {errors.Trim()}");
    }

    /// <summary>As <see cref="Run"/>, by a program that may fail.</summary>
    public static (int Exit, string Output, string Errors) TryRun(
        string program,
        string[] arguments,
        (string Name, string Value)[]? environment = null,
        string? folder = null)
    {
        using Process process = Start(program, arguments, environment, folder);
        Task<string> errors = process.StandardError.ReadToEndAsync();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(s_most))
        {
            End(process);
            throw new PeerException(
                $"{program} {string.Join(' ', arguments)} did not end within {s_most.TotalMinutes} minutes");
        }

        return (process.ExitCode, output.GetAwaiter().GetResult(), errors.GetAwaiter().GetResult());
    }

    /// <summary>Starts a program whose output can be read. The caller ends and disposes it.</summary>
    public static Process Start(
        string program,
        string[] arguments,
        (string Name, string Value)[]? environment = null,
        string? folder = null)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = folder ?? "",
        };
        foreach ((string name, string value) in environment ?? [])
        {
            start.Environment[name] = value;
        }

        return Process.Start(start) ?? throw new PeerException($"{program} does not start");
    }

    /// <summary>Lets a server end by itself for half a second, then kills it and what it started.</summary>
    public static void End(Process process)
    {
        if (!process.WaitForExit(500))
        {
            process.Kill(entireProcessTree: true);
            process.WaitForExit();
        }
    }

    /// <summary>
    /// Returns when somebody listens on a TCP port. It looks at the table of sockets and makes no connection: iperf3 -1
    /// and ucx_perftest take the first one for their client.
    /// </summary>
    /// <exception cref="PeerException">The server ended first, or nobody listened for ten seconds.</exception>
    public static void AwaitListener(string port, Process server)
    {
        string suffix = $":{int.Parse(port, CultureInfo.InvariantCulture):X4} ";
        for (int i = 0; i < 500; i++)
        {
            string sockets = File.ReadAllText("/proc/net/tcp")
                + (File.Exists("/proc/net/tcp6") ? File.ReadAllText("/proc/net/tcp6") : "");
            if (sockets.Split('\n').Any(
                l => l.Contains(suffix, StringComparison.Ordinal) && l.Contains(" 0A ", StringComparison.Ordinal)))
            {
                return;
            }

            if (server.WaitForExit(20))
            {
                throw new PeerException($"{server.StartInfo.FileName} ended before it listened on port {port}");
            }
        }

        throw new PeerException($"{server.StartInfo.FileName} does not listen on port {port}");
    }

    /// <summary>A TCP port that was free a moment ago.</summary>
    public static string FreePort()
    {
        using TcpListener listener = new(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>Whether a program is in a folder of PATH.</summary>
    public static bool IsInPath(string name) => (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(':', StringSplitOptions.RemoveEmptyEntries)
        .Any(folder => File.Exists(Path.Combine(folder, name)));
}
