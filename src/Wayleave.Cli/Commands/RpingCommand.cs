using System.CommandLine;
using System.Net;
using System.Text.Json.Serialization;
using Wayleave.Cli.Output;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;
using Wayleave.Host.Tracing;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave rping</c>: either side of rdma-core's rping, with memory of a software GPU and no kernel driver.
/// </summary>
internal static class RpingCommand
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(8);

    public static Command Create()
    {
        Option<bool> isServer = new("--server", "-s") { Description = "Wait for a client" };
        Option<string?> client = new("--client", "-c")
        {
            Description = "Connect to a server: its address",
            HelpName = "ADDRESS",
        };
        Option<string> address = new("--address", "-I")
        {
            Description = "The own address, of an interface that reaches the peer",
            HelpName = "ADDRESS",
            DefaultValueFactory = _ => "127.0.0.2",
        };
        Option<int> port = Number("--port", "-p", "Port of the connection manager", Rping.DefaultPort);
        Option<int> count = Number("--count", "-C", "How often a client pings; 0 is for ever", 10);
        Option<int> size = Number("--size", "-S", "Bytes of a ping, 23 to 65535", 64);
        Option<int> mtu = Number("--mtu", "-m", "Payload bytes of a packet: 256, 512, 1024, 2048 or 4096", 1024);
        Option<FaultOptions?> faults = Parsing.FaultsOption();
        Option<string?> pcap = Parsing.PcapOption();
        Option<TimeSpan?> patience = Parsing.DurationOption(
            "--patience", "How long a client asks a server that does not answer (default 8s)");
        Option<bool> verbose = new("--verbose", "-v") { Description = "Print what is pinged" };
        Command command = new("rping", "Ping over RDMA, as either side of rdma-core's rping")
        {
            isServer, client, address, port, count, size, mtu, patience, verbose, faults, pcap,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            string? peer = parsed.GetValue(client);
            if (parsed.GetValue(isServer) == peer is not null)
            {
                throw new UsageException("one of --server and --client ADDRESS");
            }

            int bytes = parsed.GetValue(size);
            if (bytes is < Rping.SizeMin or > Rping.SizeMax)
            {
                throw new UsageException($"--size: {Rping.SizeMin} to {Rping.SizeMax}, not {bytes}");
            }

            if (parsed.GetValue(count) < 0)
            {
                throw new UsageException($"--count: 0 or more, not {parsed.GetValue(count)}");
            }

            CommandContext context = new(parsed);
            ushort cmPort = ReadPort(parsed.GetValue(port));
            IPEndPoint server = new(peer is null ? IPAddress.None : ReadAddress(peer, "--client"), cmPort);
            IPAddress own = ReadAddress(parsed.GetValue(address)!, "--address");
            if (peer is not null && own.AddressFamily != server.AddressFamily)
            {
                throw new UsageException($"--client {peer} cannot be reached from {own}; give --address of its family");
            }

            using PcapFile? capture = Parsing.Capture(parsed.GetValue(pcap));
            WayleaveHostOptions hostOptions = new()
            {
                Faults = parsed.GetValue(faults),
                Tap = capture is null ? null : capture.Of,
            };
            WayleaveHost host = await WayleaveHost
                .StartAsync(ConfigOf(own, parsed.GetValue(mtu)), hostOptions).ConfigureAwait(false);
            await using (host.ConfigureAwait(false))
            {
                // Before anything else opens queue pair 1: a client that comes early is not told that nobody listens.
                ConnectionService connections = host.Nics[0].Connections;
                using RdmaListener? listener = peer is null ? connections.Listen(cmPort, backlog: 1) : null;
                Rping rping = await Rping.OpenAsync(host, host.Nics[0]).ConfigureAwait(false);
                await using (rping.ConfigureAwait(false))
                {
                    string prefix = peer is null ? "server ping data: " : "ping data: ";
                    Action<string>? done = parsed.GetValue(verbose) && !context.IsJson
                        ? text => context.Out.WriteLine(prefix + text)
                        : null;
                    int pings = listener is not null
                        ? await ServeAsync(listener, rping, done, context, cancellation).ConfigureAwait(false)
                        : await PingAsync(
                            connections,
                            rping,
                            server,
                            (parsed.GetValue(count), bytes),
                            parsed.GetValue(patience) ?? s_patience,
                            done,
                            cancellation).ConfigureAwait(false);
                    Report(context, host.Nics[0], pings, peer is null ? null : bytes);
                }
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static async Task<int> ServeAsync(
        RdmaListener listener,
        Rping rping,
        Action<string>? done,
        CommandContext context,
        CancellationToken cancellation)
    {
        context.Error.WriteLine($"waiting for a client at port {listener.Port}");
        RdmaConnectionRequest request = await listener.AcceptAsync(cancellation).ConfigureAwait(false);
        RdmaConnection connection = await request.AcceptAsync(rping.Pair, Rping.Parameters, cancellation)
            .ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            return await rping.RunServerAsync(connection, done, cancellation).ConfigureAwait(false);
        }
    }

    private static async Task<int> PingAsync(
        ConnectionService connections,
        Rping rping,
        IPEndPoint peer,
        (int Count, int Size) run,
        TimeSpan patience,
        Action<string>? done,
        CancellationToken cancellation)
    {
        RdmaConnection connection = await ConnectAsync(connections, rping, peer, patience, cancellation)
            .ConfigureAwait(false);
        await using (connection.ConfigureAwait(false))
        {
            await rping.RunClientAsync(run.Count, run.Size, done, cancellation).ConfigureAwait(false);
            return run.Count;
        }
    }

    // The connection manager alone asks for more than a minute, as the kernel's does.
    private static async Task<RdmaConnection> ConnectAsync(
        ConnectionService connections,
        Rping rping,
        IPEndPoint peer,
        TimeSpan patience,
        CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(patience);
        try
        {
            return await connections
                .ConnectAsync(peer, rping.Pair, Rping.Parameters, limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException e) when (!cancellation.IsCancellationRequested)
        {
            string? why = await connections.WhySilentAsync(peer.Address, cancellation).ConfigureAwait(false);
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                $"connect to {peer}",
                $"nobody answers for {Durations.Format(patience)}{(why is null ? "" : $", and {why}")}",
                "start a server there, and let UDP port 4791 through",
                e);
        }
    }

    private static void Report(CommandContext context, NicHandle nic, int pings, int? size)
    {
        ref readonly Devices.Rdma.RdmaStats stats = ref nic.Device.Port.Stats;
        if (context.IsJson)
        {
            context.WriteJson(
                new RpingDocument("wayleave.rping.v1", pings, size, stats.Retransmits, stats.PacketsDropped),
                RpingJson.Default.RpingDocument);
            return;
        }

        string word = pings == 1 ? "ping" : "pings";
        context.Out.WriteLine(
            size is null ? $"{pings} {word} served" : $"{pings} {word} of {size} bytes, all as they were sent");
    }

    private static HostConfig ConfigOf(IPAddress own, int mtu) => new()
    {
        Name = "rping",
        Gpus = [new GpuConfig { Name = "gpu0", VramBytes = 4 * GpuConfig.GranuleBytes, SystemPoolBytes = 0 }],
        Nvmes = [],
        Nics = [new NicConfig { Address = own, PathMtuBytes = mtu }],
    };

    private static Option<int> Number(string name, string alias, string description, int value) => new(name, alias)
    {
        Description = description,
        HelpName = "N",
        DefaultValueFactory = _ => value,
    };

    private static IPAddress ReadAddress(string text, string option) =>
        IPAddress.TryParse(text, out IPAddress? address)
            ? address
            : throw new UsageException($"{option}: {text} is no IP address");

    private static ushort ReadPort(int port) =>
        port is > 0 and <= ushort.MaxValue
            ? (ushort)port
            : throw new UsageException($"--port: 1 to {ushort.MaxValue}, not {port}");
}

/// <summary>What <c>rping --json</c> prints.</summary>
internal sealed record RpingDocument(string Schema, int Pings, int? SizeBytes, long Retransmits, long PacketsDropped);

/// <summary>Serialization of <see cref="RpingDocument"/>.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower)]
[JsonSerializable(typeof(RpingDocument))]
internal sealed partial class RpingJson : JsonSerializerContext;
