using System.Globalization;
using System.Text;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>A comparison as people read it: a table, and what was found, in words.</summary>
public static class TakeBackText
{
    private static readonly string[] s_titles =
    [
        "STRATEGY", "MB/s", "JOBS", "WRITES[KiB]", "PAGES", "p50[us]", "p99[us]", "BUFFER", "p50[us]", "p99[us]",
        "RECLAIMABLE", "FAULTS", "STALLS", "DEADLOCKS",
    ];

    /// <summary>Lines end with a line feed each.</summary>
    public static string Format(TakeBackReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        StringBuilder text = new();
        AppendTable(text, [s_titles, .. report.Results.Select(r => Row(report, r))]);
        foreach (TakeBackResult result in report.Results)
        {
            if (result.StoppedAt is { } stopped)
            {
                Append(text, $"\n{result.Strategy} came to a halt: {stopped}\n");
            }

            foreach (TakeBackFinding circle in result.Circles)
            {
                Append(text, $"\n{result.Strategy}: a circle, in {circle.Orders} of {result.ExploredOrders} orders:\n");
                Append(text, $"  {circle.Text}\n");
            }

            if (result.HangWithoutChecker is { } hang)
            {
                Append(text, $"\n{result.Strategy}, where nobody looks: {hang}\n");
            }

            foreach (TakeBackFinding rule in result.BrokenRules)
            {
                Append(
                    text,
                    $"\n{result.Strategy}: a rule is broken, in {rule.Orders} of {result.ExploredOrders} orders:\n");
                Append(text, $"  {rule.Text}\n");
            }
        }

        return text.ToString();
    }

    private static string[] Row(TakeBackReport report, TakeBackResult result) =>
    [
        result.Strategy,
        Number(result.BytesPerS / 1e6),
        Number(result.Jobs),
        Number(result.WrittenBytes / 1024),
        Percent(result.TakenPages, result.AskedPages),
        Latency(result.PagesP50Us),
        Latency(result.PagesP99Us),
        Percent(result.TakenBuffers, result.AskedBuffers),
        Latency(result.BufferP50Us),
        Latency(result.BufferP99Us),
        Percent(result.ReclaimableBytes, result.UsedBytes),
        Number(result.Faults),
        Number(result.Stalls),
        report.ExploredOrders == 0 ? "-" : Number(result.Deadlocks),
    ];

    private static void AppendTable(StringBuilder text, List<string[]> rows)
    {
        int[] widths = [.. s_titles.Select((_, column) => rows.Max(r => r[column].Length))];
        foreach (string[] row in rows)
        {
            IEnumerable<string> cells = row.Select(
                (cell, column) => column == 0 ? cell.PadRight(widths[0]) : cell.PadLeft(widths[column]));
            text.AppendJoin("  ", cells).Append('\n');
        }
    }

    private static string Latency(double? us) => us is { } value ? Number(value) : "never";

    private static string Number(double value) =>
        value.ToString(value >= 100 ? "F0" : "0.#", CultureInfo.InvariantCulture);

    private static string Percent(long part, long all) =>
        all == 0 ? "-" : (100.0 * part / all).ToString("F0", CultureInfo.InvariantCulture) + " %";

    private static void Append(StringBuilder text, FormattableString line) =>
        text.Append(line.ToString(CultureInfo.InvariantCulture));
}
