using System.Globalization;
using System.Text;
using System.Text.Json;
using Wayleave.Cli;
using Wayleave.Scenarios;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary><c>wayleave check</c> as a person and a script meet it, with the command line in this process.</summary>
public class CheckCommandTests
{
    private const string Move = "move-two-importers";

    public static TheoryData<string, string> Mistakes => new()
    {
        { "check run", "check run: name a scenario, or say --all" },
        { $"check run {Move} --all", $"check run: {Move} or --all, not both" },
        { "check run --all --break x", "--break: belongs to one scenario; --all takes every defence away by itself" },
        { "check run move-two-importer",
            $"check: there is no scenario move-two-importer; did you mean {Move} or revoke-two-importers?" },
        { "check run xyzzy", "check: there is no scenario xyzzy; wayleave check list names them" },
        { $"check run {Move} --break gate-stay-open",
            $"check: {Move} has no defence gate-stay-open; did you mean gate-stays-open?" },
        { $"check run {Move} --schedules 0", "--schedules: 0 is too few; at least 1" },
        { $"check run {Move} --schedules -5", "--schedules: -5 is too few; at least 1" },
        { $"check run {Move} --schedules many", NoNumber("--schedules", "many") },
        { $"check run {Move} --seed -1", NoNumber("--seed", "-1") },
        { $"check run {Move} --steps 0", "--steps: 0 is too few; at least 1" },
        { $"check replay {Move} 0.1", "check replay: '0.1' is no trail: it looks like [BREAK:]1f2e3d4c:0.2.1" },
        { $"check replay {Move} 12345678:0.z",
            "check replay: 'z', part 2 of the trail, is no decision: a number, or TIMESxNUMBER" },
        { $"check replay {Move} 12345678:", "check replay: '12345678:' has no decisions" },
        { $"check replay {Move} 12345678:0.1",
            $"check replay {Move}: the trail belongs to another version of the scenario; explore it again" },
        { $"check replay {Move} nope:12345678:0.1",
            $"check: {Move} has no defence nope; wayleave check list names them" },
    };

    [Theory]
    [MemberData(nameof(Mistakes))]
    public async Task A_mistake_is_one_line_on_stderr_and_exit_code_2(string command, string line)
    {
        (int code, string output, string error) = await RunAsync(command);
        Assert.Equal($"wayleave: {line}\n", error);
        Assert.Equal(2, code);
        Assert.Empty(output);
    }

    [Fact]
    public async Task A_trail_of_another_scenario_is_refused_by_its_name()
    {
        string version = ScenarioTrail.VersionOf(ScenarioCatalog.Find("revoke-during-move")!, broken: null);
        (int code, _, string error) = await RunAsync($"check replay {Move} {version}:0.1");
        Assert.Equal(2, code);
        Assert.Equal($"wayleave: check replay {Move}: the trail belongs to revoke-during-move\n", error);
    }

    [Fact]
    public async Task A_trail_that_asks_for_what_there_is_not_is_refused()
    {
        string version = ScenarioTrail.VersionOf(ScenarioCatalog.Find(Move)!, broken: null);
        (int code, _, string error) = await RunAsync($"check replay {Move} {version}:77");
        Assert.Equal(2, code);
        Assert.Contains("the trail does not fit: decision 1 is 77 of ", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_list_names_every_scenario_and_every_defence()
    {
        (int code, string output, string error) = await RunAsync("check list");
        Assert.Equal((0, ""), (code, error));
        Assert.All(ScenarioCatalog.All, s =>
        {
            Assert.Contains($"\n{s.Name} ", "\n" + output, StringComparison.Ordinal);
            Assert.All(s.Broken, b => Assert.Contains($" {b.Name}\n", output, StringComparison.Ordinal));
        });

        (_, string json, _) = await RunAsync("check list --json");
        using JsonDocument document = JsonDocument.Parse(json);
        Assert.Equal("wayleave.check_list.v1", document.RootElement.GetProperty("schema").GetString());
        Assert.Equal(ScenarioCatalog.All.Count, document.RootElement.GetProperty("scenarios").GetArrayLength());
    }

    [Fact]
    public async Task A_scenario_that_holds_is_one_line_and_exit_code_0()
    {
        (int code, string output, string error) = await RunAsync("check run quarantine-late-drain");
        Assert.Equal((0, ""), (code, error));
        string[] lines = output.TrimEnd().Split('\n');
        Assert.Equal(2, lines.Length);
        Assert.Matches("^quarantine-late-drain +- +all of [0-9]+ +holds +[0-9.]+ s$", lines[1]);
    }

    [Fact]
    public async Task A_limit_below_all_orders_is_told()
    {
        (int code, string output, _) = await RunAsync($"check run {Move} --schedules 7");
        Assert.Equal(0, code);
        Assert.Contains(" first 7 ", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_missing_defence_is_told_in_two_columns_and_replays()
    {
        (int code, string output, _) = await RunAsync($"check run {Move} --break drain-not-awaited");
        Assert.Equal(1, code);
        Assert.Contains("\nnic reaches 0x", output, StringComparison.Ordinal);
        Assert.Contains("actor  | what happened\n   1  nic    | map", output, StringComparison.Ordinal);
        const string Before = "replay with: wayleave ";
        string replay = output.Split('\n').Single(l => l.StartsWith(Before, StringComparison.Ordinal))[Before.Length..];

        (int again, string story, string error) = await RunAsync(replay);
        Assert.Equal((1, ""), (again, error));
        Assert.Contains("nic reaches 0x", story.TrimEnd().Split('\n')[^1], StringComparison.Ordinal);
        Assert.Contains(story.Split('\n')[1], output, StringComparison.Ordinal);

        (_, string json, _) = await RunAsync(replay + " --json");
        using JsonDocument document = JsonDocument.Parse(json);
        Assert.Equal("wayleave.check_replay.v1", document.RootElement.GetProperty("schema").GetString());
        Assert.True(document.RootElement.GetProperty("failed").GetBoolean());
    }

    [Fact]
    public async Task The_same_order_with_the_defence_on_goes_well()
    {
        string version = ScenarioTrail.VersionOf(ScenarioCatalog.Find(Move)!, broken: null);
        (int code, string output, _) = await RunAsync($"check replay {Move} {version}:0");
        Assert.Equal(0, code);
        Assert.EndsWith("nothing went wrong in this order\n", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_scenario_that_does_not_end_within_its_steps_fails_and_says_so()
    {
        (int code, string output, _) = await RunAsync($"check run {Move} --steps 5");
        Assert.Equal(1, code);
        Assert.Contains("no end after 5 steps", output, StringComparison.Ordinal);

        // A defence whose absence shows only as an endless run was not found.
        (_, string json, _) = await RunAsync($"check run {Move} --steps 5 --break gate-stays-open --json");
        using JsonDocument document = JsonDocument.Parse(json);
        JsonElement run = document.RootElement.GetProperty("runs")[0];
        Assert.Equal("fails", run.GetProperty("result").GetString());
        Assert.Equal("endless", run.GetProperty("failure").GetProperty("kind").GetString());
    }

    [Fact]
    public async Task Everything_holds_and_every_missing_defence_is_found()
    {
        (int code, string json, string error) = await RunAsync("check run --all --schedules 10000 --json");
        Assert.Equal((0, ""), (code, error));
        using JsonDocument document = JsonDocument.Parse(json);
        Assert.True(document.RootElement.GetProperty("passed").GetBoolean());
        JsonElement runs = document.RootElement.GetProperty("runs");
        Assert.Equal(ScenarioCatalog.All.Sum(s => s.Broken.Count + 1), runs.GetArrayLength());
        Assert.All(
            runs.EnumerateArray(),
            r => Assert.Equal(
                r.TryGetProperty("break", out _) ? "found" : "holds", r.GetProperty("result").GetString()));
    }

    [Fact]
    public async Task An_interrupted_run_reports_what_was_explored_and_ends_with_130()
    {
        using CancellationTokenSource source = new();
        await source.CancelAsync();
        (int code, string output, string error) = await RunAsync($"check run {Move}", source.Token);
        Assert.Equal(130, code);
        Assert.Equal("wayleave: interrupted\n", error);
        Assert.Contains(" interrupted ", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task What_was_interrupted_is_not_counted_as_wrong()
    {
        using CancellationTokenSource source = new();
        await using CancelingWriter output = new(source);
        int code = await CommandLine.RunAsync(["check", "run", "--all"], output, TextWriter.Null, source.Token);
        Assert.Equal(130, code);
        Assert.Matches(@"(?m)^\d+ checks, 0 wrong(, 1 interrupted)?, ", output.Text.ToString());
    }

    // Ends the run soon after its third line, most often in the midst of a check.
    private sealed class CancelingWriter(CancellationTokenSource source) : TextWriter(CultureInfo.InvariantCulture)
    {
        private int _lines;

        public StringBuilder Text { get; } = new();

        public override Encoding Encoding => Encoding.UTF8;

        public override void Write(char value)
        {
            Text.Append(value);
            _lines += value == '\n' ? 1 : 0;
            if (value == '\n' && _lines == 3)
            {
                source.CancelAfter(TimeSpan.FromMilliseconds(1));
            }
        }
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(
        string command, CancellationToken? cancellation = null)
    {
        StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        string[] arguments = command.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        CancellationToken token = cancellation ?? TestContext.Current.CancellationToken;
        int code = await CommandLine.RunAsync(arguments, output, error, token);
        return (code, output.ToString(), error.ToString());
    }

    private static string NoNumber(string option, string value) =>
        $"{option}: '{value}' is not a number that it takes; see wayleave check run --help";
}
