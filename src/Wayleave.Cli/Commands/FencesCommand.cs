using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave fences</c>: what the buffers of a host wait for, and which processes have fences.</summary>
internal static class FencesCommand
{
    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Command command = new("fences", "List the fences of a host's buffers, and the processes that have fences")
        {
            url,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            BuffersDocument all = await client.GetBuffersAsync(cancellation).ConfigureAwait(false);
            CommandContext context = new(parsed);
            if (context.IsJson)
            {
                BuffersDocument pending = all with { Buffers = [.. all.Buffers.Where(b => b.Fences.Count > 0)] };
                context.WriteJson(pending, ControlJson.Default.BuffersDocument);
                return ExitCode.Done;
            }

            TablePrinter table = new(">BUFFER", "NAME", "FENCE");
            foreach (BufferDocument b in all.Buffers)
            {
                foreach (string fence in b.Fences)
                {
                    table.Add(b.Id.ToString(CultureInfo.InvariantCulture), b.Name, fence);
                }
            }

            table.WriteTo(context.Out);
            WriteSyncFiles(context, all.SyncFiles);
            return ExitCode.Done;
        });
        return command;
    }

    private static void WriteSyncFiles(CommandContext context, IReadOnlyList<SyncFileDocument> files)
    {
        foreach (SyncFileDocument file in files)
        {
            string state = file.Error is { } error ? $"{file.State}, {error}" : file.State;
            context.Out.WriteLine(string.Create(
                CultureInfo.InvariantCulture, $"\n{file.Fence} ({state}), given to process {file.Program}"));
            foreach (IGrouping<int, int> process in file.Processes.GroupBy(p => p))
            {
                string times = process.Count() == 1 ? "" : $" ({process.Count()} times)";
                context.Out.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"  descriptor in process {process.Key}{times}"));
            }
        }
    }
}
