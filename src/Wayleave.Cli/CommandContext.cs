using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using Wayleave.Cli.Output;

namespace Wayleave.Cli;

/// <summary>Where a command writes, and how.</summary>
internal sealed class CommandContext
{
    public CommandContext(ParseResult parsed)
    {
        IsJson = parsed.GetValue<bool>("--json");
        TextWriter output = parsed.InvocationConfiguration.Output;
        Out = IsJson ? output : new PlainTextWriter(output); // JSON escapes what is not plain
        Error = parsed.InvocationConfiguration.Error;
    }

    /// <summary>For data; a pipe may be behind it. No control character of a name reaches the terminal by it.</summary>
    public TextWriter Out { get; }

    /// <summary>For talk: progress, hints, failures.</summary>
    public TextWriter Error { get; }

    /// <summary>Whether data is wanted as JSON.</summary>
    public bool IsJson { get; }

    /// <summary>Prints one JSON object on one line.</summary>
    public void WriteJson<T>(T value, JsonTypeInfo<T> type) => Out.WriteLine(JsonSerializer.Serialize(value, type));

    /// <summary>
    /// A progress bar on stderr; it shows nothing if that is no terminal, or if data is wanted as JSON.
    /// </summary>
    /// <param name="name">Of what is moved.</param>
    /// <param name="totalBytes">How much there is.</param>
    public ProgressBar StartProgress(string name, long totalBytes) =>
        new(Error, name, totalBytes, isVisible: !IsJson && Terminal.IsErrorTerminal(Error), TimeProvider.System);
}
