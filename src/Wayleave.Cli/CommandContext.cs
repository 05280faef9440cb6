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
        Out = parsed.InvocationConfiguration.Output;
        Error = parsed.InvocationConfiguration.Error;
        IsJson = parsed.GetValue<bool>("--json");
    }

    /// <summary>For data; a pipe may be behind it.</summary>
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
