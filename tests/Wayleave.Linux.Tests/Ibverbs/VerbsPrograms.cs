using System.Diagnostics;
using System.Globalization;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Starts <c>wayleave</c> and programs of libibverbs; a test whose program is not there is skipped.</summary>
internal static class VerbsPrograms
{
    /// <summary>The folder of the library.</summary>
    public static string Library()
    {
        string folder = Path.Combine(Root(), "artifacts", "ibverbs", "lib");
        Assert.SkipUnless(
            File.Exists(Path.Combine(folder, "libibverbs.so.1")), "no drop-in library: run scripts/build-ibverbs");
        return folder;
    }

    /// <summary>The command line under test.</summary>
    public static string Wayleave()
    {
        Library();
        string cli = Path.Combine(AppContext.BaseDirectory, "wayleave");
        Assert.SkipUnless(File.Exists(cli), "no wayleave beside the tests");
        return cli;
    }

    /// <summary>The folder of the sources of these tests.</summary>
    public static string Sources() => Path.Combine(Root(), "tests", "Wayleave.Linux.Tests", "Ibverbs");

    /// <summary>
    /// A program of one C file of <see cref="Sources"/>, linked with our libraries; the caller removes it.
    /// </summary>
    public static string Compile(string source)
    {
        string library = Library();
        Assert.SkipUnless(File.Exists("/usr/include/rdma/rdma_cma.h"), "no <rdma/rdma_cma.h>");
        string file = Path.Combine(Path.GetTempPath(), $"wayleave-{Guid.NewGuid():n}");
        VerbsRun result = Run(
            "gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", file, Path.Combine(Sources(), source),
            Path.Combine(library, "librdmacm.so.1"), Path.Combine(library, "libibverbs.so.1"));
        Assert.True(result.Exit == 0, result.ToString());
        return file;
    }

    /// <summary>To its end, which must come.</summary>
    public static VerbsRun Run(string program, params string[] arguments) => Start(program, arguments).Wait();

    /// <summary>With our library in the place of the system's.</summary>
    public static VerbsRun RunOn(string devices, string program, params string[] arguments) =>
        StartOn(devices, program, arguments).Wait();

    /// <summary>See <see cref="RunOn"/>.</summary>
    public static StartedProgram StartOn(string devices, string program, params string[] arguments) =>
        new(program, arguments, Library(), devices);

    public static StartedProgram Start(string program, params string[] arguments) =>
        new(program, arguments, null, null);

    /// <summary>Until a process has bound the RoCEv2 port of an address.</summary>
    public static void AwaitPort(string address, StartedProgram program)
    {
        string row = RowOf(address);
        Assert.True(SpinWait.SpinUntil(
            () => program.HasEnded
                || File.ReadLines("/proc/net/udp").Any(l => l.Contains(row, StringComparison.Ordinal)),
            Patience.Max));
    }

    /// <summary>What <c>/proc/net/udp</c> has of the RoCEv2 port of an IPv4 address, once it is bound.</summary>
    public static string RowOf(string address)
    {
        byte[] bytes = System.Net.IPAddress.Parse(address).GetAddressBytes();
        return string.Create(
            CultureInfo.InvariantCulture, $" {bytes[3]:X2}{bytes[2]:X2}{bytes[1]:X2}{bytes[0]:X2}:{4791:X4} ");
    }

    private static string Root()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Wayleave.slnx")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return folder ?? throw new InvalidOperationException("the tests do not run inside the repository");
    }
}

/// <summary>How a program ended.</summary>
internal sealed record VerbsRun(int Exit, string Output, string Errors)
{
    public override string ToString() => $"exit {Exit}\n{Output}\n{Errors}";
}

/// <summary>A program that runs; killed when it is disposed too early.</summary>
internal sealed class StartedProgram : IDisposable
{
    private readonly Process _process;
    private readonly Task<string> _output;
    private readonly Task<string> _errors;

    public StartedProgram(
        string program,
        string[] arguments,
        string? library,
        string? devices,
        params ReadOnlySpan<(string Name, string Value)> environment)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["LD_LIBRARY_PATH"] = library;
        start.Environment["WAYLEAVE_DEVICES"] = devices;
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }

        try
        {
            _process = Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip($"no {program}");
            throw;
        }

        _output = _process.StandardOutput.ReadToEndAsync();
        _errors = _process.StandardError.ReadToEndAsync();
    }

    public int Id => _process.Id;

    public bool HasEnded => _process.HasExited;

    /// <summary>
    /// Its end. One that does not come is a failure: killed, it would look like a program that failed.
    /// </summary>
    public VerbsRun Wait()
    {
        bool hasEnded = _process.WaitForExit(Patience.Max);
        if (!hasEnded)
        {
            _process.Kill(entireProcessTree: true);
        }

        _process.WaitForExit();
        VerbsRun run = new(_process.ExitCode, _output.Result, _errors.Result);
        Assert.True(
            hasEnded, $"{_process.StartInfo.FileName} did not end in {Patience.Max}\n{run.Output}\n{run.Errors}");
        return run;
    }

    /// <summary>Kills it, and waits for its end.</summary>
    public void Kill()
    {
        _process.Kill(entireProcessTree: true);
        _process.WaitForExit();
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
        }

        _process.Dispose();
    }
}
