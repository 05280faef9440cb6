using System.Globalization;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Wayleave.Scenarios.TakeBack;
using Xunit;

namespace Wayleave.Tests.Scenarios;

/// <summary>What is said about ways to take memory back is what the devices do.</summary>
public sealed class TakeBackComparisonTests
{
    private const string Page = "docs/take-back.md";
    private const string Chart = "docs/take-back.svg";

    private static readonly Lazy<TakeBackReport> s_report = new(() => Run(
        new TakeBackOptions { Duration = TimeSpan.FromMilliseconds(4), ExploredOrders = 60 }));

    private static TakeBackReport Report => s_report.Value;

    [Fact]
    public void Every_strategy_works_to_the_end_and_loses_no_byte()
    {
        Assert.Equal(
            [.. TakeBackStrategy.All.Select(s => s.Name), .. TakeBackStrategy.Mixes.Select(s => s.Name)],
            Report.Results.Select(r => r.Strategy));
        Assert.Equal(8, TakeBackStrategy.All.Count);
        Assert.All(Report.Results, r => Assert.Null(r.StoppedAt));
        Assert.All(Report.Results, r => Assert.True(r is { Jobs: > 20, WrittenBytes: > 1 << 20, FailedJobs: 0 }));
    }

    [Fact]
    public void A_fence_in_a_notifier_closes_circles_that_are_named_and_hangs_where_nobody_looks()
    {
        TakeBackResult fences = Of("fence-in-notifier");
        Assert.True(fences.Deadlocks > 0);
        Assert.Contains(fences.Circles, c => c.Text.Contains("address-space lock", StringComparison.Ordinal));
        Assert.All(fences.Circles, c =>
        {
            Assert.Contains("the wait would never end", c.Text, StringComparison.Ordinal);
            Assert.Contains("waits for fence gpu1 compute", c.Text, StringComparison.Ordinal);
            Assert.Contains("is signalled by engine gpu0 driver", c.Text, StringComparison.Ordinal);
        });
        Assert.StartsWith("deadlock: ", fences.HangWithoutChecker, StringComparison.Ordinal);
        Assert.All(
            Report.Results.Where(r => r != fences && r.Strategy != "fences-and-revoke"),
            r => Assert.Equal((0, null), (r.Deadlocks, r.HangWithoutChecker)));
    }

    [Fact]
    public void A_mix_gives_back_what_all_of_its_devices_do_and_has_the_circles_of_any()
    {
        TakeBackResult pins = Of("faults-beside-pins"), fences = Of("fences-and-revoke");
        Assert.Equal((0L, 0, 0L), (pins.TakenPages, pins.TakenBuffers, pins.ReclaimableBytes));
        Assert.True(fences is { Deadlocks: > 0, TakenPages: > 0, TakenBuffers: > 0, Reconnects: > 0 });
        Assert.True(Of("faults-and-revoke") is { Deadlocks: 0, GpuFaults: > 0, NicFaults: > 0, Reconnects: > 0 });
        Assert.True(Of("preemption-and-legacy") is { TakenPages: 0, TakenBuffers: > 0, FailedMessages: > 0 });

        // By its parts: the NIC pins, and what waits in the GPU's notifier still waits in a circle.
        TakeBackOptions options = new()
        {
            Duration = TimeSpan.FromMilliseconds(1),
            ExploredOrders = 60,
            Strategies = ["fence-in-notifier+pin-everything+legacy-peer", "revoke"],
        };
        TakeBackReport report = Run(options);
        Assert.Equal(["revoke", options.Strategies[0]], report.Results.Select(r => r.Strategy));
        Assert.True(report.Results[1] is { Deadlocks: > 0, TakenPages: 0, TakenBuffers: > 0 });
        Assert.Contains("the NIC with the process's memory pin-everything", report.Results[1].Description,
            StringComparison.Ordinal);
        Assert.Null(TakeBackStrategy.Find("revoke+revoke"));
        Assert.Null(TakeBackStrategy.Find("revoke+revoke+hope"));
        Assert.Null(TakeBackStrategy.Find("revoke+revoke+faults-beside-pins"));
    }

    [Fact]
    public void Only_a_local_drain_breaks_the_contract_of_fences_without_a_circle()
    {
        Assert.Contains(
            Of("local-drain").BrokenRules,
            r => r.Text.Contains("memory reclaim", StringComparison.Ordinal)
                && r.Text.Contains("inside fence signalling", StringComparison.Ordinal));
        Assert.All(Report.Results.Where(r => r.Strategy != "local-drain"), r => Assert.Empty(r.BrokenRules));
    }

    [Fact]
    public void Each_strategy_costs_what_the_argument_says_it_does()
    {
        TakeBackResult faults = Of("restartable-faults"), fences = Of("fence-in-notifier");
        TakeBackResult stall = Of("stall-before-hand-over"), pinned = Of("pin-everything");
        Assert.True(faults.GpuFaults > 0 && faults.QueueStops == 0 && faults.ProcessorStalls == 0);
        Assert.Equal(faults.UsedBytes, faults.ReclaimableBytes);
        Assert.True(fences.PagesP50Us > faults.PagesP50Us);
        Assert.True(stall.ProcessorStalls >= stall.Jobs && stall.Jobs < fences.Jobs);
        Assert.True(Of("queue-preemption").QueueStops > 0);
        Assert.Equal((0L, 0, 0L), (pinned.TakenPages, pinned.TakenBuffers, pinned.ReclaimableBytes));
        Assert.Null(pinned.TakeBackP50Us);
        Assert.All(Report.Results, r => Assert.True(r.BytesPerS <= pinned.BytesPerS));
        TakeBackResult revoke = Of("revoke"), legacy = Of("legacy-peer");
        Assert.True(revoke is { TakenBuffers: > 0, TakenPages: 0 } && revoke.Reconnects > 0);
        Assert.True(legacy is { TakenBuffers: > 0, TakenPages: 0 } && legacy.FailedMessages > 0);
    }

    [Fact]
    public void The_same_options_give_the_same_report()
    {
        TakeBackOptions options = new()
        {
            Duration = TimeSpan.FromMilliseconds(1),
            ExploredOrders = 5,
            Strategies = ["restartable-faults", "local-drain"],
        };
        Assert.Equal(Run(options).ToJson(), Run(options).ToJson());
    }

    [Fact]
    public void Options_that_make_no_sense_are_refused_together()
    {
        TakeBackOptions options = new() { Duration = TimeSpan.Zero, Slots = 0, Strategies = ["hope"] };
        ArgumentException e = Assert.Throws<ArgumentException>(() => Run(options));
        Assert.Contains("the duration is more than nothing", e.Message, StringComparison.Ordinal);
        Assert.Contains("1 to 64 slots", e.Message, StringComparison.Ordinal);
        Assert.Contains("no strategy is called 'hope'; there are restart", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_chart_is_well_formed_and_has_a_row_for_each_strategy()
    {
        XDocument chart = XDocument.Parse(TakeBackChart.Draw(Report));
        string text = string.Join('\n', chart.Root!.Elements().Select(e => e.Value));
        Assert.All(Report.Results, r => Assert.Contains(r.Strategy, text, StringComparison.Ordinal));
        Assert.Contains("never", text, StringComparison.Ordinal);
    }

    // What is counted may differ a little when a device changes the order of two packets; what it means may not.
    [Fact]
    public void The_page_shows_what_the_command_prints()
    {
        bool updates = Environment.GetEnvironmentVariable("UPDATE_SNAPSHOTS") == "1";
        TakeBackReport report = Run(new TakeBackOptions());
        string text = TakeBackText.Format(report), page = SourceTree.Read(Page);
        Regex printed = new("(?<=\\$ wayleave compare take-back\\n).*?(?=```)", RegexOptions.Singleline);
        string block = printed.Match(page).Value;
        if (updates)
        {
            Snapshot.MatchFile(printed.Replace(page, _ => text, count: 1), Page);
            Snapshot.MatchFile(TakeBackChart.Draw(report), Chart);
            return;
        }

        string[] shown = block.Split('\n'), now = text.Split('\n');
        for (int row = 0; row <= report.Results.Count; row++)
        {
            string[] old = Cells(shown[row]), cells = Cells(now[row]);
            Assert.Equal(cells.Length, old.Length);
            for (int column = 0; column < cells.Length; column++)
            {
                Assert.True(IsNear(old[column], cells[column]), $"{Page}: {old[0]} {old[column]}, now {cells[column]}");
            }
        }

        XDocument chart = XDocument.Parse(SourceTree.Read(Chart));
        Assert.Contains(chart.Root!.Elements(), e => e.Value == report.Results[^1].Strategy);
    }

    private static TakeBackReport Run(TakeBackOptions options) =>
        TakeBackComparison.Run(options, TestContext.Current.CancellationToken);

    private static TakeBackResult Of(string strategy) => Report.Results.Single(r => r.Strategy == strategy);

    private static string[] Cells(string line) => Regex.Split(line.Trim(), " {2,}");

    private static bool IsNear(string shown, string now)
    {
        bool areNumbers = double.TryParse(shown, CultureInfo.InvariantCulture, out double one)
            & double.TryParse(now, CultureInfo.InvariantCulture, out double other);
        return areNumbers ? Math.Abs(one - other) <= (0.3 * Math.Max(one, other)) + 10 : shown == now;
    }
}
