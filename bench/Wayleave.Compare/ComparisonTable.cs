using System.Globalization;

namespace Wayleave.Compare;

/// <summary>The report for readers: a line for each ratio, then what was not measured and why.</summary>
public static class ComparisonTable
{
    /// <summary>Writes the table.</summary>
    /// <param name="output">Where to.</param>
    /// <param name="rows">What was measured.</param>
    /// <param name="rounds">How often.</param>
    /// <param name="notes">Lines to end with.</param>
    public static void Write(
        TextWriter output, IReadOnlyList<ComparisonRow> rows, int rounds, params IEnumerable<string> notes)
    {
        output.WriteLine(
            $"{"wayleave bench",-26} {"ours",8} {"peer",8} {"unit",-5} {"ratio",7}  {"bar",-7} {"",-6} peer, "
            + $"{rounds} {(rounds == 1 ? "round" : "rounds")}");
        foreach (ComparisonRow row in rows)
        {
            output.WriteLine(
                $"{row.Test,-26} {Cell(row.Ours, "F2"),8} {Cell(row.Theirs, "F2"),8} {row.Unit,-5} "
                + $"{Cell(row.Ratio, "F3"),7}  {row.Bar ?? "-",-7} {Verdict(row),-6} {row.Peer}");
        }

        foreach (ComparisonRow row in rows.Where(r => r.Error is not null))
        {
            output.WriteLine($"{row.Test}, {row.Peer}: {row.Error!.ReplaceLineEndings(" ")}");
        }

        foreach (string note in notes)
        {
            output.WriteLine(note);
        }
    }

    private static string Verdict(ComparisonRow row) => row.IsMet switch
    {
        true => "met",
        false => "MISSED",
        null => double.IsNaN(row.Ratio) ? "n/a" : "-",
    };

    private static string Cell(double value, string format) =>
        double.IsNaN(value) ? "-" : value.ToString(format, CultureInfo.InvariantCulture);
}
