using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using Wayleave.Core;
using Wayleave.Linux;

namespace Wayleave.Host.Programs;

/// <summary>
/// Starts programs of libibverbs on NICs of their own process: our library stands before the system's, and names its
/// devices after a variable.
/// </summary>
public static class VerbsProgram
{
    /// <summary>Names the folder of the library, where it is none of the usual ones.</summary>
    public const string FolderVariable = "WAYLEAVE_IBVERBS";

    /// <summary>What the library reads: <c>wl0@127.0.7.2,wl1@::1</c>.</summary>
    public const string DevicesVariable = "WAYLEAVE_DEVICES";

    private const string Library = "libibverbs.so.1";
    private const ushort RocePort = 4791;

    /// <summary>The folder of the library: the variable's, or the build's that this program comes from.</summary>
    /// <exception cref="WayleaveException">EOPNOTSUPP where there is none.</exception>
    public static string FindLibrary()
    {
        if (Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } named)
        {
            return File.Exists(Path.Combine(named, Library)) ? Path.GetFullPath(named) : throw None(named);
        }

        for (string? at = AppContext.BaseDirectory; at is not null; at = Path.GetDirectoryName(at))
        {
            string folder = Path.Combine(at, "artifacts", "ibverbs", "lib");
            if (File.Exists(Path.Combine(folder, Library)))
            {
                return folder;
            }
        }

        throw None(AppContext.BaseDirectory);

        static WayleaveException None(string place) => new(
            Errno.EOPNOTSUPP,
            "run a program of libibverbs",
            $"there is no {Library} in {place}",
            $"make it by scripts/build-ibverbs, or name its folder in {FolderVariable}");
    }

    /// <summary>
    /// One device at a loopback address where nobody has the RoCEv2 port at this moment. The port is the program's from
    /// its first queue pair on.
    /// </summary>
    /// <exception cref="WayleaveException">EADDRINUSE when a thousand addresses are taken.</exception>
    public static string ChooseDevices()
    {
        uint start = 0x7F40_0000 | ((uint)Environment.ProcessId & 0x3F_FFFF);
        for (uint i = 0; i < 1000; i++)
        {
            uint chosen = (start & ~0x3F_FFFFu) | ((start + i) & 0x3F_FFFF);
            EndpointAddress address = EndpointAddress.FromIPv4(chosen, RocePort);
            try
            {
                using UdpEndpoint probe = UdpEndpoint.Bind(address);
                return string.Create(CultureInfo.InvariantCulture, $"wl0@{address.ToIPEndPoint().Address}");
            }
            catch (LinuxException e) when (e.Errno == Errno.EADDRINUSE)
            {
                // The next one.
            }
        }

        throw new WayleaveException(
            Errno.EADDRINUSE, "choose an address", "a thousand of 127.64.0.0/10 are taken", "name one by --devices");
    }

    /// <summary>
    /// Why a program will not see the library, or null: the loader drops variables of setuid programs.
    /// </summary>
    /// <param name="program">As it would be started.</param>
    public static string? WhyDeaf(string program)
    {
        string? file = program.Contains('/', StringComparison.Ordinal)
            ? program
            : (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':')
                .Select(folder => Path.Combine(folder, program)).FirstOrDefault(File.Exists);
        bool isSetuid = file is not null && File.Exists(file)
            && (File.GetUnixFileMode(file) & (UnixFileMode.SetUser | UnixFileMode.SetGroup)) != 0;
        return isSetuid ? $"{file} runs with the rights of its owner: the loader ignores LD_LIBRARY_PATH for it" : null;
    }

    /// <summary>Runs a program to its end; its input and output are ours.</summary>
    /// <param name="command">The program and its arguments.</param>
    /// <param name="devices">For <see cref="DevicesVariable"/>.</param>
    /// <param name="cancellation">Kills it.</param>
    /// <returns>Its exit code; 128 and the number of the signal that ended it.</returns>
    /// <exception cref="WayleaveException">ENOENT and others: it cannot be started.</exception>
    public static async Task<int> RunAsync(
        IReadOnlyList<string> command, string devices, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(command);
        ProcessStartInfo start = new(command[0], command.Skip(1)) { UseShellExecute = false };
        string folder = FindLibrary();
        string? before = Environment.GetEnvironmentVariable("LD_LIBRARY_PATH");
        start.Environment["LD_LIBRARY_PATH"] = string.IsNullOrEmpty(before) ? folder : $"{folder}:{before}";
        start.Environment[DevicesVariable] = devices;
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw new WayleaveException(
                (Errno)e.NativeErrorCode, $"start {command[0]}", e.Message, "is it installed, and in PATH?");
        }

        using (process)
        {
            try
            {
                await process.WaitForExitAsync(cancellation).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                process.Kill();
                throw;
            }

            return process.ExitCode;
        }
    }
}
