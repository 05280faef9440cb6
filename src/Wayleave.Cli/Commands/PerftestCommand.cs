using System.CommandLine;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Perftest;
using Wayleave.Host.Tracing;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave perftest</c>: either side of perftest's tools, with memory of a software GPU and no kernel driver.
/// </summary>
internal static class PerftestCommand
{
    public static Command Create() => new("perftest", "Be either side of perftest's tools: ib_write_bw and its kin")
    {
        CreateTest(PerftestVerb.Write, isLatency: false, "RDMA WRITE bandwidth: ib_write_bw"),
        CreateTest(PerftestVerb.Read, isLatency: false, "RDMA READ bandwidth: ib_read_bw"),
        CreateTest(PerftestVerb.Send, isLatency: false, "SEND bandwidth: ib_send_bw"),
        CreateTest(PerftestVerb.Atomic, isLatency: false, "Rate of atomics: ib_atomic_bw"),
        CreateTest(PerftestVerb.Write, isLatency: true, "RDMA WRITE latency: ib_write_lat"),
        CreateTest(PerftestVerb.Read, isLatency: true, "RDMA READ latency: ib_read_lat"),
        CreateTest(PerftestVerb.Send, isLatency: true, "SEND latency: ib_send_lat"),
        CreateTest(PerftestVerb.Atomic, isLatency: true, "Latency of atomics: ib_atomic_lat"),
        CreatePingpong(),
    };

    private static Command CreatePingpong()
    {
        PerftestOptions defaults = new()
        {
            Verb = PerftestVerb.Send,
            SizeBytes = RcPingpong.DefaultSizeBytes,
            Iterations = RcPingpong.DefaultIterations,
            Patience = RcPingpong.DefaultPatience,
        };
        Argument<string?> server = Server();
        Option<string> address = Address();
        Option<int> port = Number("--port", "-p", "Port of the exchange", defaults.Port);
        Option<int> size = Number("--size", "-s", "Bytes of a message", defaults.SizeBytes);
        Option<int> iterations = Number("--iters", "-n", "Messages of each side", defaults.Iterations);
        Option<int> mtu = Number("--mtu", "-m", "Payload of a packet, the peer's too", RcPingpong.DefaultMtuBytes);
        Option<TimeSpan?> patience = Patience(defaults);
        Option<FaultOptions?> faults = Parsing.FaultsOption();
        Option<string?> pcap = Parsing.PcapOption();
        Command command = new("rc-pingpong", "Be either side of rdma-core's ibv_rc_pingpong")
        {
            server, address, port, size, iterations, mtu, patience, faults, pcap,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            IPAddress own = ReadAddress(parsed.GetValue(address)!, "--address");
            int bytes = parsed.GetValue(size);
            if (parsed.GetValue(patience) is { } limit && limit <= TimeSpan.Zero)
            {
                throw new UsageException("--patience must not be zero");
            }

            if (bytes is < 1 or > RcPingpong.SizeMax || parsed.GetValue(iterations) < 1)
            {
                throw new UsageException($"a message has 1 to {RcPingpong.SizeMax} bytes, and there is at least one");
            }

            PerftestOptions options = defaults with
            {
                Server = parsed.GetValue(server) is { } name
                    ? await ResolveAsync(name, own.AddressFamily, cancellation).ConfigureAwait(false) : null,
                Port = ReadPort(parsed.GetValue(port)),
                SizeBytes = bytes,
                Iterations = parsed.GetValue(iterations),
                Patience = parsed.GetValue(patience) ?? defaults.Patience,
            };
            using PcapFile? capture = Parsing.Capture(parsed.GetValue(pcap));
            return await RunPingpongAsync(
                new CommandContext(parsed),
                options,
                ConfigOf(own, parsed.GetValue(mtu), RcPingpong.MemoryBytes),
                new WayleaveHostOptions
                {
                    Faults = parsed.GetValue(faults),
                    Tap = capture is null ? null : capture.Of,
                },
                cancellation).ConfigureAwait(false);
        });
        return command;
    }

    private static async Task<int> RunPingpongAsync(
        CommandContext context,
        PerftestOptions options,
        HostConfig config,
        WayleaveHostOptions hostOptions,
        CancellationToken cancellation)
    {
        WayleaveHost host = await WayleaveHost.StartAsync(config, hostOptions).ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            long start = Stopwatch.GetTimestamp();
            string sha256 = await RcPingpong.RunAsync(
                host,
                options,
                () => context.Error.WriteLine($"waiting for ibv_rc_pingpong at port {options.Port}"),
                cancellation).ConfigureAwait(false);
            TimeSpan time = Stopwatch.GetElapsedTime(start);
            ref readonly RdmaStats stats = ref host.Nics[0].Device.Port.Stats;
            string role = options.IsClient ? "client" : "server";
            if (context.IsJson)
            {
                context.WriteJson(
                    new PingpongDocument(
                        "wayleave.pingpong.v1", role, options.Iterations, options.SizeBytes, time.TotalSeconds, sha256,
                        stats.Retransmits, stats.PacketsDropped),
                    PerftestJson.Default.PingpongDocument);
                return ExitCode.Done;
            }

            context.Out.WriteLine(
                $"{options.Iterations} messages of {options.SizeBytes} bytes there and back in {time.TotalSeconds:F2} s"
                + (options.IsClient ? ", all as they were sent" : $"; sha256 of the last one {sha256}"));
        }

        return ExitCode.Done;
    }

    private static Command CreateTest(PerftestVerb verb, bool isLatency, string description)
    {
        PerftestOptions defaults = PerftestOptions.DefaultsOf(verb, isLatency);
        Argument<string?> server = Server();
        Option<string> address = Address();
        Option<int> port = Number("--port", "-p", "Port of the exchange", defaults.Port);
        Option<int> size = Number("--size", "-s", "Bytes of a message", defaults.SizeBytes);
        Option<int> iterations = Number("--iters", "-n", "Messages of each queue pair", defaults.Iterations);
        Option<double> duration = new("--duration", "-D")
        {
            Description = "Seconds to run for, instead of a number of messages",
            HelpName = "S",
        };
        Option<bool> all = new("--all", "-a") { Description = "Sizes from 2 to 2^23" };
        Option<int> pairs = Number("--qp", "-q", "Queue pairs", defaults.QueuePairs);
        Option<int> mtu = Number("--mtu", "-m", "Payload of a packet; the smaller one of both sides counts", 4096);
        Option<int> depth = Number("--tx-depth", "-t", "Requests in flight per queue pair", defaults.Depth);
        Option<bool> both = new("--bidirectional", "-b") { Description = "Both sides are active" };
        Option<bool> manager = new("--rdma_cm", "-R") { Description = "Connect by rdma_cm" };
        Option<string> atomic = new("--atomic_type", "-A")
        {
            Description = "FETCH_AND_ADD or CMP_AND_SWAP",
            HelpName = "TYPE",
            DefaultValueFactory = _ => "FETCH_AND_ADD",
        };
        atomic.AcceptOnlyFromAmong("FETCH_AND_ADD", "CMP_AND_SWAP");
        Option<int> gid = Number("--gid-index", "-x", "Index of the GID; a device of ours has one", 0);
        Option<string> connection = new("--connection", "-c")
        {
            Description = verb == PerftestVerb.Send ? "RC, UC or UD" : "RC or UC",
            HelpName = "TYPE",
            DefaultValueFactory = _ => "RC",
        };
        connection.AcceptOnlyFromAmong("RC", "UC", "UD");
        Option<bool> frequency = new("--CPU-freq", "-F") { Description = "Taken for perftest's sake, without effect" };
        Option<TimeSpan?> patience = Patience(
            defaults, $"; {defaults.ConnectPatience.TotalSeconds:0}s until it has answered once");
        Option<FaultOptions?> faults = Parsing.FaultsOption();
        Option<string?> pcap = Parsing.PcapOption();
        Command command = new($"{verb.ToString().ToLowerInvariant()}-{(isLatency ? "lat" : "bw")}", description)
        {
            server, address, port, size, iterations, all, mtu, manager, gid, frequency, patience, faults, pcap,
        };
        if (!isLatency)
        {
            command.Add(duration);
            command.Add(pairs);
            command.Add(depth);
            command.Add(both);
        }

        if (verb is PerftestVerb.Write or PerftestVerb.Send)
        {
            command.Add(connection);
        }

        if (verb == PerftestVerb.Atomic)
        {
            command.Add(atomic);
        }

        command.SetAction(async (parsed, cancellation) =>
        {
            if (parsed.GetValue(gid) != 0)
            {
                throw new UsageException("--gid-index: a device of ours has one GID, of index 0");
            }

            QueuePairType type = verb is PerftestVerb.Write or PerftestVerb.Send
                ? ReadConnection(parsed.GetValue(connection)!) : QueuePairType.ReliableConnection;
            bool isWholeMtu = type == QueuePairType.UnreliableDatagram && !isLatency
                && parsed.GetResult(size) is not { Implicit: false };
            IPAddress own = ReadAddress(parsed.GetValue(address)!, "--address");
            PerftestOptions options = defaults with
            {
                Server = parsed.GetValue(server) is { } name
                    ? await ResolveAsync(name, own.AddressFamily, cancellation).ConfigureAwait(false)
                    : null,
                Port = parsed.GetValue(port),
                Connection = type,
                SizeBytes = isWholeMtu ? parsed.GetValue(mtu) : parsed.GetValue(size),
                Iterations = parsed.GetValue(iterations),
                Duration = ReadDuration(isLatency ? 0 : parsed.GetValue(duration)),
                AllSizes = parsed.GetValue(all),
                QueuePairs = isLatency ? 1 : parsed.GetValue(pairs),
                Depth = isLatency ? defaults.Depth : parsed.GetValue(depth),
                IsBidirectional = !isLatency && parsed.GetValue(both),
                UsesConnectionManager = parsed.GetValue(manager),
                ComparesAndSwaps = verb == PerftestVerb.Atomic && parsed.GetValue(atomic) == "CMP_AND_SWAP",
                Patience = parsed.GetValue(patience) ?? defaults.Patience,
                ConnectPatience = parsed.GetValue(patience) ?? defaults.ConnectPatience,
            };
            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            using PcapFile? capture = Parsing.Capture(parsed.GetValue(pcap));
            return await RunAsync(
                new CommandContext(parsed),
                options,
                ConfigOf(own, parsed.GetValue(mtu), PerftestRun.MemoryBytes(options)),
                new WayleaveHostOptions
                {
                    Faults = parsed.GetValue(faults),
                    Tap = capture is null ? null : capture.Of,
                },
                cancellation).ConfigureAwait(false);
        });
        return command;
    }

    private static async Task<int> RunAsync(
        CommandContext context,
        PerftestOptions options,
        HostConfig config,
        WayleaveHostOptions hostOptions,
        CancellationToken cancellation)
    {
        WayleaveHost host = await WayleaveHost.StartAsync(config, hostOptions).ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            PerftestResult result = await PerftestRun.RunAsync(
                host,
                options,
                () => context.Error.WriteLine($"waiting for {options.ToolName} at port {options.Port}"),
                cancellation).ConfigureAwait(false);
            ref readonly RdmaStats stats = ref host.Nics[0].Device.Port.Stats;
            if (context.IsJson)
            {
                context.WriteJson(
                    PerftestDocument.From(options, result, stats), PerftestJson.Default.PerftestDocument);
            }
            else
            {
                PerftestTable.Write(options, result, context.Out);
            }
        }

        return ExitCode.Done;
    }

    private static HostConfig ConfigOf(IPAddress own, int mtu, long memoryBytes) => new()
    {
        Name = "perftest",
        Gpus =
        [
            new GpuConfig { Name = "gpu0", VramBytes = memoryBytes, SystemPoolBytes = 0 },
        ],
        Nvmes = [],
        Nics = [new NicConfig { Address = own, PathMtuBytes = mtu }],
    };

    private static Argument<string?> Server() => new("SERVER")
    {
        Description = "Connect to that address; without it, wait for a client",
        Arity = ArgumentArity.ZeroOrOne,
    };

    private static Option<string> Address() => new("--address", "-d", "--ib-dev")
    {
        Description = "The own address, of an interface that reaches the peer: our devices go by it",
        HelpName = "ADDRESS",
        DefaultValueFactory = _ => "127.0.0.2",
    };

    private static QueuePairType ReadConnection(string name) => name switch
    {
        "UC" => QueuePairType.UnreliableConnection,
        "UD" => QueuePairType.UnreliableDatagram,
        _ => QueuePairType.ReliableConnection,
    };

    private static Option<TimeSpan?> Patience(PerftestOptions defaults, string more = "") => Parsing.DurationOption(
        "--patience", $"How long to wait for a silent peer (default {defaults.Patience.TotalSeconds:0}s{more})");

    private static int ReadPort(int port) => port is > 0 and <= ushort.MaxValue
        ? port
        : throw new UsageException($"--port: 1 to {ushort.MaxValue}, not {port}");

    private static Option<int> Number(string name, string alias, string description, int value) => new(name, alias)
    {
        Description = description,
        HelpName = "N",
        DefaultValueFactory = _ => value,
    };

    private static TimeSpan ReadDuration(double seconds) => seconds is >= 0 and <= 86_400
        ? TimeSpan.FromSeconds(seconds)
        : throw new UsageException($"--duration: 0 to 86400 seconds, not {seconds}");

    private static IPAddress ReadAddress(string text, string option) =>
        IPAddress.TryParse(text, out IPAddress? address)
            ? address
            : throw new UsageException($"{option}: {text} is no IP address");

    private static async Task<IPAddress> ResolveAsync(
        string name, AddressFamily family, CancellationToken cancellation)
    {
        try
        {
            IPAddress[] found = await Dns.GetHostAddressesAsync(name, family, cancellation).ConfigureAwait(false);
            return found.Length > 0 ? found[0] : throw new UsageException($"{name} has no address of our family");
        }
        catch (SocketException e)
        {
            throw new UsageException($"{name}: {e.Message}");
        }
    }
}

/// <summary>What <c>perftest --json</c> prints. Bandwidths are in bytes, times in seconds.</summary>
internal sealed record PerftestDocument(
    string Schema,
    string Tool,
    string Role,
    string PeerVersion,
    string Connection,
    int MtuBytes,
    int QueuePairs,
    bool RdmaCm,
    bool Bidirectional,
    IReadOnlyList<PerftestSize> Results,
    string Bytes,
    string? ReceivedSha256,
    string? SentSha256,
    long? Additions,
    long Retransmits,
    long PacketsDropped)
{
    private const double Mebibyte = 1 << 20;

    public static PerftestDocument From(PerftestOptions options, PerftestResult result, in RdmaStats stats) => new(
        "wayleave.perftest.v1",
        options.ToolName,
        options.IsClient ? "client" : "server",
        result.PeerVersion,
        PerftestTable.NameOf(options.Connection),
        result.MtuBytes,
        options.QueuePairs,
        options.UsesConnectionManager,
        options.IsBidirectional,
        [.. result.Reports.Select((report, i) => SizeOf(result, report, i))],
        result.Bytes.ToString().ToLowerInvariant(),
        result.ReceivedSha256,
        result.SentSha256,
        result.Additions,
        stats.Retransmits,
        stats.PacketsDropped);

    private static PerftestSize SizeOf(PerftestResult result, PerftestReport report, int index)
    {
        PerftestTimes? times = index < result.Times.Count ? result.Times[index] : null;
        return new PerftestSize(
            report.SizeBytes,
            report.Operations,
            times is null ? report.MebibytesPerS * Mebibyte : null,
            times is null ? report.PeakMebibytesPerS * Mebibyte : null,
            times is null ? report.MillionMessagesPerS * 1e6 : null,
            index < result.PeerReports.Count ? result.PeerReports[index].MebibytesPerS * Mebibyte : null,
            times);
    }
}

/// <summary>One size of <see cref="PerftestDocument"/>.</summary>
internal sealed record PerftestSize(
    long SizeBytes,
    long Iterations,
    double? BytesPerS,
    double? PeakBytesPerS,
    double? MessagesPerS,
    double? PeerBytesPerS,
    PerftestTimes? Latency);

/// <summary>What <c>perftest rc-pingpong --json</c> prints.</summary>
internal sealed record PingpongDocument(
    string Schema,
    string Role,
    int Iterations,
    int SizeBytes,
    double TimeS,
    string ReceivedSha256,
    long Retransmits,
    long PacketsDropped);

/// <summary>Serialization of <see cref="PerftestDocument"/>.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(PerftestDocument))]
[JsonSerializable(typeof(PingpongDocument))]
internal sealed partial class PerftestJson : JsonSerializerContext;
