using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>How a run of the program ended.</summary>
/// <param name="ExitCode">128 plus the signal's number when a signal ended it.</param>
/// <param name="Out">All of stdout.</param>
/// <param name="Error">All of stderr.</param>
/// <param name="Elapsed">From the start, the last signal or the last mark to the end.</param>
/// <param name="PressureBefore">What the machine said then of programs that wait for a processor.</param>
public sealed record CliResult(int ExitCode, string Out, string Error, TimeSpan Elapsed, TimeSpan PressureBefore);

/// <summary>
/// The built program as a real process with an environment of its own. Disposing kills it, by its id, if it still runs.
/// </summary>
public sealed partial class CliProcess : IDisposable
{
    public const int SigInt = 2;
    public const int SigKill = 9;
    public const int SigTerm = 15;
    public const int SigCont = 18;
    public const int SigStop = 19;

    private readonly Process _process;
    private readonly StringBuilder _out = new();
    private readonly StringBuilder _error = new();
    private readonly TaskCompletionSource<string> _firstLine = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _since = Stopwatch.GetTimestamp();
    private TimeSpan _pressureBefore = ProcessorPressure.Read();

    private CliProcess(Process process)
    {
        _process = process;
        process.OutputDataReceived += (_, e) =>
        {
            Append(_out, e.Data);
            if (e.Data is { } line)
            {
                _firstLine.TrySetResult(line);
            }
            else
            {
                _firstLine.TrySetCanceled();
            }
        };
        process.ErrorDataReceived += (_, e) => Append(_error, e.Data);
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    public int Id => _process.Id;

    public bool HasExited => _process.HasExited;

    /// <summary>Starts <c>wayleave</c>, which the build puts beside these tests.</summary>
    public static CliProcess Start(IEnumerable<KeyValuePair<string, string>> environment, params string[] arguments) =>
        Start(Path.Combine(AppContext.BaseDirectory, "wayleave"), environment, arguments);

    /// <summary>As <c>dotnet wayleave.dll</c>, by the runtime that runs these tests.</summary>
    public static CliProcess StartUnderRuntime(
        IEnumerable<KeyValuePair<string, string>> environment, params string[] arguments)
    {
        string? root = Environment.GetEnvironmentVariable("DOTNET_ROOT");
        string runtime = root is null ? "dotnet" : Path.Combine(root, "dotnet");
        return Start(runtime, environment, [Path.Combine(AppContext.BaseDirectory, "wayleave.dll"), .. arguments]);
    }

    /// <summary>By <c>bash -c</c>, for which the program is <c>$0</c> and its arguments <c>$@</c>.</summary>
    public static CliProcess StartUnderShell(
        IEnumerable<KeyValuePair<string, string>> environment, string script, params string[] arguments) =>
        Start(
            "/bin/bash", environment, ["-c", script, Path.Combine(AppContext.BaseDirectory, "wayleave"), .. arguments]);

    private static CliProcess Start(
        string program, IEnumerable<KeyValuePair<string, string>> environment, string[] arguments)
    {
        ProcessStartInfo start = new(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        const string Prefix = "WAYLEAVE_";
        string[] inherited = [.. start.Environment.Keys.Where(k => k.StartsWith(Prefix, StringComparison.Ordinal))];
        foreach (string name in inherited)
        {
            start.Environment.Remove(name);
        }

        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }

        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        return new CliProcess(Process.Start(start)!);
    }

    /// <summary>The first line of stdout, or what went wrong instead.</summary>
    public async Task<string> ReadFirstLineAsync()
    {
        try
        {
            return await _firstLine.Task.WaitAsync(Patience.Max, TestContext.Current.CancellationToken);
        }
        catch (TaskCanceledException)
        {
            throw new InvalidOperationException($"no output; stderr: {Read(_error)}");
        }
    }

    /// <summary>What stdout said so far.</summary>
    public string OutSoFar => Read(_out);

    /// <summary>What stderr said so far.</summary>
    public string ErrorSoFar => Read(_error);

    /// <summary><see cref="CliResult.Elapsed"/> counts from now: something else happens to this process.</summary>
    public void MeasureFromNow()
    {
        _pressureBefore = ProcessorPressure.Read();
        _since = Stopwatch.GetTimestamp();
    }

    /// <summary>
    /// A shell without job control lets what it runs in the background ignore SIGINT, and so do these tests and what
    /// they start: then a test that sends it is skipped.
    /// </summary>
    public static void SkipWhenIgnored(int signal) =>
        Assert.SkipWhen(IsIgnored(signal), $"signal {signal} is ignored here, as in the background of a shell");

    /// <summary>Sends a signal, or skips the test if it would be ignored.</summary>
    public void Signal(int signal) => Assert.True(TrySignal(signal));

    /// <summary>As <see cref="Signal"/>; false if the process has ended.</summary>
    public bool TrySignal(int signal)
    {
        SkipWhenIgnored(signal);
        MeasureFromNow();
        return Kill(_process.Id, signal) == 0;
    }

    /// <summary>Whether this process was started with the signal ignored (proc(5), SigIgn).</summary>
    private static bool IsIgnored(int signal)
    {
        const string Key = "SigIgn:";
        string line = File.ReadLines("/proc/self/status").First(l => l.StartsWith(Key, StringComparison.Ordinal));
        ulong mask = ulong.Parse(line.AsSpan(Key.Length).Trim(), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
        return (mask >> (signal - 1) & 1) != 0;
    }

    public async Task<CliResult> WaitAsync()
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(Patience.Max);
        try
        {
            await _process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            string name = _process.StartInfo.ArgumentList[0];
            throw new TimeoutException($"{name} runs on; stdout: {Read(_out)} stderr: {Read(_error)}");
        }

        return new CliResult(
            _process.ExitCode, Read(_out), Read(_error), Stopwatch.GetElapsedTime(_since), _pressureBefore);
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }

    private static void Append(StringBuilder to, string? line)
    {
        lock (to)
        {
            if (line is not null)
            {
                to.Append(line).Append('\n');
            }
        }
    }

    private static string Read(StringBuilder from)
    {
        lock (from)
        {
            return from.ToString();
        }
    }

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static partial int Kill(int processId, int signal);
}
