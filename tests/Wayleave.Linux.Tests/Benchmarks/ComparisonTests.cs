using System.Text.Json;
using Wayleave.Compare;
using Wayleave.Ports;
using Xunit;

namespace Wayleave.Linux.Tests.Benchmarks;

/// <summary>What the comparisons of bench/ do with figures, bars and programs that fail; none is run.</summary>
public sealed class ComparisonTests
{
    [Theory]
    [InlineData(0.65, true)]
    [InlineData(0.6499, false)]
    [InlineData(4, true)]
    [InlineData(double.NaN, false)]
    public void Bandwidth_has_to_reach_its_bar(double ratio, bool isMet) =>
        Assert.Equal(isMet, Bar.AtLeast(0.65).IsMetBy(ratio));

    [Theory]
    [InlineData(0.8, true)]
    [InlineData(0.8001, false)]
    [InlineData(0.1, true)]
    [InlineData(double.NaN, false)]
    public void Latency_has_to_stay_below_its_bar(double ratio, bool isMet) =>
        Assert.Equal(isMet, Bar.AtMost(0.8).IsMetBy(ratio));

    [Fact]
    public void A_bar_says_in_which_direction()
    {
        Assert.Equal(">= 0.65", Bar.AtLeast(0.65).ToString());
        Assert.Equal(">= 2.5", Bar.AtLeast(2.5).ToString());
        Assert.Equal("<= 0.8", Bar.AtMost(0.80).ToString());
    }

    [Theory]
    [InlineData(425_984, 4096, 77)] // SO_RCVBUF of 208 KiB, which the kernel doubles
    [InlineData(425_984, 1024, 307)]
    [InlineData(64 << 20, 4096, 510)]
    public void Going_back_costs_the_window_that_a_host_takes(int receiveBufferBytes, int mtuBytes, int packets)
    {
        Assert.Equal(packets, GoBackN.WindowPackets(receiveBufferBytes, mtuBytes));
        Assert.Equal(packets, SocketWindow.Of(receiveBufferBytes) / (mtuBytes + 16));
    }

    [Fact]
    public void Going_back_keeps_one_part_in_one_and_loss_times_window()
    {
        Assert.Equal(1, GoBackN.Reach(0, 77));
        Assert.Equal(0.565, GoBackN.Reach(0.01, 77), 3);
        Assert.Equal(0.5, GoBackN.Reach(0.01, 100), 6);
    }

    [Fact]
    public void Comparisons_take_turns_and_what_takes_turns_itself_runs_once()
    {
        List<string> order = [];
        ComparisonInOneRun once = Once(rounds =>
        {
            order.Add($"once {rounds}");
            return [new RatioSample(1, 2), new RatioSample(1, 2)];
        });
        Comparison[] all = [Turns("a", Says("a", 1), Says("A", 2)), once, Turns("b", Says("b", 1), Says("B", 2))];
        ComparisonRun run = new(all, 2, TextWriter.Null);
        ComparisonRow[] rows = run.Run(() => order.Add("-"));

        Assert.Equal("once 2 - a A b B - a A b B", string.Join(' ', order));
        Assert.Equal(["a", "once", "b"], rows.Select(r => r.Test));
        Assert.Equal(0, run.ExitCode);

        Func<double> Says(string what, double value) => () =>
        {
            order.Add(what);
            return value;
        };
    }

    [Fact]
    public void The_ratio_is_the_median_of_the_rounds_ratios_ours_over_theirs()
    {
        ComparisonRow row = Single(
            Once(_ => [new(1, 10), new(8, 10), new(9, 1)]) with { Bar = Bar.AtLeast(0.85) });

        Assert.Equal((8, 10, 0.8), (row.Ours, row.Theirs, row.Ratio)); // 0.8 of 0.1, 0.8, 9
        Assert.Equal((">= 0.85", false), (row.Bar, row.IsMet));
        Assert.True(Single(Once(_ => [new(8, 10), new(8, 10), new(9, 10)]) with { Bar = Bar.AtMost(0.85) }).IsMet);
        Assert.Null(Single(Once(_ => [new(8, 10), new(8, 10), new(8, 10)])).IsMet);
    }

    [Theory]
    [InlineData(0, 1.0)]
    [InlineData(2, 1.0)]
    [InlineData(3, 0.0)]
    public void What_measures_too_little_has_failed(int samples, double ours)
    {
        ComparisonRun run = new(
            [Once(_ => [.. Enumerable.Repeat(new RatioSample(ours, 2), samples)])], 3, TextWriter.Null);
        ComparisonRow row = Assert.Single(run.Run(() => { }));
        Assert.StartsWith("measured ", row.Error);
        Assert.Equal((1, null), (run.ExitCode, row.IsMet));
    }

    [Fact]
    public void A_program_that_fails_loses_its_own_row_and_is_given_up_after_two_failures()
    {
        int calls = 0;
        using StringWriter talk = new();
        Comparison[] all =
        [
            Once(_ => throw new JsonException("no object")),
            Turns("bad", () => 1, () => throw new PeerException($"exited with {++calls}")),
            Turns("good", () => 1, () => 2),
        ];
        ComparisonRun run = new(all, 5, talk);
        ComparisonRow[] rows = run.Run(() => { });

        Assert.Equal(["no object", "exited with 1", null], rows.Select(r => r.Error));
        Assert.Equal([double.NaN, double.NaN, 0.5], rows.Select(r => r.Ratio));
        Assert.Equal([null, null, true], rows.Select(r => r.IsMet));
        Assert.Equal((2, 1), (calls, run.ExitCode));
        Assert.Contains("exited with 2", talk.ToString());
    }

    [Fact]
    public void A_round_that_fails_is_said_beside_the_figures_of_the_others()
    {
        int round = 0;
        ComparisonRun run = new(
            [Turns("some", () => ++round == 2 ? throw new PeerException("hung") : 1, () => 2)], 3, TextWriter.Null);
        ComparisonRow row = Assert.Single(run.Run(() => { }));

        Assert.Equal((0.5, "hung", 3, 1), (row.Ratio, row.Error, round, run.ExitCode));
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(0, 0)]
    [InlineData(double.PositiveInfinity, 1)]
    public void What_has_no_ratio_is_a_failure(double ours, double theirs)
    {
        ComparisonRun run = new([Turns("none", () => ours, () => theirs)], 1, TextWriter.Null);

        Assert.NotNull(Assert.Single(run.Run(() => { })).Error);
        Assert.Equal(1, run.ExitCode);
    }

    [Fact]
    public void Our_own_bug_is_not_taken_for_a_program_that_fails() => Assert.Throws<ArgumentException>(
        () => new ComparisonRun(
            [Turns("bug", () => throw new ArgumentException("ours"), () => 1)], 1, TextWriter.Null).Run(() => { }));

    [Fact]
    public void Beside_a_peer_that_is_missing_ours_is_measured_and_what_to_install_is_said()
    {
        ComparisonInTurns missing = Turns("lonely", () => 7, () => throw new PeerException("was run")) with
        {
            Missing = "iperf3 is missing: apt-get install iperf3",
        };
        ComparisonRun run = new([missing, Turns("good", () => 1, () => 2)], 2, TextWriter.Null);
        ComparisonRow row = run.Run(() => { })[0];

        Assert.Equal((7, double.NaN, double.NaN, null), (row.Ours, row.Theirs, row.Ratio, row.IsMet));
        Assert.Equal(missing.Missing, row.Error);
        Assert.Equal(3, run.ExitCode);

        ComparisonInTurns bad = Turns("bad", () => throw new PeerException("x"), () => 2);
        ComparisonRun worse = new([missing, bad], 1, TextWriter.Null);
        _ = worse.Run(() => { });
        Assert.Equal(1, worse.ExitCode);
    }

    [Fact]
    public void Scripts_get_one_object_with_every_row()
    {
        using MemoryStream stream = new();
        ComparisonReport.Write(stream, "wayleave.compare/1", Rows(), 5, notes: ["elsewhere"]);

        string expected = """
            {"schema":"wayleave.compare/1","rounds":5,"comparisons":[
            {"test":"kept","peer":"p","unit":"GB/s","median":3,"peer_median":4,"median_ratio":0.75,
            "bar":"\u003E= 0.65","met":true},
            {"test":"short","peer":"p","unit":"GB/s","median":2,"peer_median":4,"median_ratio":0.5,
            "bar":"\u003E= 0.65","met":false},
            {"test":"lonely","peer":"q","unit":"us","median":2,"bar":"\u003C= 0.8","error":"q is missing"},
            {"test":"bad","peer":"r","unit":"us","error":"exited\nwith 1"}
            ],"notes":["elsewhere"]}
            """.Replace("\n", "", StringComparison.Ordinal);
        Assert.Equal(expected, JsonSerializer.Serialize(JsonDocument.Parse(stream.ToArray()).RootElement));
        Assert.Equal((byte)'\n', stream.ToArray()[^1]);
    }

    [Fact]
    public void Readers_see_a_missed_bar_and_why_a_figure_is_missing()
    {
        using StringWriter output = new();
        ComparisonTable.Write(output, Rows(), 5, "elsewhere");
        string[] lines = output.ToString().TrimEnd().Split('\n');

        Assert.Equal(8, lines.Length);
        Assert.Matches(@"^wayleave bench .* ratio  bar +peer, 5 rounds$", lines[0]);
        Assert.Matches(@"^kept +3\.00 +4\.00 GB/s +0\.750  >= 0\.65 met +p$", lines[1]);
        Assert.Matches(@"^short +2\.00 +4\.00 GB/s +0\.500  >= 0\.65 MISSED p$", lines[2]);
        Assert.Matches(@"^lonely +2\.00 +- us +-  <= 0\.8 +n/a +q$", lines[3]);
        Assert.Equal(["lonely, q: q is missing", "bad, r: exited with 1", "elsewhere"], lines[5..]);
    }

    [Fact]
    public void A_command_runs_once_a_round_even_if_it_fails()
    {
        int runs = 0;
        RoundMemory<string> memory = new(command => $"{command[0]} {++runs}");
        Assert.Equal(["a 1", "a 1", "b 2"], [memory.Get("a"), memory.Get("a"), memory.Get("b")]);
        memory.Forget();
        Assert.Equal("a 3", memory.Get("a"));

        int failures = 0;
        RoundMemory<string> failing = new(_ => throw new PeerException($"{++failures}"));
        Assert.Throws<PeerException>(() => failing.Get("a"));
        Assert.Throws<PeerException>(() => failing.Get("a"));
        Assert.Equal(1, failures);
    }

    private static ComparisonRow[] Rows() =>
    [
        new("kept", "p", "GB/s", 3, 4, 0.75, ">= 0.65", true),
        new("short", "p", "GB/s", 2, 4, 0.5, ">= 0.65", false),
        new("lonely", "q", "us", 2, double.NaN, double.NaN, "<= 0.8", null, "q is missing"),
        new("bad", "r", "us", double.NaN, double.NaN, double.NaN, null, null, "exited\nwith 1"),
    ];

    private static ComparisonRow Single(Comparison comparison) =>
        Assert.Single(new ComparisonRun([comparison], 3, TextWriter.Null).Run(() => { }));

    private static ComparisonInTurns Turns(string test, Func<double> ours, Func<double> theirs) =>
        new("group", test, "peer", "GB/s", Bar.AtLeast(0.5)) { Ours = ours, Theirs = theirs };

    private static ComparisonInOneRun Once(Func<int, IReadOnlyList<RatioSample>> run) =>
        new("group", "once", "peer", "GB/s", null) { Run = run };
}
