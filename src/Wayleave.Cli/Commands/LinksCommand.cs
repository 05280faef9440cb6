using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave links</c>: the tree of a running host with what has crossed each link.</summary>
internal static class LinksCommand
{
    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<TimeSpan?> watch =
            Parsing.DurationOption("--watch", "Print again so often, until Ctrl-C; with --json a line each");
        Command command = new("links", "Print what has crossed each PCIe link and route of a host") { url, watch };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            CommandContext context = new(parsed);
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            while (true)
            {
                Print(context, await client.GetLinksAsync(cancellation).ConfigureAwait(false));
                if (parsed.GetValue(watch) is not { } interval)
                {
                    return ExitCode.Done;
                }

                await Task.Delay(interval, cancellation).ConfigureAwait(false);
                if (!context.IsJson)
                {
                    context.Out.WriteLine();
                }
            }
        });
        return command;
    }

    private static void Print(CommandContext context, LinksDocument links)
    {
        if (context.IsJson)
        {
            context.WriteJson(links, TopologyJson.Default.LinksDocument);
            return;
        }

        LinkTable.Write(links, context.Out);
    }
}
