using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave reset DEVICE</c>: resets a function in the hands of VFIO. Whoever uses its BARs is told to stop first,
/// and the reset waits for that.
/// </summary>
internal static class ResetCommand
{
    public static Command Create()
    {
        Argument<string> device = new("DEVICE") { Description = "A function in the hands of VFIO, or an Ethernet NIC" };
        Argument<Host.WlUrl?> url = Parsing.OptionalUrl("wl://HOST; default: the host that runs here");
        Option<bool> explain = new("--explain") { Description = "Tell for each buffer what happened, step by step" };
        Command command = new("reset", "Reset a function in the hands of VFIO, or the queues of a NIC")
        {
            device,
            url,
            explain,
        };
        command.AddClientOptions();
        command.SetAction(async (parsed, cancellation) =>
        {
            using ControlClient client = parsed.OpenClient(parsed.GetValue(url));
            ResetDocument reset = await client
                .ResetAsync(parsed.GetValue(device)!, cancellation).ConfigureAwait(false);
            Print(new CommandContext(parsed), reset, parsed.GetValue(explain));
            return ExitCode.Done;
        });
        return command;
    }

    private static void Print(CommandContext context, ResetDocument reset, bool isExplained)
    {
        if (context.IsJson)
        {
            context.WriteJson(reset, ControlJson.Default.ResetDocument);
            return;
        }

        string elapsed = Durations.Format(TimeSpan.FromMicroseconds(reset.ElapsedUs));
        if (reset.Queues is { } queues)
        {
            context.Out.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{reset.Device}: reset in {elapsed}, {queues} queues started anew, "
                    + $"{reset.FramesDropped} frames dropped"));
            return;
        }

        string buffers = reset.Proofs.Count == 1 ? "buffer" : "buffers";
        context.Out.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{reset.Device}: reset in {elapsed}, {reset.Proofs.Count} {buffers} taken back and cleared"));
        foreach (ProofDocument proof in reset.Proofs)
        {
            if (isExplained)
            {
                ProofStory.Write(proof, context.Out);
            }
            else
            {
                context.Out.WriteLine(string.Create(
                    CultureInfo.InvariantCulture,
                    $"  {proof.Buffer}: {proof.Grade}, {proof.Importers.Count} importers"));
            }
        }
    }
}
