using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Core.Buffers;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave netrecv --queue N --to gpu0[/NAME]</c>: a TCP connection into device memory; with <c>--http</c>,
/// uploads until Ctrl-C, which is its normal end then.
/// </summary>
internal static class NetRecvCommand
{
    private const int DefaultPort = 7480;

    public static Command Create()
    {
        Option<NetAddress?> listen = new("--listen")
        {
            Description = "Where senders connect to: ADDRESS:PORT, or :PORT for each address (default :7480)",
            HelpName = "ADDR:PORT",
            CustomParser = result => NetAddress.Read(result, "--listen", needsAddress: false),
        };
        Option<int> queue = new("--queue") { Description = "The receive queue to bind and steer to", Required = true };
        Option<string> to = new("--to")
        {
            Description = "The device; with a name, the stream becomes an object of that name",
            HelpName = "DEVICE[/NAME]",
            Required = true,
        };
        Option<long?> size = Parsing.SizeOption("--size", "Of that object: the stream must be exactly so long");
        Option<bool> http = new("--http") { Description = "Take uploads: curl -T FILE http://ADDR:PORT/NAME" };
        Option<bool> revocable = new("--revocable")
        {
            Description = "Bind memory that its owner can take back from the NIC, which Linux does not have",
        };
        Option<bool> isStatic = new("--static")
        {
            Description = "Bind as Linux does, for as long as it takes (default for memory of a GPU)",
        };
        Option<string?> nic = new("--nic") { Description = "Which NIC (default: that of the address, or the first)" };
        Option<long?> buffer = Parsing.SizeOption("--buffer", "Memory that is bound to the queue (default 64MiB)");
        Option<string?> bufferName = new("--buffer-name") { Description = "Its name (default NIC-rxQUEUE)" };
        Option<long?> chunk = Parsing.SizeOption("--chunk", "In which it comes back: a power of two (default 4KiB)");
        Option<TimeSpan?> stall = Parsing.DurationOption(
            "--stall-timeout", "Fail when nothing comes for so long (default 30s with --http, else never)");
        Command command = new("netrecv", "Receive a TCP connection into device memory")
        {
            listen,
            queue,
            to,
            size,
            http,
            revocable,
            isStatic,
            nic,
            buffer,
            bufferName,
            chunk,
            stall,
        };
        command.AddClientOptions();
        command.SetAction((parsed, cancellation) =>
        {
            NetAddress address = parsed.GetValue(listen) ?? new NetAddress(null, DefaultPort);
            (string device, string? name) = Split(parsed.GetValue(to)!);
            bool isHttp = parsed.GetValue(http);
            if (isHttp && name is not null)
            {
                throw new UsageException($"--to {device}/{name}: with --http each request names its own object");
            }

            ReceiveDocument receive = new()
            {
                Queue = parsed.GetValue(queue),
                Device = device,
                Name = name,
                SizeBytes = (ulong?)parsed.GetValue(size),
                Address = address.Address,
                Port = address.Port,
                Http = isHttp,
                Kind = (parsed.GetValue(revocable), parsed.GetValue(isStatic)) switch
                {
                    (true, true) => throw new UsageException("--revocable and --static exclude each other"),
                    (true, false) => ImporterKind.PinnedRevocable,
                    (false, true) => ImporterKind.Static,
                    _ => null,
                },
                BufferName = parsed.GetValue(bufferName),
                StallTimeoutMs = ToMilliseconds(parsed.GetValue(stall)),
            };
            if (name is not null && receive.SizeBytes is null)
            {
                throw new UsageException($"--to {device}/{name}: say how long the stream will be: --size");
            }

            receive = parsed.GetValue(buffer) is { } bytes ? receive with { BufferBytes = (ulong)bytes } : receive;
            receive = parsed.GetValue(chunk) is { } unit
                ? receive with { ChunkBytes = unit <= int.MaxValue ? (int)unit : throw TooLarge(unit) }
                : receive;
            return RunAsync(
                new CommandContext(parsed), parsed.ReadClientOptions(), parsed.GetValue(nic), receive, cancellation);
        });
        return command;
    }

    /// <summary>The NIC that was named, else that of an address, else the first.</summary>
    /// <exception cref="WayleaveException">ENODEV: the host has none, or none of that name or address.</exception>
    internal static async Task<string> ChooseNicAsync(
        ControlClient client, string? name, string? address, CancellationToken cancellation)
    {
        if (name is not null)
        {
            return name;
        }

        DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
        IReadOnlyList<EthernetDocument> nics = devices.Ethernets;
        EthernetDocument? chosen = nics.FirstOrDefault(e => e.Addresses.Any(a => a.Split('/')[0] == address));
        chosen ??= nics.Count > 0 ? nics[0] : null;
        return chosen?.Name
            ?? throw new WayleaveException(
                Core.Errno.ENODEV,
                $"find a NIC of {client.HostName}",
                "the host has no Ethernet NIC",
                "give it one: \"ethernets\" in its configuration");
    }

    private static async Task<int> RunAsync(
        CommandContext context,
        ControlClientOptions options,
        string? nic,
        ReceiveDocument receive,
        CancellationToken cancellation)
    {
        using ControlClient client = ControlClient.Open(null, options);
        string chosen = await ChooseNicAsync(client, nic, receive.Address, cancellation).ConfigureAwait(false);
        using ProgressBar progress = context.StartProgress(chosen, (long)(receive.SizeBytes ?? 0));
        await using HeldNet held = await client
            .ReceiveAsync(chosen, receive, line => Show(context, progress, line), cancellation).ConfigureAwait(false);
        Announce(context, held.First);
        Task first = await Task
            .WhenAny(held.Completion, Task.Delay(Timeout.Infinite, cancellation)).ConfigureAwait(false);
        if (first != held.Completion)
        {
            if (receive.Http)
            {
                return ExitCode.Done;
            }

            cancellation.ThrowIfCancellationRequested();
        }

        NetEventDocument last = await held.Completion.ConfigureAwait(false);
        if (context.IsJson)
        {
            context.WriteJson(last, ControlJson.Default.NetEventDocument);
        }

        return ExitCode.Done;
    }

    private static void Announce(CommandContext context, NetEventDocument line)
    {
        if (context.IsJson)
        {
            context.WriteJson(line, ControlJson.Default.NetEventDocument);
            context.Out.Flush();
            return;
        }

        ListeningDocument listening = line.Listening!;
        string addresses = string.Join(", ", listening.Addresses);
        context.Error.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"listening on {addresses} port {listening.Port}: queue {listening.Queue} of {listening.Nic} -> "
                + $"{listening.Buffer}, {ByteSize.Format(listening.BufferBytes)} in chunks of "
                + $"{ByteSize.ToText(listening.ChunkBytes)}, {listening.Kind}, {listening.Route}"));
    }

    private static void Show(CommandContext context, ProgressBar progress, NetEventDocument line)
    {
        progress.Report(line.Bytes);
        if (line.Event != NetEventKind.Progress)
        {
            progress.WriteAbove(() => Print(context, line));
        }
    }

    private static void Print(CommandContext context, NetEventDocument line)
    {
        if (context.IsJson)
        {
            context.WriteJson(line, ControlJson.Default.NetEventDocument);
        }
        else if (line.Received is { } received)
        {
            context.Out.WriteLine(string.Create(
                CultureInfo.InvariantCulture,
                $"{received.Peer}{(received.Target is { } o ? $" -> {o}" : "")}: {ByteSize.Format(received.Bytes)} in "
                    + $"{Durations.Format(TimeSpan.FromMicroseconds(received.ElapsedUs))}, "
                    + $"{ByteSize.Format((ulong)received.BytesPerS)}/s, {received.Tokens} tokens, "
                    + $"{ByteSize.Format(received.LinearBytes)} linear, "
                    + $"{ByteSize.Format(received.StagedBytes)} staged"));
            context.Out.WriteLine($"sha256 {received.Sha256}");
        }
        else if (line.Refused is { } refused)
        {
            string status = refused.Status == 0 ? "broke off" : $"refused with {refused.Status}";
            new PlainTextWriter(context.Error).WriteLine($"{refused.Peer}: {status}: {refused.Reason}");
        }

        context.Out.Flush();
    }

    private static (string Device, string? Name) Split(string to)
    {
        string[] parts = to.Split('/');
        string name = parts.Length == 2 ? parts[1] : "x";
        if (parts.Length > 2 || !WlUrl.TryParseObject($"wl://localhost/{parts[0]}/{name}", out _, out string problem))
        {
            throw new UsageException($"--to: '{to}' is not DEVICE or DEVICE/NAME");
        }

        return (parts[0], parts.Length == 2 ? parts[1] : null);
    }

    private static UsageException TooLarge(long bytes) => new($"--chunk: {bytes} bytes are too many");

    private static int? ToMilliseconds(TimeSpan? stall) => stall is not { } limit ? null
        : limit == Timeout.InfiniteTimeSpan ? -1
        : (int)Math.Min(Math.Ceiling(limit.TotalMilliseconds), int.MaxValue);
}
