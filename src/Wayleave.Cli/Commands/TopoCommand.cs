using System.CommandLine;
using Wayleave.Cli.Output;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave topo</c>: the PCI trees, as <c>lspci -tv</c> and <c>nvidia-smi topo -m</c> print them.
/// </summary>
internal static class TopoCommand
{
    public static Command Create()
    {
        TopologySource source = new();
        Option<bool> matrix =
            new("--matrix", "-m") { Description = "Print how near the devices are, and who reaches whose memory" };
        Option<bool> all =
            new("--all", "-a") { Description = "With --live -m: every function, not only those that move data" };
        Command command = new("topo", "Print the PCI trees of a host, or the matrix of its devices") { matrix, all };
        source.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            CommandContext context = new(parsed);
            if (parsed.GetValue(matrix))
            {
                RoutesDocument routes = await source
                    .GetRoutesAsync(parsed, parsed.GetValue(all), cancellation).ConfigureAwait(false);
                PrintMatrix(context, routes);
            }
            else
            {
                TopologyDocument topology = await source.GetTopologyAsync(parsed, cancellation).ConfigureAwait(false);
                PrintTree(context, topology);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static void PrintTree(CommandContext context, TopologyDocument topology)
    {
        if (context.IsJson)
        {
            context.WriteJson(topology, TopologyJson.Default.TopologyDocument);
            return;
        }

        TopologyTree.Write(topology, context.Out);
        WriteNotes(context, topology.Notes);
    }

    private static void PrintMatrix(CommandContext context, RoutesDocument routes)
    {
        if (context.IsJson)
        {
            context.WriteJson(routes, TopologyJson.Default.RoutesDocument);
            return;
        }

        RouteMatrix.Write(routes, context.Out);
        WriteNotes(context, routes.Notes);
    }

    private static void WriteNotes(CommandContext context, IReadOnlyList<string> notes)
    {
        foreach (string note in notes)
        {
            context.Error.WriteLine($"note: {note}");
        }
    }
}
