namespace Wayleave.Cli.Output;

/// <summary>
/// The whole terminal, redrawn in place on its alternate screen, as <c>top</c> and <c>less</c> use it (xterm's DECSET
/// 1049). Disposing brings back what was there before. Written to by one thread.
/// </summary>
internal sealed class LiveScreen : IDisposable
{
    // Nothing wraps (DECAWM): a character may be wider than a column, and a name is whoever's.
    private const string Enter = "\e[?1049h\e[?25l\e[?7l";
    private const string Leave = "\e[?7h\e[?25h\e[?1049l";
    private const string Home = "\e[H";
    private const string EraseToEndOfLine = "\e[K";
    private const string EraseBelow = "\e[J";

    private readonly TextWriter _output;
    private readonly Func<(int Columns, int Rows)> _size;
    private bool _disposed;

    /// <param name="output">A terminal.</param>
    /// <param name="size">How large it is now: users resize it.</param>
    public LiveScreen(TextWriter output, Func<(int Columns, int Rows)> size)
    {
        (_output, _size) = (output, size);
        _output.Write(Enter);
    }

    /// <summary>
    /// Shows the lines from the top, each cut at the right edge; the last row says how many did not fit.
    /// </summary>
    /// <param name="lines">What they hold of control characters is shown as question marks.</param>
    public void Draw(IReadOnlyList<string> lines)
    {
        ArgumentNullException.ThrowIfNull(lines);
        (int columns, int rows) = _size();
        bool fits = lines.Count <= rows;
        int shown = fits ? lines.Count : Math.Max(rows - 1, 0);
        _output.Write(Home);
        for (int row = 0; row < shown; row++)
        {
            WriteRow(lines[row], columns, isLast: row == rows - 1);
        }

        if (!fits)
        {
            WriteRow($"... {lines.Count - shown} more", columns, isLast: true);
        }

        if (lines.Count < rows)
        {
            _output.Write(EraseBelow);
        }

        _output.Flush();
    }

    public void Dispose()
    {
        if (_disposed)
        {
            return;
        }

        _disposed = true;
        _output.Write(Leave);
        _output.Flush();
    }

    // A line feed on the bottom row would scroll the first one away. What was there is erased first: behind a line that
    // fills its row the cursor stands on the last character.
    private void WriteRow(string line, int columns, bool isLast)
    {
        string cut = line.Length <= columns ? line : line[..columns];
        _output.Write(EraseToEndOfLine);
        _output.Write(cut.Any(char.IsControl) ? string.Concat(cut.Select(c => char.IsControl(c) ? '?' : c)) : cut);
        _output.Write(isLast ? "" : "\r\n");
    }
}
