using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave netsend FILE|gpu0/NAME ADDR:PORT</c>: sends over TCP from device memory. A file is read into device
/// memory by a drive of the host first.
/// </summary>
internal static class NetSendCommand
{
    public static Command Create()
    {
        Argument<string> source = new("SOURCE") { Description = "A file, or DEVICE/NAME of the host that runs here" };
        Argument<NetAddress?> target = new("ADDR:PORT")
        {
            Description = "Where to",
            CustomParser = result => NetAddress.Read(result, "ADDR:PORT", needsAddress: true),
        };
        Option<string?> nic = new("--nic") { Description = "Which NIC (default: the first)" };
        Option<string> via = new("--via")
        {
            Description = "The device whose memory a file is sent from",
            DefaultValueFactory = _ => "gpu0",
            HelpName = "DEVICE",
        };
        Command command = new("netsend", "Send an object or a file over TCP from device memory")
        {
            source,
            target,
            nic,
            via,
        };
        command.AddClientOptions();
        command.SetAction((parsed, cancellation) => RunAsync(
            new CommandContext(parsed),
            parsed.ReadClientOptions(),
            parsed.GetValue(nic),
            ToDocument(parsed.GetValue(source)!, parsed.GetValue(target)!, parsed.GetValue(via)!),
            cancellation));
        return command;
    }

    private static SendDocument ToDocument(string source, NetAddress target, string via)
    {
        SendDocument send = new() { Device = via, Address = target.Address!, Port = target.Port };
        if (!DriveCopyCommand.IsObject(source))
        {
            return send with { Path = Path.GetFullPath(source) };
        }

        string[] parts = source.Split('/');
        if (!WlUrl.TryParseObject($"wl://localhost/{parts[0]}/{parts[1]}", out _, out string problem))
        {
            throw new UsageException($"{source}: {problem}");
        }

        return send with { Device = parts[0], Name = parts[1] };
    }

    private static async Task<int> RunAsync(
        CommandContext context,
        ControlClientOptions options,
        string? nic,
        SendDocument send,
        CancellationToken cancellation)
    {
        using ControlClient client = ControlClient.Open(null, options);
        string chosen = await NetRecvCommand
            .ChooseNicAsync(client, nic, address: null, cancellation).ConfigureAwait(false);
        using ProgressBar progress = context.StartProgress(send.Path ?? $"{send.Device}/{send.Name}", 0);
        await using HeldNet held = await client
            .SendAsync(chosen, send, line => progress.Report(line.Bytes), cancellation).ConfigureAwait(false);
        NetEventDocument last = await held.Completion.WaitAsync(cancellation).ConfigureAwait(false);
        if (context.IsJson)
        {
            context.WriteJson(last, ControlJson.Default.NetEventDocument);
            return ExitCode.Done;
        }

        SentDocument sent = last.Sent!;
        context.Out.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{sent.Source} -> {sent.Peer}: {ByteSize.Format(sent.Bytes)} in "
                + $"{Durations.Format(TimeSpan.FromMicroseconds(sent.ElapsedUs))}, "
                + $"{ByteSize.Format((ulong)sent.BytesPerS)}/s, {ByteSize.Format(sent.StagedBytes)} staged"));
        context.Out.WriteLine($"sha256 {sent.Sha256}");
        return ExitCode.Done;
    }
}
