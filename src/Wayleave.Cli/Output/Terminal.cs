namespace Wayleave.Cli.Output;

/// <summary>What the terminal can show.</summary>
internal static class Terminal
{
    private const int WidthWithoutTerminal = 80;
    private const int HeightWithoutTerminal = 24;

    /// <summary>Whether <paramref name="error"/> is the process's stderr and a person looks at it.</summary>
    public static bool IsErrorTerminal(TextWriter error) =>
        ReferenceEquals(error, Console.Error)
            && !Console.IsErrorRedirected
            && Environment.GetEnvironmentVariable("TERM") != "dumb";

    /// <summary>Whether <paramref name="output"/> is the process's stdout and a person looks at it.</summary>
    public static bool IsOutputTerminal(TextWriter output) =>
        ReferenceEquals(output, Console.Out) && !Console.IsOutputRedirected
        && Environment.GetEnvironmentVariable("TERM") != "dumb";

    /// <summary>Columns and rows of the terminal that stdout is; 80 by 24 when it does not know.</summary>
    public static (int Columns, int Rows) Size => (
        Console.WindowWidth is > 0 and int columns ? columns : WidthWithoutTerminal,
        Console.WindowHeight is > 0 and int rows ? rows : HeightWithoutTerminal);

    /// <summary>Whether colour is wanted on stdout: a terminal, and no NO_COLOR (no-color.org).</summary>
    public static bool IsColored(TextWriter output) =>
        ReferenceEquals(output, Console.Out) && !Console.IsOutputRedirected
        && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"))
        && Environment.GetEnvironmentVariable("TERM") != "dumb";

    /// <summary>Columns of the terminal.</summary>
    public static int Width
    {
        get
        {
            int width = Console.IsErrorRedirected && Console.IsOutputRedirected ? 0 : Console.WindowWidth;
            return width > 0 ? width : WidthWithoutTerminal;
        }
    }
}
