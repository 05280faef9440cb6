using System.Diagnostics;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// A run of Wayleave.Victim, which takes everything of a host step by step. Disposing kills it, by its id.
/// </summary>
internal sealed class VictimProcess : IDisposable
{
    private readonly Process _process;

    private VictimProcess(Process process) => _process = process;

    public int Id => _process.Id;

    public static VictimProcess Start(params string[] arguments)
    {
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "Wayleave.Victim"), arguments)
        {
            RedirectStandardInput = true, // its end is the victim's, should this process end first
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        return new VictimProcess(Process.Start(start)!);
    }

    /// <summary>Reads what it says until it says that.</summary>
    public async Task UntilSaysAsync(string line, Action<string>? heard = null)
    {
        CancellationToken cancellation = TestContext.Current.CancellationToken;
        while (await _process.StandardOutput.ReadLineAsync(cancellation) is { } said)
        {
            heard?.Invoke(said);
            if (said == line)
            {
                return;
            }
        }

        Assert.Fail($"the victim ended before '{line}': {await _process.StandardError.ReadToEndAsync(cancellation)}");
    }

    /// <summary>kill -9, and waits until the kernel has taken it down.</summary>
    public void Kill()
    {
        _process.Kill();
        _process.WaitForExit();
    }

    /// <summary>Waits until somebody else has killed it; 128 and the signal's number.</summary>
    public async Task<int> WaitAsync()
    {
        await _process.WaitForExitAsync(TestContext.Current.CancellationToken);
        return _process.ExitCode;
    }

    public void Dispose()
    {
        Kill();
        _process.Dispose();
    }
}
