using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Linux;
using Wayleave.Ports.Programs;

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
    public const string DevicesVariable = ProgramVariables.Devices;

    private const string Library = "libibverbs.so.1";
    private const string NamespaceProgram = "wayleave-ns";
    private const int NameLengthMax = 63;
    private const ushort RocePort = 4791;

    private static readonly TimeSpan s_ownEnd = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan s_terminatedEnd = TimeSpan.FromSeconds(5);

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
            && FileStatus.TryReadThrough(file, out FileStatus status)
            && ((status.Permissions.HasFlag(UnixFileMode.SetUser) && status.UserId != FileStatus.CurrentUserId)
                || status.Permissions.HasFlag(UnixFileMode.SetGroup));
        return isSetuid ? $"{file} runs with the rights of its owner: the loader ignores LD_LIBRARY_PATH for it" : null;
    }

    /// <summary>Reads a list of devices as the library will.</summary>
    /// <param name="devices">For <see cref="DevicesVariable"/>.</param>
    /// <returns>The same, each with its name; or null.</returns>
    public static string? Normalize(string devices)
    {
        ArgumentNullException.ThrowIfNull(devices);
        List<string> read = [];
        foreach (string entry in devices.Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            int at = entry.IndexOf('@', StringComparison.Ordinal);
            string name = at > 0 ? entry[..at] : string.Create(CultureInfo.InvariantCulture, $"wl{read.Count}");
            bool isGood = name.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-')
                && name.Length <= NameLengthMax
                && Gid.TryParse(entry.AsSpan(at + 1), out _)
                && !read.Any(r => r.StartsWith(name + '@', StringComparison.Ordinal));
            if (!isGood)
            {
                return null;
            }

            read.Add($"{name}@{entry[(at + 1)..]}");
        }

        return read.Count == 0 ? null : string.Join(',', read);
    }

    /// <summary>Runs a program to its end; its input and output are ours.</summary>
    /// <param name="command">The program and its arguments.</param>
    /// <param name="options">How.</param>
    /// <param name="cancellation">
    /// Ends it: by itself within a second (a terminal's Ctrl-C reaches it too), else by SIGTERM, and after five more by
    /// SIGKILL. What it did is returned all the same.
    /// </param>
    /// <returns>How it ended.</returns>
    /// <exception cref="WayleaveException">
    /// ENOENT and others: it cannot be started, or a file cannot be made. EINVAL for devices that cannot be read.
    /// </exception>
    public static async Task<VerbsRunResult> RunAsync(
        IReadOnlyList<string> command, VerbsRunOptions options, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(command);
        ArgumentNullException.ThrowIfNull(options);
        string devices = Normalize(options.Devices) ?? throw new WayleaveException(
            Errno.EINVAL, $"run {command[0]}", $"{options.Devices} is no list NAME@ADDRESS,...", null);
        string folder = FindLibrary();
        List<string> words = [.. command];
        using RunFolder work = new(command[0]);
        if (options.HasNamespace)
        {
            DeviceFiles.Create(work.Path, devices);
            words.InsertRange(0, [Path.Combine(folder, NamespaceProgram), work.Path]);
        }

        ProcessStartInfo start = new(words[0], words.Skip(1)) { UseShellExecute = false };
        string? before = Environment.GetEnvironmentVariable("LD_LIBRARY_PATH");
        start.Environment["LD_LIBRARY_PATH"] = string.IsNullOrEmpty(before) ? folder : $"{folder}:{before}";
        start.Environment[DevicesVariable] = devices;
        Set(start, ProgramVariables.Faults, options.Faults);
        Set(start, ProgramVariables.Report, options.Reports ? work.Path : null);
        Set(start, ProgramVariables.Pcap, options.PcapPath is { } pcap ? RunFiles.StartCapture(pcap) : null);
        Set(start, ProgramVariables.Trace, options.TracePath is { } trace ? RunFiles.StartTrace(trace) : null);
        try
        {
            int exitCode = await RunAsync(start, command[0], cancellation).ConfigureAwait(false);
            return new VerbsRunResult(exitCode, options.Reports ? ReportPage.ReadAll(work.Path) : []);
        }
        finally
        {
            if (options.TracePath is { } ended)
            {
                RunFiles.EndTrace(ended);
            }
        }
    }

    // A variable of the caller's own, from an outer run perhaps, is not handed on.
    private static void Set(ProcessStartInfo start, string name, string? value)
    {
        start.Environment.Remove(name);
        if (value is not null)
        {
            start.Environment[name] = value;
        }
    }

    private static async Task<int> RunAsync(ProcessStartInfo start, string program, CancellationToken cancellation)
    {
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            throw new WayleaveException(
                (Errno)e.NativeErrorCode, $"start {program}", e.Message, "is it installed, and in PATH?");
        }

        using (process)
        {
            try
            {
                await process.WaitForExitAsync(cancellation).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                await EndAsync(process).ConfigureAwait(false);
            }

            return process.ExitCode;
        }
    }

    // Ctrl-C of a terminal is the program's too, which may have something to say before it ends. What was sent to us
    // alone, it hears of now.
    private static async Task EndAsync(Process process)
    {
        Task ended = process.WaitForExitAsync(CancellationToken.None);
        if (await EndsWithinAsync(ended, s_ownEnd).ConfigureAwait(false))
        {
            return;
        }

        try
        {
            using PidFd program = PidFd.Open(process.Id);
            program.Terminate();
            if (!await EndsWithinAsync(ended, s_terminatedEnd).ConfigureAwait(false))
            {
                program.Kill();
            }
        }
        catch (LinuxException e) when (e.Errno == Errno.ESRCH)
        {
            // It has ended meanwhile.
        }

        await ended.ConfigureAwait(false);
    }

    private static async Task<bool> EndsWithinAsync(Task ended, TimeSpan limit) =>
        await Task.WhenAny(ended, Task.Delay(limit)).ConfigureAwait(false) == ended;
}
