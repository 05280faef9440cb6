using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// <c>wayleave check</c> as a process: a signal ends a search with what it found, and threads are explored although the
/// process was started for nothing of the kind.
/// </summary>
public class CheckTests
{
    private static readonly Dictionary<string, string> s_noVariables = [];

    [Theory]
    [InlineData(CliProcess.SigInt)]
    [InlineData(CliProcess.SigTerm)]
    public async Task A_signal_ends_a_search_with_what_was_explored_until_then(int signal)
    {
        using CliProcess process = CliProcess.Start(
            s_noVariables, "check", "run", "move-once", "--orders", "random", "--schedules", "1000000000");
        Assert.StartsWith("SCENARIO ", await process.ReadFirstLineAsync(), StringComparison.Ordinal);
        process.Signal(signal);
        CliResult result = await process.WaitAsync();
        Assert.Equal(130, result.ExitCode);
        Assert.Equal("wayleave: interrupted\n", result.Error);
        Assert.Matches("(?m)^move-once +- +[0-9]+ +interrupted +[0-9.]+ s$", result.Out);
    }

    [Fact]
    public async Task Threads_are_explored_in_a_process_that_was_started_without_the_option()
    {
        using CliProcess process = CliProcess.Start(
            s_noVariables, "check", "run", "gate-closed-under-users", "--break", "look-then-count");
        CliResult result = await process.WaitAsync();
        Assert.Equal((1, ""), (result.ExitCode, result.Error));
        Assert.Contains("somebody is inside a gate that has drained", result.Out, StringComparison.Ordinal);
        Assert.Contains("| gate: enter", result.Out, StringComparison.Ordinal);
    }
}
