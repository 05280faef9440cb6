using System.Text;

namespace Wayleave.Cli.Output;

/// <summary>
/// Lets through text, tabs and the ends of lines, and puts a question mark for every other control character: what a
/// host, a file or a peer calls itself reaches the terminal, and an escape sequence in it must not.
/// </summary>
/// <param name="inner">Where it goes; not owned.</param>
internal sealed class PlainTextWriter(TextWriter inner) : TextWriter(inner.FormatProvider)
{
    public override Encoding Encoding => inner.Encoding;

    public override void Write(char value) => inner.Write(IsPlain(value) ? value : '?');

    public override void Write(ReadOnlySpan<char> buffer)
    {
        while (buffer.Length > 0)
        {
            int plain = 0;
            while (plain < buffer.Length && IsPlain(buffer[plain]))
            {
                plain++;
            }

            inner.Write(buffer[..plain]);
            if (plain == buffer.Length)
            {
                return;
            }

            inner.Write('?');
            buffer = buffer[(plain + 1)..];
        }
    }

    public override void Write(char[] buffer, int index, int count) => Write(buffer.AsSpan(index, count));

    public override void Write(string? value) => Write(value.AsSpan());

    public override void WriteLine(string? value)
    {
        Write(value.AsSpan());
        inner.WriteLine();
    }

    public override void WriteLine() => inner.WriteLine();

    public override void Flush() => inner.Flush();

    private static bool IsPlain(char c) => c is '\n' or '\t' || !char.IsControl(c);
}
