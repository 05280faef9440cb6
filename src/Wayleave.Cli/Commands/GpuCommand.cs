using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave gpu</c>: commands on the GPUs of a host, and who else has some there.</summary>
internal static class GpuCommand
{
    public static Command Create() => new("gpu", "Run commands on the GPUs of a host, and see who does")
    {
        GpuRunCommand.Create(),
        CreateList("ls", "List the queues of the GPUs", PrintQueues),
        CreateList("ps", "List the jobs of the GPUs, and what they wait for", PrintJobs),
    };

    private static Command CreateList(string name, string description, Action<CommandContext, ComputeDocument> print)
    {
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST[/GPU]; default: the host that runs here");
        Command command = new(name, description) { url };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            WlUrl? where = parsed.GetValue(url);
            using ControlClient client = parsed.OpenClient(where);
            ComputeDocument all = await client.GetComputeAsync(cancellation).ConfigureAwait(false);
            ComputeDocument selected = Select(all, where);
            CommandContext context = new(parsed);
            if (context.IsJson)
            {
                context.WriteJson(selected, ControlJson.Default.ComputeDocument);
            }
            else
            {
                print(context, selected);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static ComputeDocument Select(ComputeDocument all, WlUrl? url)
    {
        if (url?.Device is not { } device)
        {
            return all;
        }

        ComputeDocument selected = all with { Gpus = [.. all.Gpus.Where(g => g.Name == device)] };
        return selected.Gpus.Count != 0
            ? selected
            : throw new WayleaveException(
                Core.Errno.ENODEV,
                url.ToString(),
                "the host has no such GPU",
                $"it has {string.Join(", ", all.Gpus.Select(g => g.Name))}");
    }

    private static void PrintQueues(CommandContext context, ComputeDocument compute)
    {
        TablePrinter table = new(
            "GPU", ">CONTEXT", "CLIENT", ">QUEUE", "NAME", "ENGINE", "KIND", "PRIORITY", ">JOBS", "STATE");
        foreach (ComputeGpuDocument gpu in compute.Gpus)
        {
            foreach (ComputeContextDocument client in gpu.Contexts)
            {
                foreach (QueueDocument queue in client.Queues)
                {
                    table.Add(
                        gpu.Name,
                        ToText(client.Id),
                        client.Name,
                        ToText(queue.Id),
                        queue.Name,
                        ToWord(queue.Engine),
                        queue.IsRing ? "ring" : "jobs",
                        ToWord(queue.Priority),
                        ToText((ulong)queue.Jobs),
                        queue.Error is { } error ? $"{ToWord(queue.State)} ({error})" : ToWord(queue.State));
                }
            }
        }

        table.WriteTo(context.Out);
        foreach (ComputeGpuDocument gpu in compute.Gpus)
        {
            foreach (string hang in gpu.Hangs)
            {
                context.Out.WriteLine($"{gpu.Name}: hung and was stopped: {hang}");
            }

            if (gpu.Failure is { } failure)
            {
                context.Out.WriteLine($"{gpu.Name}: failed: {failure}");
            }
        }
    }

    private static void PrintJobs(CommandContext context, ComputeDocument compute)
    {
        TablePrinter table = new(">JOB", "GPU", ">CONTEXT", "QUEUE", "STATE", "AFTER", "SIGNALS", "ERROR");
        foreach (ComputeGpuDocument gpu in compute.Gpus)
        {
            foreach (ComputeContextDocument client in gpu.Contexts)
            {
                foreach (JobDocument job in client.Jobs)
                {
                    table.Add(
                        ToText(job.Id),
                        gpu.Name,
                        ToText(client.Id),
                        job.Queue,
                        ToWord(job.State),
                        job.After is { } after ? string.Join(",", after) : "-",
                        job.Signal ?? "-",
                        job.Error ?? "-");
                }
            }
        }

        table.WriteTo(context.Out);
    }

    private static string ToText(ulong number) => number.ToString(CultureInfo.InvariantCulture);

    internal static string ToWord<T>(T value)
        where T : struct, Enum => JsonNamingPolicy.SnakeCaseLower.ConvertName(value.ToString());
}
