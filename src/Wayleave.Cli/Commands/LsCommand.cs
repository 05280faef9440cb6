using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave ls</c>: the named device memory of a host.</summary>
internal static class LsCommand
{
    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST[/DEVICE[/NAME]]; default: the host that runs here");
        Command command = new("ls", "List the objects in the device memory of a host") { url };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            ObjectsDocument objects = await client.GetObjectsAsync(cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), Select(objects, parsed.GetValue(url)));
            return ExitCode.Done;
        });
        return command;
    }

    private static ObjectsDocument Select(ObjectsDocument objects, WlUrl? url)
    {
        ObjectsDocument selected = objects with
        {
            Objects =
            [
                .. objects.Objects.Where(o => url?.Device is null || o.Device == url.Device)
                    .Where(o => url?.Name is null || o.Name == url.Name),
            ],
        };
        return url?.Name is null || selected.Objects.Count != 0
            ? selected
            : throw new WayleaveException(
                Core.Errno.ENOENT, url.ToString(), "there is no such object", "wayleave ls shows what there is");
    }

    private static void Print(CommandContext context, ObjectsDocument objects)
    {
        if (context.IsJson)
        {
            context.WriteJson(objects, ControlJson.Default.ObjectsDocument);
            return;
        }

        TablePrinter table = new("NAME", ">SIZE", "STATE", "PLACE", ">MOVES", "CREATED", "SHA256");
        foreach (ObjectDocument o in objects.Objects)
        {
            table.Add(
                $"{o.Device}/{o.Name}",
                ByteSize.Format(o.SizeBytes),
                ToWord(o.State),
                ToWord(o.Placement),
                o.Moves.ToString(CultureInfo.InvariantCulture),
                o.CreatedAt.ToUniversalTime().ToString("yyyy-MM-dd'T'HH:mm:ss'Z'", CultureInfo.InvariantCulture),
                o.Sha256 is { Length: > 16 } digest ? digest[..16] : "-");
        }

        table.WriteTo(context.Out);
    }

    private static string ToWord<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}
