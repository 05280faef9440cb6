using System.Runtime.CompilerServices;
using Wayleave.Core;

namespace Wayleave.Host;

/// <summary>
/// What was tried, for <see cref="ErrnoMap.ThrowIfFailed(Errno, ref FailureText, string?)"/>: an interpolated string
/// that is formatted only after a failure. Made by the compiler.
/// </summary>
[InterpolatedStringHandler]
public ref struct FailureText
{
    private DefaultInterpolatedStringHandler _text;

    /// <param name="literalLength">Of the compiler.</param>
    /// <param name="formattedCount">Of the compiler.</param>
    /// <param name="errno">What came of it.</param>
    /// <param name="isNeeded">Whether the parts are asked for at all.</param>
    public FailureText(int literalLength, int formattedCount, Errno errno, out bool isNeeded)
    {
        isNeeded = errno != Errno.Success;
        _text = isNeeded ? new DefaultInterpolatedStringHandler(literalLength, formattedCount) : default;
    }

    /// <summary>A part that stands in the source.</summary>
    public void AppendLiteral(string value) => _text.AppendLiteral(value);

    /// <summary>A part that is formatted.</summary>
    public void AppendFormatted<T>(T value) => _text.AppendFormatted(value);

    /// <summary>As above, with a format.</summary>
    public void AppendFormatted<T>(T value, string? format) => _text.AppendFormatted(value, format);

    internal string ToText() => _text.ToStringAndClear();
}
