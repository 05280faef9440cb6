namespace Wayleave.Cli.Output;

/// <summary>
/// Rows under a header, columns as wide as their widest cell, two blanks between them; nothing after the last cell.
/// </summary>
internal sealed class TablePrinter
{
    private readonly (string Title, bool IsNumber)[] _columns;
    private readonly List<string[]> _rows = [];

    /// <param name="columns">Titles; one that starts with '&gt;' is a column of numbers, aligned to the right.</param>
    public TablePrinter(params string[] columns) =>
        _columns = [.. columns.Select(c => c.StartsWith('>') ? (c[1..], true) : (c, false))];

    /// <summary>Adds a row with one cell per column. What a peer sent is shown without control characters.</summary>
    public void Add(params string[] cells)
    {
        if (cells.Length != _columns.Length)
        {
            throw new ArgumentException($"{cells.Length} cells for {_columns.Length} columns", nameof(cells));
        }

        _rows.Add([.. cells.Select(Clean)]);
    }

    public void WriteTo(TextWriter output)
    {
        int[] widths = [.. _columns.Select((c, i) => _rows.Select(r => r[i].Length).Append(c.Title.Length).Max())];
        WriteRow(output, [.. _columns.Select(c => c.Title)], widths);
        foreach (string[] row in _rows)
        {
            WriteRow(output, row, widths);
        }
    }

    private void WriteRow(TextWriter output, string[] row, int[] widths)
    {
        IEnumerable<string> cells = row.Select(
            (c, i) => _columns[i].IsNumber ? c.PadLeft(widths[i]) : c.PadRight(widths[i]));
        output.WriteLine(string.Join("  ", cells).TrimEnd());
    }

    /// <summary>An escape sequence in a name would reach the terminal.</summary>
    private static string Clean(string cell) =>
        cell.Any(char.IsControl) ? string.Concat(cell.Select(c => char.IsControl(c) ? '?' : c)) : cell;
}
