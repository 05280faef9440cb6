using System.CommandLine;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Tracing;
using Wayleave.Host.Transfers;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave cp SRC DST</c>: a file into a named object of another host's GPU, or the way back, or from the one host
/// to the other. For a file this process is a host of its own for that long, with a GPU just large enough and a NIC on
/// the address that reaches the other host.
/// </summary>
internal static class CpCommand
{
    // Less, and a busy machine that moves an object once would look like one that never gives it back.
    private static readonly TimeSpan s_stallTimeoutMin = TimeSpan.FromMilliseconds(100);

    public static Command Create()
    {
        Argument<string> source = new("SRC")
        {
            Description = "A file, wl://HOST[:PORT]/DEVICE/NAME, or DEVICE/NAME of the host that runs here",
        };
        Argument<string> target = new("DST")
        {
            Description = "A file, wl://HOST[:PORT]/DEVICE/NAME, or DEVICE[/NAME] of the host that runs here",
        };
        Option<TimeSpan?> stall = Parsing.DurationOption(
            "--stall-timeout", "Give up when no byte moves for so long (default 30s, at least 100ms)");
        Option<string?> sourceToken = TokenOption("--src-token-file", "The file with the token of the host of SRC");
        Option<string?> targetToken = TokenOption("--dst-token-file", "The file with the token of the host of DST");
        Option<int?> sourcePort = PortOption("--src-port", "The port of the NIC of SRC's host (1, 2, ...) to leave by");
        Option<int?> targetPort = PortOption("--dst-port", "The port of the NIC of DST's host to come by");
        Option<bool> denyStaging = new("--deny-staging")
        {
            Description = "Between a drive and a device: fail rather than pass through system memory",
        };
        Option<bool> explain = new("--explain") { Description = "Say by which way the bytes went at each end" };
        Option<string?> pcap = Parsing.PcapOption();
        Command command =
            new("cp", "Copy a file into the device memory of a host, or back, or from one host straight to another")
            {
                source, target, stall, sourceToken, targetToken, sourcePort, targetPort, denyStaging, explain,
                pcap,
            };
        command.AddClientOptions();
        command.SetAction((parsed, cancellation) =>
        {
            ControlClientOptions options = parsed.ReadClientOptions();
            CopyRequest request = new(
                parsed.GetValue(source)!,
                parsed.GetValue(target)!,
                options with { TokenFile = parsed.GetValue(sourceToken) ?? options.TokenFile },
                options with { TokenFile = parsed.GetValue(targetToken) ?? options.TokenFile },
                ReadPort(parsed, sourcePort, "SRC", source),
                ReadPort(parsed, targetPort, "DST", target),
                ReadStallTimeout(parsed.GetValue(stall)),
                parsed.GetValue(denyStaging),
                parsed.GetValue(explain) ? new CopyExplanation() : null,
                parsed.GetValue(pcap));
            return RunAsync(new CommandContext(parsed), request, cancellation);
        });
        return command;
    }

    private static Option<string?> TokenOption(string name, string description) =>
        new(name) { Description = description, HelpName = "FILE" };

    private static Option<int?> PortOption(string name, string description) =>
        new(name) { Description = description, HelpName = "N" };

    // A file has no NIC, and the host that is made for it has one port.
    private static int? ReadPort(ParseResult parsed, Option<int?> option, string name, Argument<string> end)
    {
        int? port = parsed.GetValue(option);
        return port is null || WlUrl.HasScheme(parsed.GetValue(end)!)
            ? port
            : throw new UsageException(
                $"{option.Name} names a port of a host's NIC, and {name} is not wl://HOST/DEVICE/NAME");
    }

    /// <summary>What the user typed.</summary>
    private sealed record CopyRequest(
        string Source,
        string Target,
        ControlClientOptions SourceHost,
        ControlClientOptions TargetHost,
        int? SourcePort,
        int? TargetPort,
        TimeSpan StallMax,
        bool DeniesStaging,
        CopyExplanation? Explanation,
        string? PcapFile);

    private static async Task<int> RunAsync(
        CommandContext context, CopyRequest request, CancellationToken cancellation)
    {
        bool isFromHost = WlUrl.HasScheme(request.Source), isToHost = WlUrl.HasScheme(request.Target);
        if (request.PcapFile is not null && isFromHost == isToHost)
        {
            throw new UsageException(
                "--pcap: this process has a port only while it copies between a file and a host; give it to the host");
        }

        if (!isFromHost && !isToHost
            && (DriveCopyCommand.IsDevice(request.Target) || DriveCopyCommand.IsObject(request.Source)))
        {
            DriveCopyRequest byDrive = new(
                request.Source,
                request.Target,
                request.DeniesStaging,
                request.StallMax,
                request.TargetHost,
                request.Explanation);
            return await DriveCopyCommand.RunAsync(context, byDrive, cancellation).ConfigureAwait(false);
        }

        if (!isFromHost && !isToHost)
        {
            throw new UsageException(
                "cp copies to, from or between objects of hosts; one of the two must be wl://HOST/DEVICE/NAME");
        }

        CopyResult result = isFromHost && isToHost
            ? await CopyBetweenHostsAsync(context, request, cancellation).ConfigureAwait(false)
            : await CopyFileAsync(context, request, isToHost, cancellation).ConfigureAwait(false);
        if (context.IsJson)
        {
            CopyDocument document = new()
            {
                Source = request.Source,
                Target = request.Target,
                Bytes = result.Bytes,
                Sha256 = result.Sha256,
                ElapsedUs = (long)result.Elapsed.TotalMicroseconds,
                BytesPerS = result.Bytes / result.Elapsed.TotalSeconds,
                Explanation = request.Explanation?.ToJson(),
                StagingBytes = result.Stored?.StagingBytes,
                MemoryBuffer = result.Stored is { } stored
                    ? JsonSerializer.SerializeToElement(stored.MemoryBuffer, ControlJson.Default.ProofDocument)
                    : null,
            };
            context.WriteJson(document, CopyJson.Default.CopyDocument);
        }
        else
        {
            request.Explanation?.Write(context.Out);
        }

        return ExitCode.Done;
    }

    /// <summary>
    /// This process is a host of its own for that long, whose GPU and NIC are one end of the transfer.
    /// </summary>
    private static async Task<CopyResult> CopyFileAsync(
        CommandContext context, CopyRequest request, bool isPush, CancellationToken cancellation)
    {
        WlUrl url = ParseObject(isPush ? request.Target : request.Source);
        string path = isPush ? request.Source : request.Target;
        if (!isPush && Directory.Exists(path))
        {
            path = Path.Combine(path, url.Name!);
        }

        using ControlClient client = ControlClient.Open(url, isPush ? request.TargetHost : request.SourceHost);
        if (isPush && await IsDriveAsync(client, url, cancellation).ConfigureAwait(false))
        {
            return await StoreAsync(context, request, client, path, url, cancellation).ConfigureAwait(false);
        }

        ulong length = await LengthAsync(client, isPush, path, url, cancellation).ConfigureAwait(false);
        int? port = isPush ? request.TargetPort : request.SourcePort;
        string peer = await AddressOfAsync(client, url, port, cancellation).ConfigureAwait(false);
        using PcapFile? capture = Parsing.Capture(request.PcapFile);
        WayleaveHost host = await WayleaveHost.StartAsync(ConfigFor(peer, length), Tapped(capture))
            .ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            using ProgressBar progress = context.StartProgress(url.Name!, (long)length);
            RemoteCopy copy = new(host, client)
            {
                Started = progress.Restart, // reading the file is not part of the rate
                Progress = (bytes, _) => progress.Report((long)bytes),
                StallMax = request.StallMax,
                RemotePort = port,
            };
            CopyResult result = isPush
                ? await copy.PushAsync(path, url, cancellation).ConfigureAwait(false)
                : await copy.PullAsync(url, path, cancellation).ConfigureAwait(false);
            if (request.Explanation is { } explanation)
            {
                explanation.AddOwn(host);
                await explanation.AddRemoteAsync(client, url.Device!, cancellation).ConfigureAwait(false);
            }

            return result;
        }
    }

    private static WayleaveHostOptions Tapped(PcapFile? capture) =>
        new() { Tap = capture is null ? null : capture.Of };

    private static async Task<bool> IsDriveAsync(ControlClient client, WlUrl url, CancellationToken cancellation)
    {
        DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
        return devices.Nvmes.Any(n => n.Name == url.Device);
    }

    /// <summary>The file goes into the drive's memory buffer by RDMA, and from there the drive writes it.</summary>
    private static async Task<CopyResult> StoreAsync(
        CommandContext context,
        CopyRequest request,
        ControlClient client,
        string path,
        WlUrl url,
        CancellationToken cancellation)
    {
        LocalFile.OpenSource(path, out ulong length).Dispose();
        string peer = await AddressOfAsync(client, url, request.TargetPort, cancellation).ConfigureAwait(false);
        HostConfig config = ConfigFor(peer, RemoteStore.WindowBytes(length));
        using PcapFile? capture = Parsing.Capture(request.PcapFile);
        WayleaveHost host = await WayleaveHost.StartAsync(config, Tapped(capture)).ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            using ProgressBar progress = context.StartProgress(url.Name!, (long)length);
            RemoteStore store = new(host, client)
            {
                Progress = (bytes, _) => progress.Report((long)bytes),
                StallMax = request.StallMax,
                RemotePort = request.TargetPort,
            };
            (StoredFileDocument stored, TimeSpan elapsed) = await store
                .PushAsync(path, url, cancellation).ConfigureAwait(false);
            if (!context.IsJson)
            {
                context.Out.WriteLine(
                    $"{url.Device}/{url.Name}: {ByteSize.Format(stored.Bytes)} through the memory buffer of "
                    + $"{stored.Drive}, {ByteSize.Format(stored.StagingBytes)} staged; "
                    + $"taken back: {stored.MemoryBuffer.Grade}");
            }

            return new CopyResult(stored.Bytes, stored.Sha256, elapsed) { Stored = stored };
        }
    }

    /// <summary>The bytes go from the one host to the other; this process only introduces them.</summary>
    private static async Task<CopyResult> CopyBetweenHostsAsync(
        CommandContext context, CopyRequest request, CancellationToken cancellation)
    {
        WlUrl from = ParseObject(request.Source), to = ParseObject(request.Target);
        if (request.SourceHost.SocketPath is not null)
        {
            throw new UsageException("--socket names one host, and SRC and DST are on two; leave it out");
        }

        if (from == to)
        {
            throw new UsageException($"SRC and DST are the same object, {from}");
        }

        using ControlClient source = ControlClient.Open(from, request.SourceHost);
        using ControlClient target = ControlClient.Open(to, request.TargetHost);
        ObjectDocument found = await source
            .GetObjectAsync(from.Device!, from.Name!, cancellation).ConfigureAwait(false);
        using ProgressBar progress = context.StartProgress(to.Name!, (long)found.SizeBytes);
        DirectCopy copy = new(source, target)
        {
            Progress = (bytes, _) => progress.Report((long)bytes),
            StallMax = request.StallMax,
            SourcePort = request.SourcePort,
            TargetPort = request.TargetPort,
        };
        CopyResult result = await copy.CopyAsync(from, to, cancellation).ConfigureAwait(false);
        if (request.Explanation is { } explanation)
        {
            await explanation.AddRemoteAsync(source, from.Device!, cancellation).ConfigureAwait(false);
            await explanation.AddRemoteAsync(target, to.Device!, cancellation).ConfigureAwait(false);
        }

        return result;
    }

    private static TimeSpan ReadStallTimeout(TimeSpan? typed)
    {
        TimeSpan value = typed ?? BulkTransfer.DefaultStallMax;
        return value >= s_stallTimeoutMin
            ? value
            : throw new UsageException(
                $"--stall-timeout: {Durations.Format(value)} is shorter than a busy peer may need; "
                + $"give at least {Durations.Format(s_stallTimeoutMin)}");
    }

    private static WlUrl ParseObject(string text) =>
        WlUrl.TryParseObject(text, out WlUrl? url, out string problem)
            ? url!
            : throw new UsageException($"{text}: {problem}");

    private static async Task<ulong> LengthAsync(
        ControlClient client, bool isPush, string path, WlUrl url, CancellationToken cancellation)
    {
        if (!isPush)
        {
            return (await client.GetObjectAsync(url.Device!, url.Name!, cancellation).ConfigureAwait(false)).SizeBytes;
        }

        LocalFile.OpenSource(path, out ulong length).Dispose();
        return length <= (ulong)GpuConfig.MemoryBytesMax
            ? length
            : throw new WayleaveException(
                Errno.EFBIG,
                $"read {path}",
                $"it is larger than any GPU, {ByteSize.ToText(GpuConfig.MemoryBytesMax)}",
                "copy it in parts");
    }

    /// <summary>Where the host is reached: as the URL says, or at the address of a port that the user chose.</summary>
    private static async Task<string> AddressOfAsync(
        ControlClient client, WlUrl url, int? port, CancellationToken cancellation)
    {
        if (port is null)
        {
            return url.Host;
        }

        DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
        NicDocument? nic = devices.Nics.Count > 0 ? devices.Nics[0] : null;
        return nic?.Ports.FirstOrDefault(p => p.Number == port)?.Gid
            ?? throw new WayleaveException(
                Errno.EINVAL,
                $"reach {url.Authority}",
                nic is null ? "it has no NIC" : $"{nic.Name} has no port {port}",
                "wayleave devices shows what there is");
    }

    private static HostConfig ConfigFor(string peer, ulong length)
    {
        const long Granule = GpuConfig.GranuleBytes;
        return new HostConfig
        {
            Name = "cp",
            Nvmes = [],
            Gpus =
                [new GpuConfig { VramBytes = ((long)length + Granule - 1) / Granule * Granule, SystemPoolBytes = 0 }],
            Nics = [new NicConfig { Address = AddressTowards(peer), UdpPort = 0 }],
        };
    }

    /// <summary>The address of this machine from which the kernel would reach the host. Sends nothing.</summary>
    private static IPAddress AddressTowards(string host)
    {
        try
        {
            IPAddress remote = Dns.GetHostAddresses(host)[0];
            using Socket probe = new(remote.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
            probe.Connect(remote, NicConfig.DefaultUdpPort);
            return ((IPEndPoint)probe.LocalEndPoint!).Address;
        }
        catch (SocketException e) when (ErrnoMap.ToErrno(e) == Errno.ENXIO)
        {
            throw new WayleaveException(
                Errno.ENXIO, $"find {host}", "no machine has this name", "check the name, or give the address", e);
        }
        catch (SocketException e)
        {
            throw ErrnoMap.ToException(e, $"find {host}", "check the name and the network");
        }
    }
}

/// <summary>What <c>wayleave cp --json</c> prints.</summary>
internal sealed record CopyDocument
{
    public string Schema { get; init; } = "wayleave.cp.v1";

    public required string Source { get; init; }

    public required string Target { get; init; }

    public required ulong Bytes { get; init; }

    public required string Sha256 { get; init; }

    public required long ElapsedUs { get; init; }

    public required double BytesPerS { get; init; }

    /// <summary>Bytes that passed through system memory at the drive; absent for other targets.</summary>
    public ulong? StagingBytes { get; init; }

    /// <summary>The proof that the drive's memory buffer was taken back; absent for other targets.</summary>
    public JsonElement? MemoryBuffer { get; init; }

    /// <summary>A <c>TransferExplanationDocument</c>, with --explain.</summary>
    public JsonElement? Explanation { get; init; }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(CopyDocument))]
internal sealed partial class CopyJson : JsonSerializerContext;
