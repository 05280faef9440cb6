using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Linux.Tests.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

public class OutputTests
{
    [Theory]
    [InlineData("10us", 100)]
    [InlineData("500ms", 5_000_000)]
    [InlineData("5s", 50_000_000)]
    [InlineData("1.5s", 15_000_000)]
    [InlineData("2m", 1_200_000_000)]
    [InlineData("1h", 36_000_000_000)]
    [InlineData("0s", 0)]
    public void A_time_is_a_number_and_a_unit(string text, long ticks)
    {
        Assert.True(Durations.TryParse(text, out TimeSpan duration));
        Assert.Equal(ticks, duration.Ticks);
    }

    [Theory]
    [InlineData("")]
    [InlineData("5")]
    [InlineData("s")]
    [InlineData("-1s")]
    [InlineData("1 s")]
    [InlineData("1d")]
    [InlineData("1..5s")]
    [InlineData("99999999999999h")]
    public void A_malformed_time_is_refused(string text) => Assert.False(Durations.TryParse(text, out _));

    [Theory]
    [InlineData(1, "0.10 us")]
    [InlineData(113, "11.3 us")]
    [InlineData(12_000, "1.20 ms")]
    [InlineData(50_000_000, "5.00 s")]
    [InlineData(36_000_000_000, "3600 s")]
    public void A_time_is_shown_with_three_digits(long ticks, string text) =>
        Assert.Equal(text, Durations.Format(TimeSpan.FromTicks(ticks)));

    [Fact]
    public void A_table_is_as_wide_as_its_cells_and_ends_with_them()
    {
        TablePrinter table = new("NAME", ">SIZE", "STATE");
        table.Add("a", "1", "ready");
        table.Add("longer", "1024", "");
        StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        table.WriteTo(output);
        Assert.Equal("NAME    SIZE  STATE\na          1  ready\nlonger  1024\n", output.ToString());
    }

    [Fact]
    public void What_a_peer_named_cannot_steer_the_terminal()
    {
        TablePrinter table = new("NAME");
        table.Add("a\u001b[2Jb\r\nc");
        StringWriter output = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        table.WriteTo(output);
        Assert.Equal("NAME\na?[2Jb??c\n", output.ToString());
    }

    [Fact]
    public void A_progress_bar_shows_what_scp_shows_and_its_last_line_stays()
    {
        ManualClock clock = new();
        StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        using (ProgressBar bar = new(error, "model.bin", 256 << 20, isVisible: true, clock, () => 60))
        {
            bar.Report(0);
            clock.Advance(TimeSpan.FromMilliseconds(50));
            bar.Report(1 << 20); // too soon to draw again
            clock.Advance(TimeSpan.FromMilliseconds(950));
            bar.Report(64 << 20);
            clock.Advance(TimeSpan.FromSeconds(3));
            bar.Report(256 << 20);
        }

        Assert.Equal(
            [
                "",
                "model.bin              0%       0 B        0 B/s  --:-- ETA",
                "model.bin             25%  64.0 MiB   64.0 MiB/s  00:03 ETA",
                "model.bin            100%   256 MiB   64.0 MiB/s  00:00 ETA",
                "model.bin            100%   256 MiB   64.0 MiB/s  00:04    \n",
            ],
            error.ToString().Split('\r'));
    }

    [Fact]
    public void A_transfer_that_stops_early_says_how_far_it_came()
    {
        ManualClock clock = new();
        StringWriter error = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        using (ProgressBar bar = new(error, new string('n', 100), 100, isVisible: true, clock, () => 50))
        {
            clock.Advance(TimeSpan.FromHours(2));
            bar.Report(50);
        }

        Assert
            .EndsWith("\rnnnnnn...  50%      50 B        0 B/s 2:00:00    \n", error
                .ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_line_is_written_where_the_bar_was_and_the_bar_goes_on_below_it()
    {
        ManualClock clock = new();
        StringWriter error = new(CultureInfo.InvariantCulture);
        using (ProgressBar bar = new(error, "a", 100, isVisible: true, clock, () => 46))
        {
            bar.WriteAbove(() => error.WriteLine("before the first drawing"));
            bar.Report(50);
            bar.WriteAbove(() => error.WriteLine("moved"));
        }

        string[] parts = error.ToString().Split('\r');
        Assert.Equal("before the first drawing\n", parts[0]);
        Assert.Matches("^a +50% +50 B +0 B/s  --:-- ETA$", parts[1]);
        Assert.Equal(new string(' ', parts[1].Length), parts[2]);
        Assert.Equal(["moved\n", parts[1]], parts[3..5]);
        Assert.EndsWith("00:00    \n", parts[5], StringComparison.Ordinal);
    }

    [Fact]
    public void Time_after_the_last_byte_is_not_part_of_the_rate()
    {
        ManualClock clock = new();
        StringWriter error = new(CultureInfo.InvariantCulture);
        using (ProgressBar bar = new(error, "a", 100 << 20, isVisible: true, clock, () => 46))
        {
            clock.Advance(TimeSpan.FromSeconds(2));
            bar.Report(100 << 20);
            clock.Advance(TimeSpan.FromHours(1));
        }

        Assert.EndsWith("100%   100 MiB   50.0 MiB/s  00:02    \n", error.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void No_escape_sequence_of_a_name_reaches_the_terminal()
    {
        StringWriter inner = new(CultureInfo.InvariantCulture) { NewLine = "\n" };
        PlainTextWriter plain = new(inner);
        plain.WriteLine("a\u001b[2Jb\r\tc");
        plain.Write('\u0007');
        plain.Write("d\n");
        plain.WriteLine("e {0}\u009b", 1);
        Assert.Equal("a?[2Jb?\tc\n?d\ne 1?\n", inner.ToString());
    }

    [Fact]
    public void Time_before_a_restart_is_not_part_of_the_rate()
    {
        ManualClock clock = new();
        StringWriter error = new(CultureInfo.InvariantCulture);
        using (ProgressBar bar = new(error, "a", 100 << 20, isVisible: true, clock, () => 46))
        {
            clock.Advance(TimeSpan.FromHours(1));
            bar.Restart();
            clock.Advance(TimeSpan.FromSeconds(1));
            bar.Report(50 << 20);
        }

        Assert.Contains("50.0 MiB/s  00:01 ETA", error.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void Without_a_terminal_nothing_is_drawn()
    {
        StringWriter error = new(CultureInfo.InvariantCulture);
        using (ProgressBar bar = new(error, "a", 1, isVisible: false, TimeProvider.System))
        {
            bar.Report(1);
        }

        Assert.Empty(error.ToString());
    }
}
