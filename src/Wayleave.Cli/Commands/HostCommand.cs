using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Core.Checking;
using Wayleave.Devices.Rdma;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Wayleave.Host.Service;
using Wayleave.Host.Tracing;
using Wayleave.Host.Transfers;

namespace Wayleave.Cli.Commands;

/// <summary><c>wayleave host</c>: runs a host until Ctrl-C or SIGTERM, which is its normal end.</summary>
internal static class HostCommand
{
    public static Command Create()
    {
        Command command = new("host", "Run a host: its devices, and the server by which others use them");
        HostOptions.AddTo(command);
        Option<string?> trace =
            new("--trace") { Description = "At the end write the host's events as a Chrome trace", HelpName = "FILE" };
        Option<bool> untilEof =
            new("--until-eof") { Description = "Also end when standard input closes: with the parent" };
        Option<TimeSpan?> drain = Parsing.DurationOption(
            "--drain", "When asked to stop, take nothing new and wait so long for what was begun; 0s unless said");
        Option<string?> breakName = BreakNames.Option();
        Option<FaultOptions?> faults = Parsing.FaultsOption();
        command.Add(trace);
        command.Add(untilEof);
        command.Add(drain);
        command.Add(breakName);
        Option<string?> pcap = Parsing.PcapOption();
        command.Add(faults);
        command.Add(pcap);
        command.SetAction((parsed, cancellation) => RunAsync(
            new CommandContext(parsed),
            HostOptions.Load(parsed),
            new HostRun(
                parsed.GetValue(trace),
                parsed.GetValue(untilEof),
                parsed.GetValue(drain) ?? TimeSpan.Zero,
                parsed.GetValue(breakName),
                parsed.GetValue(faults),
                parsed.GetValue(pcap)),
            cancellation));
        return command;
    }

    private sealed record HostRun(
        string? TraceFile, bool UntilEof, TimeSpan Drain, string? Break, FaultOptions? Faults, string? PcapFile);

    private static async Task<int> RunAsync(
        CommandContext context, LoadedConfiguration loaded, HostRun run, CancellationToken cancellation)
    {
        using ServiceManager manager = ServiceManager.Open(Environment.GetEnvironmentVariable);

        // Made before the host runs: a file that cannot be written is told now.
        using WholeFile? traceFile = run.TraceFile is null ? null : WholeFile.Create(run.TraceFile);
        ChromeTrace? trace = run.TraceFile is null ? null : new ChromeTrace($"host {loaded.Config.Name}");
        using PcapFile? capture = Parsing.Capture(run.PcapFile);
        WayleaveHostOptions hostOptions = new()
        {
            Trace = trace,
            Tap = capture is null ? null : capture.Of,
            Defences = BreakNames.Of(run.Break),
            Faults = run.Faults,
        };
        await using WayleaveHost host = await WayleaveHost.StartAsync(loaded.Config, hostOptions).ConfigureAwait(false);
        ControlListenerOptions options = new() { Log = context.Error };
        await using ControlServer server = await ControlServer
            .StartAsync(host, options, cancellation).ConfigureAwait(false);
        using BrokerServer? broker = BrokerServer.Start(host, Environment.GetEnvironmentVariable);
        Announce(context, host, server, broker);
        manager.NotifyReady($"{host.Config.Name} on {server.EndPoint}");
        manager.StartWatchdog(() => host.Context.Enter().Dispose()); // a lock that nobody gives back is no sign of life
        TaskCompletionSource stop = new(TaskCreationOptions.RunContinuationsAsynchronously);
        await using (cancellation.Register(stop.SetResult).ConfigureAwait(false))
        {
            Task eof = run.UntilEof ? ReadToEndAsync() : Task.Delay(Timeout.Infinite, cancellation);
            await Task.WhenAny(stop.Task, eof).ConfigureAwait(false);
        }

        manager.NotifyStopping("stopping");
        if (run.Drain > TimeSpan.Zero && server.Running + (broker?.Running ?? 0) > 0)
        {
            await DrainAsync(context, server, broker, manager, run.Drain).ConfigureAwait(false);
        }

        foreach (Violation violation in host.GetViolations())
        {
            context.Error.WriteLine($"broken contract: {violation}");
        }

        if (trace is not null)
        {
            WriteTrace(traceFile!, trace);
        }

        return ExitCode.Done;
    }

    private static async Task DrainAsync(
        CommandContext context, ControlServer server, BrokerServer? broker, ServiceManager manager, TimeSpan max)
    {
        string what = $"draining: {server.Running + (broker?.Running ?? 0)} under way, at most {Durations.Format(max)}";
        Task<bool[]> draining = Task.WhenAll( // who hears of it finds it so
            server.DrainAsync(max), broker?.DrainAsync(max) ?? Task.FromResult(true));
        context.Error.WriteLine($"wayleave: {what}");
        manager.NotifyStopping(what);
        bool[] drained = await draining.ConfigureAwait(false);
        if (!Array.TrueForAll(drained, d => d))
        {
            long left = server.Running + (broker?.Running ?? 0);
            context.Error.WriteLine($"wayleave: not drained: {left} ended by the host");
        }
    }

    private static async Task ReadToEndAsync()
    {
        using Stream input = Console.OpenStandardInput();
        byte[] buffer = new byte[256];
        while (await input.ReadAsync(buffer).ConfigureAwait(false) > 0)
        {
            // What is said here means nothing; that it ends does.
        }
    }

    private static void WriteTrace(WholeFile file, ChromeTrace trace)
    {
        using (Stream stream = file.OpenStream())
        {
            using Utf8JsonWriter writer = new(stream);
            writer.WriteStartArray();
            trace.WriteTo(writer, processId: 2);
            writer.WriteEndArray();
        }

        file.Publish();
    }

    /// <summary>One line when everything listens, for people and for whoever started this process.</summary>
    private static void Announce(CommandContext context, WayleaveHost host, ControlServer server, BrokerServer? broker)
    {
        WlUrl url = WlUrl.Create(server.EndPoint.Address.ToString(), server.EndPoint.Port);
        if (context.IsJson)
        {
            ReadyDocument ready = new()
            {
                Name = host.Config.Name,
                Url = url.ToString(),
                Address = server.EndPoint.Address.ToString(),
                ControlPort = server.EndPoint.Port,
                Socket = server.SocketPath,
                Broker = broker?.SocketPath,
                TokenFile = server.TokenFile,
                ProcessId = Environment.ProcessId,
            };
            context.WriteJson(ready, ReadyJson.Default.ReadyDocument);
        }
        else
        {
            string token = server.TokenFile is { } file ? $"token in {file}" : "shared token";
            context.Out.WriteLine(
                $"host {host.Config.Name} ready: {url}, control port {server.EndPoint.Port}, {token}");
        }

        context.Out.Flush();
    }
}

/// <summary>What <c>wayleave host --json</c> prints once everything listens.</summary>
internal sealed record ReadyDocument
{
    public string Schema { get; init; } = "wayleave.ready.v1";

    public required string Name { get; init; }

    public required string Url { get; init; }

    public required string Address { get; init; }

    public required int ControlPort { get; init; }

    public string? Socket { get; init; }

    /// <summary>Where programs connect that share buffers by descriptor.</summary>
    public string? Broker { get; init; }

    public string? TokenFile { get; init; }

    public required int ProcessId { get; init; }
}

[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(ReadyDocument))]
internal sealed partial class ReadyJson : JsonSerializerContext;
