using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Core.Topology;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave explain OWNER CLIENT</c>: how a device reaches another's memory, or why it does not.</summary>
internal static class ExplainCommand
{
    private const int KeyWidth = 12;

    public static Command Create()
    {
        Argument<string> owner = new("OWNER") { Description = "Whose memory: a device by name, a function by address" };
        Argument<string> client = new("CLIENT") { Description = "Who reads and writes it" };
        TopologySource source = new();
        Command command = new("explain", "Say by which way a device reaches another's memory, or why it does not")
        {
            owner,
            client,
        };
        source.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            RouteDocument route = await source.GetRouteAsync(
                parsed, parsed.GetValue(owner)!, parsed.GetValue(client)!, cancellation).ConfigureAwait(false);
            CommandContext context = new(parsed);
            if (context.IsJson)
            {
                context.WriteJson(route, TopologyJson.Default.RouteDocument);
            }
            else
            {
                context.Out.WriteLine(Headline(route));
                WriteDetails(context.Out, route);
            }

            return route.Supported ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    /// <summary>Who to whose memory.</summary>
    public static string Headline(RouteDocument route) =>
        $"{Label(route.Client, route.ClientAddress)} to memory of {Label(route.Owner, route.OwnerAddress)}";

    /// <summary>One more value of the block.</summary>
    public static void WriteStaging(TextWriter output, long bytes) =>
        Write(output, "staged", string.Create(CultureInfo.InvariantCulture, $"{bytes} bytes"));

    /// <summary>The block below the headline.</summary>
    public static void WriteDetails(TextWriter output, RouteDocument route)
    {
        Write(output, "route", route.MapType switch
        {
            PeerMapType.BusAddress when route.Owner == route.Client => "its own memory",
            PeerMapType.BusAddress => "bus address: the request stays below a common bridge",
            PeerMapType.ThroughHostBridge => "through the host bridge",
            _ => "none",
        });
        Write(output, "distance", route.Distance.ToString(CultureInfo.InvariantCulture));
        Write(output, "proximity", route.Proximity);
        Write(output, "path", string.Join(" > ", route.Path));
        Write(output, route.Supported ? "not shorter" : "reason", route.Refusal ?? Describe(route));
        Write(output, "object", route.ObstacleAt);
        Write(output, "remedy", route.Remedy);
        foreach (string note in route.Notes)
        {
            Write(output, "note", note);
        }
    }

    private static string Label(string name, string address) => name == address ? name : $"{name} ({address})";

    private static string? Describe(RouteDocument route) => route.Obstacle switch
    {
        PeerObstacle.AcsRedirect => "ACS sends peer requests to the host bridge, which forwards them",
        PeerObstacle.NoCommonBridge => "they have no bridge in common below the host bridge, which forwards them",
        _ => null,
    };

    private static void Write(TextWriter output, string key, string? value) =>
        KeyedText.Write(output, key, KeyWidth, value);
}
