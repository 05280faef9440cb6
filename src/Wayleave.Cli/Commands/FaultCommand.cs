using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Wayleave.Devices.Rdma;
using Wayleave.Host.Programs;
using Wayleave.Ports.Programs;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave fault</c>: disturbs a program of libibverbs that is running.</summary>
internal static class FaultCommand
{
    private const string Once = "rnr, rnr=MESSAGES, qp-error, qp-error=QP, revoke=KEY";

    public static Command Create()
    {
        Argument<int?> process = new("process")
        {
            Description = "The program, by its number; without it those that can be disturbed are listed",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Argument<string?> spec = new("spec")
        {
            Description = $"'list', 'clear', or words with commas. At once: {Once}. From now on: {FaultOptions.Forms}",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Command command = new("fault", "Disturb a program that wayleave run has started") { process, spec };
        command.SetAction(parsed =>
        {
            CommandContext context = new(parsed);
            if (parsed.GetValue(process) is not { } id)
            {
                ListPrograms(context);
                return ExitCode.Done;
            }

            string request = parsed.GetValue(spec) ?? FaultSocket.List;
            string answer = FaultClient.Ask(id, request);
            if (request == FaultSocket.List)
            {
                Show(context, answer);
            }
            else
            {
                context.Error.WriteLine($"wayleave: {answer}");
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static void ListPrograms(CommandContext context)
    {
        IReadOnlyList<int> processes = FaultSocket.Processes();
        if (context.IsJson)
        {
            context.Out.WriteLine($"[{string.Join(',', processes)}]");
            return;
        }

        foreach (int process in processes)
        {
            context.Out.WriteLine(process.ToString(CultureInfo.InvariantCulture));
        }
    }

    private static void Show(CommandContext context, string answer)
    {
        if (context.IsJson)
        {
            context.Out.WriteLine(answer);
            return;
        }

        using JsonDocument document = JsonDocument.Parse(answer);
        foreach (JsonElement device in document.RootElement.GetProperty("devices").EnumerateArray())
        {
            string faults = device.GetProperty("faults").GetString()!;
            context.Out.WriteLine(
                $"{device.GetProperty("name").GetString()}@{device.GetProperty("address").GetString()}  "
                + (faults.Length == 0 ? "no faults" : faults));
            foreach (JsonElement pair in device.GetProperty("queue_pairs").EnumerateArray())
            {
                context.Out.WriteLine(
                    $"  qp 0x{pair.GetProperty("number").GetUInt32():x6}  {pair.GetProperty("type").GetString()}  "
                    + pair.GetProperty("state").GetString());
            }

            foreach (JsonElement region in device.GetProperty("regions").EnumerateArray())
            {
                context.Out.WriteLine(
                    $"  mr 0x{region.GetProperty("key").GetUInt32():x8}  "
                    + $"{region.GetProperty("bytes").GetUInt64()} bytes  "
                    + region.GetProperty("state").GetString());
            }
        }
    }
}
