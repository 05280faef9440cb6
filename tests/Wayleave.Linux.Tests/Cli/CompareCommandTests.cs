using System.Text.Json;
using Wayleave.Cli;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary><c>wayleave compare take-back</c>, with the command line in this process.</summary>
public class CompareCommandTests
{
    [Fact]
    public async Task Strategies_by_name_are_one_object_and_a_chart()
    {
        string chart = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName() + ".svg");
        (int code, string output, string error) = await RunAsync(
            "compare", "take-back", "restartable-faults", "pin-everything", "--duration", "1ms", "--orders", "3",
            "--json", "--svg", chart);
        Assert.Equal((0, ""), (code, error));
        using JsonDocument report = JsonDocument.Parse(output);
        Assert.Equal("wayleave.compare-take-back/1", report.RootElement.GetProperty("schema").GetString());
        JsonElement results = report.RootElement.GetProperty("results");
        Assert.Equal(2, results.GetArrayLength());
        string[] names =
        [
            "bytes_per_s", "take_back_p50_us", "take_back_p99_us", "reclaimable_bytes", "faults", "stalls", "deadlocks",
        ];
        Assert.All(names, n => Assert.True(results[0].TryGetProperty(n, out _), n));

        Assert.StartsWith("<svg ", File.ReadAllText(chart), StringComparison.Ordinal);
        File.Delete(chart);
    }

    [Theory]
    [InlineData("no strategy is called 'prayer'; there are ", "compare", "take-back", "prayer")]
    [InlineData("0 to 1000000 orders are explored, not -1", "compare", "take-back", "--orders", "-1")]
    [InlineData("compare take-back", "compare", "take-back", "--duration", "x")]
    public async Task A_mistake_is_one_line_on_stderr_and_exit_code_2(string part, params string[] arguments)
    {
        (int code, string output, string error) = await RunAsync(arguments);
        Assert.Equal((2, ""), (code, output));
        Assert.Contains(part, error, StringComparison.Ordinal);
        Assert.Single(error.TrimEnd('\n').Split('\n'));
    }

    [Fact]
    public async Task A_chart_that_cannot_be_written_is_one_line_and_exit_code_1()
    {
        (int code, _, string error) = await RunAsync(
            "compare", "take-back", "pin-everything", "--duration", "1ms", "--orders", "0",
            "--svg", "/no/such/folder/x.svg");
        Assert.Equal(1, code);
        Assert.Single(error.TrimEnd('\n').Split('\n'));
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using StringWriter output = new(), error = new();
        int code = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return (code, output.ToString(), error.ToString());
    }
}
