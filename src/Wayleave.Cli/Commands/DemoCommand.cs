using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Cli.Demo;
using Wayleave.Host.Transfers;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave demo</c>: the main job between two processes of this machine, and the proof that its end holds.
/// </summary>
internal static class DemoCommand
{
    private const long SeededBytes = 256L << 20;

    public static Command Create()
    {
        Argument<string?> file = new("FILE")
        {
            Description = "What to send; without it 256 MiB of seeded data",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Option<long?> size = Parsing.SizeOption("--size", "How much seeded data to send when no FILE is given");
        Option<string?> trace = new("--trace")
        {
            Description = "Write the events of both hosts as a Chrome trace, for ui.perfetto.dev",
            HelpName = "FILE",
        };
        Option<string?> pcap = new("--pcap") { Description = "Write host A's packets as a capture", HelpName = "FILE" };
        Option<string?> breakName = BreakNames.Option();
        const string Description =
            "Send a file between the GPU memories of two hosts while one moves it, then take memory back with a proof";
        Command command = new("demo", Description)
        {
            file, size, trace, pcap, breakName,
        };
        command.SetAction((parsed, cancellation) =>
        {
            if (parsed.GetValue(size) == 0)
            {
                throw new UsageException("--size: a demo sends at least one byte");
            }

            DemoOptions options = new(
                parsed.GetValue(file),
                (ulong)(parsed.GetValue(size) ?? SeededBytes),
                parsed.GetValue(breakName),
                parsed.GetValue(trace) is not null,
                parsed.GetValue(pcap));
            return RunAsync(new CommandContext(parsed), options, parsed.GetValue(trace), cancellation);
        });
        return command;
    }

    private static async Task<int> RunAsync(
        CommandContext context, DemoOptions options, string? tracePath, CancellationToken cancellation)
    {
        // What cannot be written at the end is told before the run.
        using WholeFile? trace = tracePath is null ? null : WholeFile.Create(tracePath);
        if (options.PcapFile is not null)
        {
            LocalFile.ThrowUnlessWritable(options.PcapFile);
        }

        using DemoStory story = new(context);
        string? peerTrace = null;
        DemoRun run = new(options, story) { PeerTrace = path => peerTrace = File.ReadAllText(path) };
        DemoReport report = await run.RunAsync(cancellation).ConfigureAwait(false);
        if (trace is not null)
        {
            WriteTrace(trace, run, peerTrace);
        }

        if (context.IsJson)
        {
            context.WriteJson(report, DemoJson.Default.DemoReport);
        }

        return report.Passed ? ExitCode.Done : ExitCode.Failed;
    }

    private static void WriteTrace(WholeFile file, DemoRun run, string? peerTrace)
    {
        using (Stream stream = file.OpenStream())
        {
            using Utf8JsonWriter writer = new(stream);
            writer.WriteStartArray();
            run.Trace!.WriteTo(writer, processId: 1);
            if (peerTrace is not null)
            {
                using JsonDocument events = JsonDocument.Parse(peerTrace);
                foreach (JsonElement e in events.RootElement.EnumerateArray())
                {
                    e.WriteTo(writer);
                }
            }

            writer.WriteEndArray();
        }

        file.Publish();
    }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    UseStringEnumConverter = true)]
[JsonSerializable(typeof(DemoReport))]
internal sealed partial class DemoJson : JsonSerializerContext;
