using System.CommandLine;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Host.Configuration;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave config</c>: every value that a host would start with, and where it comes from.</summary>
internal static class ConfigCommand
{
    public static Command Create()
    {
        Command command = new("config", "Print the configuration in effect and where each value comes from");
        HostOptions.AddTo(command);
        command.SetAction(parsed => Print(new CommandContext(parsed), HostOptions.Load(parsed)));
        return command;
    }

    private static void Print(CommandContext context, LoadedConfiguration loaded)
    {
        if (context.IsJson)
        {
            ConfigDocument document = new("wayleave.config.v1", loaded.File, loaded.Values);
            context.WriteJson(document, ConfigJson.Default.ConfigDocument);
            return;
        }

        TablePrinter table = new("KEY", "VALUE", "FROM");
        foreach (ConfigValue value in loaded.Values)
        {
            table.Add(value.Path, value.Value, value.Origin);
        }

        table.WriteTo(context.Out);
    }
}

internal sealed record ConfigDocument(string Schema, string? File, IReadOnlyList<ConfigValue> Values);

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(ConfigDocument))]
internal sealed partial class ConfigJson : JsonSerializerContext;
