using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave fences</c>: what the buffers of a host wait for.</summary>
internal static class FencesCommand
{
    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Command command = new("fences", "List the fences in the reservations of a host's buffers") { url };
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
            return ExitCode.Done;
        });
        return command;
    }
}
