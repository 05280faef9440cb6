using System.Globalization;
using Wayleave.Host;
using Wayleave.Host.Benchmarks.Copies;

namespace Wayleave.Cli.Output;

/// <summary>
/// Matrices as <c>nvbandwidth</c> prints its own: the device of a row is copied from, that of a column to.
/// </summary>
internal static class CopyMatrix
{
    private const double Gigabyte = 1e9;

    public static void Write(CopyBenchmarkReport report, TextWriter output)
    {
        ArgumentNullException.ThrowIfNull(report);
        ArgumentNullException.ThrowIfNull(output);
        foreach (IGrouping<int, CopyCell> size in report.Cells.GroupBy(c => c.SizeBytes))
        {
            string what = $"{ByteSize.ToText(size.Key)} copies, {Text(report.Depth)} in the ring, walking over "
                + ByteSize.ToText(Math.Max(report.RegionBytes, size.Key));
            output.WriteLine($"Copy engine, {what}: memory of row -> memory of column, bandwidth (GB/s)");
            WriteMatrix(report.Devices, size, c => Fixed(c.MedianBytesPerS / Gigabyte), output);
            output.WriteLine();
            output.WriteLine("The same by the processor, bandwidth (GB/s)");
            WriteMatrix(report.Devices, size, c => Fixed(c.MedianPlainBytesPerS / Gigabyte), output);
            output.WriteLine();
            output.WriteLine("Engine to processor, medians of the ratios of neighbouring rounds");
            WriteMatrix(report.Devices, size, c => Fixed(c.MedianRatio), output);
            output.WriteLine();
        }

        WriteReasons(report, output);
        output.WriteLine(
            $"{Count(report, CopyStatus.Passed)} passed, {Count(report, CopyStatus.Waived)} waived, "
            + $"{Count(report, CopyStatus.Refused)} refused, {Count(report, CopyStatus.Failed)} failed");
    }

    private static void WriteMatrix(
        IReadOnlyList<string> devices, IEnumerable<CopyCell> cells, Func<CopyCell, string> cell, TextWriter output)
    {
        Dictionary<(string, string), CopyCell> byPair = cells.ToDictionary(c => (c.From, c.To));
        TablePrinter table = new(["", .. devices.Select(d => $">{d}")]);
        foreach (string row in devices)
        {
            table.Add([row, .. devices.Select(column => Show(byPair[(row, column)], cell))]);
        }

        table.WriteTo(output);
    }

    private static string Show(CopyCell cell, Func<CopyCell, string> measured) => cell.Status switch
    {
        CopyStatus.Passed => measured(cell),
        CopyStatus.Waived => "-",
        CopyStatus.Refused => "NO",
        _ => "FAILED",
    };

    private static void WriteReasons(CopyBenchmarkReport report, TextWriter output)
    {
        bool any = false;
        foreach (IGrouping<(string From, string To, CopyStatus Status, string? Reason), CopyCell> same in report.Cells
            .Where(c => c.Reason is not null).GroupBy(c => (c.From, c.To, c.Status, c.Reason)))
        {
            string word = same.Key.Status.ToString().ToLowerInvariant();
            bool isEverySize = same.Count() == report.Cells.Count(c => c.From == same.Key.From && c.To == same.Key.To);
            string sizes = isEverySize
                ? ""
                : $", {string.Join(", ", same.Select(c => ByteSize.ToText(c.SizeBytes)))}";
            output.WriteLine($"{same.Key.From} -> {same.Key.To}{sizes}: {word}: {same.Key.Reason}");
            any = true;
        }

        if (any)
        {
            output.WriteLine();
        }
    }

    private static int Count(CopyBenchmarkReport report, CopyStatus status) =>
        report.Cells.Count(c => c.Status == status);

    private static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

    private static string Fixed(double? value) => value?.ToString("F2", CultureInfo.InvariantCulture) ?? "-";
}
