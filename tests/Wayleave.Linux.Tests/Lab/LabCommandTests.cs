using System.Text.Json;
using Wayleave.Lab;
using Xunit;

namespace Wayleave.Linux.Tests.Lab;

/// <summary>What <c>lab/run</c> says before it starts a machine, and when it cannot.</summary>
public sealed class LabCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("wayleave-lab-test.").FullName;

    [Theory]
    [InlineData]
    [InlineData("--nonsense")]
    [InlineData("boot", "--list")]
    [InlineData("boot", "--time-limit")]
    [InlineData("boot", "--time-limit", "0")]
    [InlineData("boot", "--time-limit", "1e3")]
    public void A_wrong_command_line_is_refused(params string[] arguments)
    {
        LabException refusal = Assert.Throws<LabException>(() => CommandLine.Parse(arguments));
        Assert.Equal(2, refusal.ExitCode);
    }

    [Fact]
    public void What_follows_two_dashes_belongs_to_the_command()
    {
        CommandLine line =
            CommandLine.Parse(["--time-limit", "7", "--packages", "perftest,tcpdump", "--", "ls", "--all"]);
        Assert.Equal(["ls", "--all"], line.Command);
        Assert.Equal(["perftest", "tcpdump"], line.Packages);
        Assert.Equal(TimeSpan.FromSeconds(7), line.TimeLimit);
        Assert.False(line.All);
    }

    [Fact]
    public void An_unknown_test_is_a_usage_error_that_names_the_known_ones()
    {
        (int code, _, string error) = LabProcess.Run("no-such-test");
        Assert.Equal(2, code);
        Assert.Contains("boot", error, StringComparison.Ordinal);
    }

    [Fact]
    public void The_list_has_a_line_for_each_test()
    {
        (int code, string output, _) = LabProcess.Run("--list", "--json");
        Assert.Equal(0, code);
        using JsonDocument list = JsonDocument.Parse(output);
        Assert.All(
            list.RootElement.GetProperty("tests").EnumerateArray(),
            test => Assert.NotEmpty(test.GetProperty("summary").GetString()!));
    }

    [Fact]
    public void Without_a_network_a_test_is_skipped_with_reason_and_remedy()
    {
        Assert.SkipWhen(!File.Exists("/usr/bin/apt-get"), "no apt");
        Dictionary<string, string> nowhere = new()
        {
            ["LAB_CACHE"] = _folder,
            ["http_proxy"] = "http://127.0.0.1:9",
            ["https_proxy"] = "http://127.0.0.1:9",
        };
        (int code, string output, string error) = LabProcess.RunWith(nowhere, "boot");
        Assert.Equal(3, code);
        Assert.Contains("skipped  boot", output, StringComparison.Ordinal);
        Assert.Contains("0 passed, 0 failed, 1 skipped", output, StringComparison.Ordinal);

        (code, _, error) = LabProcess.RunWith(nowhere, "--", "true");
        Assert.Equal(3, code);
        Assert.Contains("apt", error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_cache_that_cannot_be_made_is_named_with_the_way_out()
    {
        string file = Path.Combine(_folder, "file");
        File.WriteAllText(file, "");
        (int code, _, string error) = LabProcess.RunWith(
            new Dictionary<string, string> { ["LAB_CACHE"] = Path.Combine(file, "cache") }, "--fetch");
        Assert.Equal(3, code);
        Assert.Contains("LAB_CACHE=", error, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);
}
