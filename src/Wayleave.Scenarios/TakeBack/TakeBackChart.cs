using System.Globalization;
using System.Security;
using System.Text;

namespace Wayleave.Scenarios.TakeBack;

/// <summary>Draws a comparison as SVG: for each strategy four bars, and what was found.</summary>
public static class TakeBackChart
{
    private const int RowHeight = 46;
    private const int Top = 58;
    private const int LeftMin = 190;
    private const double LetterWidth = 6.6;
    private const int Column = 170;
    private const int BarWidth = 110;

    // Each with its own scale: they measure different things.
    private static readonly (string Title, string Unit, string Colour, Func<TakeBackResult, double?> Value)[] s_bars =
    [
        ("throughput", "MB/s", "#2f6fa8", r => r.BytesPerS / 1e6),
        ("take-back p50", "us", "#c77d28", r => r.TakeBackP50Us),
        ("take-back p99", "us", "#a8442f", r => r.TakeBackP99Us),
        ("reclaimable", "%", "#3f8a4d", r => 100.0 * r.ReclaimableBytes / r.UsedBytes),
    ];

    /// <summary>A whole SVG document, with nothing that has to be loaded.</summary>
    public static string Draw(TakeBackReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        int left = Math.Max(LeftMin, 24 + (int)(LetterWidth * report.Results.Max(r => r.Strategy.Length)));
        int width = left + (Column * s_bars.Length) + 150;
        int height = Top + (RowHeight * report.Results.Count) + 14;
        StringBuilder svg = new();
        Append(svg, $"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" ");
        Append(svg, $"viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n");
        Append(svg, $"<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n");
        Text(svg, 12, 22, "Taking memory back from two GPUs and a NIC", "#222222", isBold: true);
        for (int i = 0; i < s_bars.Length; i++)
        {
            Text(svg, left + (i * Column), 44, $"{s_bars[i].Title} [{s_bars[i].Unit}]", "#555555");
        }

        int last = left + (s_bars.Length * Column);
        Text(svg, last, 44, "faults / stalls / deadlocks", "#555555");
        for (int row = 0; row < report.Results.Count; row++)
        {
            TakeBackResult result = report.Results[row];
            int y = Top + (row * RowHeight);
            Text(svg, 12, y + 20, result.Strategy, "#222222");
            for (int i = 0; i < s_bars.Length; i++)
            {
                Bar(svg, report, i, result, left + (i * Column), y);
            }

            string colour = result.Deadlocks > 0 ? "#a8442f" : "#222222";
            Text(svg, last, y + 20, $"{result.Faults} / {result.Stalls} / {result.Deadlocks}", colour);
        }

        svg.Append("</svg>\n");
        return svg.ToString();
    }

    private static void Bar(StringBuilder svg, TakeBackReport report, int bar, TakeBackResult result, int x, int y)
    {
        double most = report.Results.Max(r => s_bars[bar].Value(r) ?? 0);
        if (s_bars[bar].Value(result) is not { } value)
        {
            Text(svg, x, y + 20, "never", "#999999");
            return;
        }

        double length = most > 0 ? value / most * BarWidth : 0;
        string colour = s_bars[bar].Colour;
        Append(svg, $"<rect x=\"{x}\" y=\"{y + 6}\" width=\"{length:F1}\" height=\"20\" fill=\"{colour}\"/>\n");
        string text = value.ToString(value >= 100 ? "F0" : "0.#", CultureInfo.InvariantCulture);
        Text(svg, x + (int)length + 6, y + 20, text, "#222222");
    }

    private static void Text(StringBuilder svg, int x, int y, string text, string colour, bool isBold = false)
    {
        string weight = isBold ? " font-weight=\"bold\"" : "";
        Append(svg, $"<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\"{weight}>{SecurityElement.Escape(text)}</text>\n");
    }

    private static void Append(StringBuilder svg, FormattableString text) =>
        svg.Append(text.ToString(CultureInfo.InvariantCulture));
}
