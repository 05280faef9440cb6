using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave unplug DEVICE</c>: pulls a device out of a running host, whatever is in flight. Exit 1 when memory is
/// left that nobody can prove to be unused.
/// </summary>
internal static class UnplugCommand
{
    private static readonly TimeSpan s_timeoutMax = TimeSpan.FromHours(1);

    public static Command Create()
    {
        Argument<string> device = new("DEVICE") { Description = "A device of the host, by name" };
        Argument<WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<bool> surprise = new("--surprise")
        {
            Description = "Without warning: nothing answers first, and then everybody learns of it",
        };
        Option<TimeSpan?> timeout = Parsing.DurationOption(
            "--timeout", "How long to wait for proofs and for what is under way (default 5s)");
        Option<bool> explain = new("--explain") { Description = "Tell for each object what happened, step by step" };
        Command command = new("unplug", "Pull a device out of a running host, and prove that its memory is unused")
        {
            device,
            url,
            surprise,
            timeout,
            explain,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            UnplugDeviceDocument unplug = new() { Surprise = parsed.GetValue(surprise) };
            if (parsed.GetValue(timeout) is { } limit)
            {
                unplug.TimeoutMs = limit <= s_timeoutMax
                    ? (int)Math.Ceiling(limit.TotalMilliseconds)
                    : throw new UsageException($"--timeout: at most {Durations.Format(s_timeoutMax)}");
            }

            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            UnpluggedDocument result = await client
                .UnplugAsync(parsed.GetValue(device)!, unplug, cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), result, parsed.GetValue(explain));
            return result.Late.Count == 0 ? ExitCode.Done : ExitCode.Failed;
        });
        return command;
    }

    private static void Print(CommandContext context, UnpluggedDocument result, bool isExplained)
    {
        if (context.IsJson)
        {
            context.WriteJson(result, ControlJson.Default.UnpluggedDocument);
        }
        else
        {
            string how = result.Surprise ? "pulled out by surprise" : "pulled out";
            string elapsed = Durations.Format(TimeSpan.FromMicroseconds(result.ElapsedUs));
            context.Out.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{result.Device}: {how} in {elapsed}; {Count(result.Proofs.Count, "object")} taken back, "
                    + $"{Count(result.Leases, "lease")} and {Count(result.Transfers, "transfer")} ended"));
            foreach (ProofDocument proof in result.Proofs)
            {
                if (isExplained)
                {
                    ProofStory.Write(proof, context.Out);
                }
                else
                {
                    context.Out.WriteLine(
                        $"  {proof.Buffer}: {proof.Grade}, {Count(proof.Importers.Count, "importer")}");
                }
            }
        }

        foreach (string late in result.Late)
        {
            context.Error.WriteLine($"wayleave: unplug {result.Device}: not let go yet, kept in quarantine: {late}");
        }
    }

    private static string Count(int count, string noun) =>
        string.Create(CultureInfo.InvariantCulture, $"{count} {noun}{(count == 1 ? "" : "s")}");
}
