using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave buffers</c>: every buffer of a host, and which processes hold it.</summary>
internal static class BuffersCommand
{
    public static Command Create()
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Command command = new("buffers", "List a host's buffers with their users and the processes that hold them")
        {
            url,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            BuffersDocument all = await client.GetBuffersAsync(cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), all);
            return ExitCode.Done;
        });
        return command;
    }

    private static void Print(CommandContext context, BuffersDocument all)
    {
        if (context.IsJson)
        {
            context.WriteJson(all, ControlJson.Default.BuffersDocument);
            return;
        }

        TablePrinter table = new(">ID", "NAME", ">SIZE", "EXPORTER", "STORAGE", ">REFS", "STATE");
        foreach (BufferDocument b in all.Buffers)
        {
            table.Add(
                b.Id.ToString(CultureInfo.InvariantCulture),
                b.Name,
                ByteSize.Format(b.SizeBytes),
                b.Exporter,
                Word(b.Storage),
                b.References.ToString(CultureInfo.InvariantCulture),
                b.Revoked ? "revoked" : "-");
        }

        table.WriteTo(context.Out);
        foreach (BufferDocument b in all.Buffers.Where(b => b.Users.Count > 0 || b.Holders is not null))
        {
            context.Out.WriteLine(string.Create(CultureInfo.InvariantCulture, $"\n{b.Id} {b.Name}"));
            foreach (BufferUserDocument user in b.Users)
            {
                context.Out.WriteLine(
                    $"  {user.Device}: {user.Name} for {user.Holder}, {Word(user.Kind)}, {Word(user.State)}");
            }

            if (b.Holders is { } holders)
            {
                context.Out.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"  allocated by process {holders.Owner}"));
                Write("open in", holders.Numbers);
                Write("descriptor in", holders.Descriptors);
                Write("mapped by", holders.Mappings);
            }
        }

        void Write(string how, IReadOnlyList<int> processes)
        {
            foreach (IGrouping<int, int> process in processes.GroupBy(p => p))
            {
                string times = process.Count() == 1 ? "" : $" ({process.Count()} times)";
                context.Out.WriteLine(string.Create(
                    CultureInfo.InvariantCulture, $"  {how} process {process.Key}{times}"));
            }
        }
    }

    private static string Word<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}
