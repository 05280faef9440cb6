namespace Wayleave.Cli.Output;

/// <summary>
/// Blocks of <c>key: value</c> below a headline, as <c>ibv_devinfo</c> prints them; a long value goes on below its
/// start.
/// </summary>
internal static class KeyedText
{
    private const int Indent = 8;
    private const int Width = 100;

    /// <summary>Prints one value; nothing for null.</summary>
    /// <param name="output">Where to.</param>
    /// <param name="key">Without the colon.</param>
    /// <param name="keyWidth">Columns of the widest key, its colon included.</param>
    /// <param name="value">Broken at blanks.</param>
    public static void Write(TextWriter output, string key, int keyWidth, string? value)
    {
        if (value is null)
        {
            return;
        }

        string margin = new(' ', Indent + keyWidth + 1);
        string line = new string(' ', Indent) + (key + ":").PadRight(keyWidth);
        bool isEmpty = true;
        foreach (string word in value.Split(' '))
        {
            if (!isEmpty && line.Length + 1 + word.Length > Width)
            {
                output.WriteLine(line);
                line = margin + word;
            }
            else
            {
                line += " " + word;
            }

            isEmpty = false;
        }

        output.WriteLine(line);
    }
}
