using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Topology;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave probe A B</c>: moves patterned data both ways between two devices and compares.</summary>
internal static class ProbeCommand
{
    private const int KeyWidth = 7;

    public static Command Create()
    {
        Argument<string> one = new("A") { Description = "A device of the host, by name or address" };
        Argument<string> other = new("B") { Description = "Another" };
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<long?> size = Parsing.SizeOption("--size", "How much to move each way (default 1MiB)");
        Option<bool> again = new("--again")
        {
            Description = "Also try a route that was marked bad, and lift the mark if all arrives; maps are let "
                + "through while it runs",
        };
        Command command = new("probe", "Try the routes between two devices with real bytes")
        {
            one,
            other,
            url,
            size,
            again,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            StartProbeDocument start = new()
            {
                One = parsed.GetValue(one)!,
                Other = parsed.GetValue(other)!,
                Again = parsed.GetValue(again),
            };
            if (parsed.GetValue(size) is { } bytes)
            {
                start.SizeBytes = (ulong)bytes;
            }

            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            ProbeDocument found = await client.ProbeAsync(start, cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), found);
            return found.Ok ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private static void Print(CommandContext context, ProbeDocument found)
    {
        if (context.IsJson)
        {
            context.WriteJson(found, TopologyJson.Default.ProbeDocument);
            return;
        }

        foreach (ProbedRouteDocument route in found.Routes)
        {
            string verdict = route.MarkedBad ? "BAD" : route.Write is null ? "no route" : "good";
            context.Out.WriteLine($"{route.Client} to memory of {route.Owner}: {verdict}");
            WriteWay(context.Out, "write", route.Write);
            WriteWay(context.Out, "read", route.Read);
            if (route.Reason is { } reason)
            {
                Write(context.Out, "reason", reason);
            }

            if (route.MarkedBad)
            {
                Write(context.Out, "mark", "later maps over this route are refused");
            }
        }
    }

    private static void WriteWay(TextWriter output, string key, ProbedWayDocument? way)
    {
        if (way is null)
        {
            return;
        }

        string tried = ByteSize.Format(way.TriedBytes);
        Write(output, key, way.Outcome switch
        {
            ProbeOutcome.Intact => $"{tried} intact",
            ProbeOutcome.Aborted => $"aborted: nothing answered {Bad(way)}",
            _ => $"corrupt: wrong are {Bad(way)}",
        });
    }

    private static string Bad(ProbedWayDocument way) => string.Create(
        CultureInfo.InvariantCulture,
        $"{way.BadBytes} of {way.TriedBytes} bytes, the first at 0x{way.FirstBadOffset:x}");

    private static void Write(TextWriter output, string key, string value) =>
        KeyedText.Write(output, key, KeyWidth, value);
}
