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

    // The tool's help names 65536 bytes, and the tool refuses them: the test of the lab shows both.
    [Fact]
    public void ROCE_74_differs_rping_itself_takes_65535_bytes_at_most() => ExpectLines(
        "rping", "rping itself refuses 65536 bytes", "IPv4: 100 pings of 65535 bytes in both roles");

    // Every size from 2 bytes to 8 MiB and the tool's own version are compared by the test of the lab.
    [Fact]
    public void ROCE_75_The_tools_of_perftest_end_well_with_ours_in_both_roles_and_by_both_exchanges() => ExpectLines(
        "perftest",
        [
            .. from exchange in (string[])["", "-R"]
               from role in (string[])["client", "server"]
               from tool in (string[])["write", "read", "send", "atomic", "all-write", "all-read", "all-send"]
               select $"{tool}{exchange}-{role}: ok",
        ]);

    // The sums of what all four moved are compared with the buffer of the tool.
    [Fact]
    public void Four_queue_pairs_of_the_tools_move_their_bytes_to_ours_and_back_by_both_exchanges() => ExpectLines(
        "perftest",
        [
            .. from exchange in (string[])["", "-R"]
               from role in (string[])["client", "server"]
               from tool in (string[])["write", "read", "send"]
               select $"{tool}-four{exchange}-{role}: ok",
        ]);

    // Here too the sums of what was moved are compared with the buffer of the tool.
    [Fact]
    public void The_tools_send_over_UC_and_UD_to_ours_and_back() => ExpectLines(
        "perftest",
        [
            .. from role in (string[])["client", "server"]
               from run in (string[])["write-uc", "send-uc", "send-ud", "send-lat-uc", "send-lat-ud"]
               select $"{run}-{role}: ok",
        ]);

    // Bytes, and the group's address before them, are compared on either side.
    [Fact]
    public void The_kernels_rxe_and_ours_send_to_one_group() => ExpectLines(
        "rxe-multicast", "ipv4: ok", "ipv6: ok", "mckey: ok");

    // LAB_RDMA_BYTES=1073741824 lab/run rxe-netem --time-limit 36000 is the case in full, in a quarter of an hour.
    [Fact]
    public void ROCE_76_differs_of_a_GiB_an_emulated_machine_moves_63_MB_unless_asked_for_all() => ExpectLines(
        "rxe-netem",
        [
            .. from tool in (string[])["write", "read", "send", "atomic"]
               from role in (string[])["client", "server"]
               select $"{tool}-{role}: ok",
        ]);

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

    private static void ExpectLines(string test, params string[] lines)
    {
        Assert.SkipWhen(s_report.Value is null, "the lab did not run: WAYLEAVE_LAB=1 dotnet test, or lab/run --all");
        using JsonDocument report = JsonDocument.Parse(s_report.Value!);
        JsonElement outcome = report.RootElement.GetProperty("tests").EnumerateArray()
            .Single(t => t.GetProperty("name").GetString() == test);
        string status = outcome.GetProperty("status").GetString()!;
        Assert.SkipWhen(status == "skipped", outcome.GetProperty("reason").GetString()!);
        string[] said = outcome.GetProperty("output").GetString()!.Split('\n');
        Assert.Empty(lines.Except(said.Select(l => l.Trim())));
        Assert.Equal("passed", status);
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
