using System.Text.Json;
using Xunit;

namespace Wayleave.Linux.Tests.Lab;

/// <summary>
/// The tests of <c>lab/tests</c>, each as one test here: what a real kernel does, held against what is recorded of it.
/// They take minutes and both processors, so they run only when asked for: by <c>WAYLEAVE_LAB=1</c>, or before, by
/// whoever names the report of <c>lab/run --all --json</c> in <c>WAYLEAVE_LAB_REPORT</c>.
/// </summary>
public sealed class LabRunTests
{
    private static readonly Lazy<string?> s_report = new(ReadReport);

    public static TheoryData<string> Names =>
        [.. Directory.GetDirectories(Path.Combine(Root, "lab", "tests")).Select(f => Path.GetFileName(f)).Order()];

    private static string Root { get; } = FindRoot();

    [Theory]
    [MemberData(nameof(Names))]
    public void The_kernel_does_what_is_recorded_of_it(string name)
    {
        Assert.SkipWhen(s_report.Value is null, "the lab did not run: WAYLEAVE_LAB=1 dotnet test, or lab/run --all");
        using JsonDocument report = JsonDocument.Parse(s_report.Value!);
        JsonElement outcome = Assert.Single(
            report.RootElement.GetProperty("tests").EnumerateArray(), t => t.GetProperty("name").GetString() == name);
        string reason = outcome.GetProperty("reason").GetString()!;
        string status = outcome.GetProperty("status").GetString()!;
        Assert.SkipWhen(status == "skipped", reason);
        Assert.True(status == "passed", $"{reason}\n{outcome.GetProperty("output").GetString()}");
    }

    [Fact]
    public void A_command_gives_its_exit_code_and_both_its_outputs()
    {
        SkipUnlessBooted();
        (int code, string output, string error) = LabProcess.Run("--", "bash", "-c", "uname -r; echo no >&2; exit 7");
        Assert.Equal(7, code);
        Assert.Matches(@"^\d+\.\d+\.\d+", output);
        Assert.Contains("no", error.Split('\n'));
    }

    [Fact]
    public void A_command_that_takes_too_long_is_stopped_and_said_so()
    {
        SkipUnlessBooted();
        (int code, _, string error) = LabProcess.Run("--time-limit", "3", "--", "sleep", "1000");
        Assert.Equal(124, code);
        Assert.Contains("the time limit", error, StringComparison.Ordinal);
    }

    // What the other tests need has been fetched, and works, when the test "boot" passed.
    private static void SkipUnlessBooted()
    {
        Assert.SkipWhen(s_report.Value is null, "the lab did not run: WAYLEAVE_LAB=1 dotnet test, or lab/run --all");
        using JsonDocument report = JsonDocument.Parse(s_report.Value!);
        JsonElement boot = report.RootElement.GetProperty("tests").EnumerateArray()
            .Single(t => t.GetProperty("name").GetString() == "boot");
        Assert.SkipWhen(boot.GetProperty("status").GetString() != "passed", "the lab's test boot did not pass");
    }

    private static string? ReadReport()
    {
        if (Environment.GetEnvironmentVariable("WAYLEAVE_LAB_REPORT") is { Length: > 0 } path)
        {
            return File.ReadAllText(path);
        }

        return Environment.GetEnvironmentVariable("WAYLEAVE_LAB") is { Length: > 0 }
            ? LabProcess.Run("--all", "--json").Output
            : null;
    }

    private static string FindRoot()
    {
        DirectoryInfo? folder = new(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "Wayleave.slnx")))
        {
            folder = folder.Parent;
        }

        return folder!.FullName;
    }
}
