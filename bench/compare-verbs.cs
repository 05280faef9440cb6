#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// Stock programs of libibverbs over the drop-in (docs/verbs.md), beside wayleave bench, which needs no drop-in, and UCX
// over TCP, which needs no NIC. The programs take turns, round by round, so that what the machine does meanwhile meets
// all of them; medians of the rounds and of the rounds' ratios are printed. Installs nothing. Exit codes: 0 measured, 1
// a program failed, 2 usage, 3 a peer or the library is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

const int Small = 8;
const int Large = 64 * 1024;
const int LatencyIterations = 20_000;

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
string wayleave = Path.Combine(root, "wayleave");
string library = Path.Combine(root, "artifacts", "ibverbs", "lib");
(double Typical, double Average) latency = default; // of the program that was measured last
string latencyOf = "";

Comparison[] all =
[
    new(
        "ib_write_bw 64 KiB", "GB/s", () => PerftestBandwidth("ib_write_bw"), "wayleave bench", BenchBandwidth,
        ">= 0.9"),
    new("ib_send_lat typical", "us", () => PerftestLatency("ib_send_lat").Typical, Bar: "< 10 us"),
    new("ib_send_lat average", "us", () => PerftestLatency("ib_send_lat").Average, Bar: "< 10 us"),
    new("ib_write_lat typical", "us", () => PerftestLatency("ib_write_lat").Typical, Bar: "< 10 us"),
    new("ib_write_lat average", "us", () => PerftestLatency("ib_write_lat").Average, Bar: "< 10 us"),
    new("ucp_put_bw 64 KiB", "GB/s", () => UcxVerbs("ucp_put_bw", Large).Bandwidth / 1e9, "UCX tcp",
        () => UcxTcp("ucp_put_bw", Large).Bandwidth / 1e9),
    new("ucp_put_lat 8 B", "us", () => UcxVerbs("ucp_put_lat", Small).Latency, "UCX tcp",
        () => UcxTcp("ucp_put_lat", Small).Latency),
    new("ibv_devices", "ms", StartUp, Bar: "< 10 ms"),
];

int rounds = 5;
bool json = false;
HashSet<string> wanted = [];
for (int i = 0; i < args.Length; i++)
{
    if (args[i] == "--json")
    {
        json = true;
    }
    else if (args[i] == "--rounds" && i + 1 < args.Length && int.TryParse(args[++i], out rounds) && rounds > 0)
    {
    }
    else if (all.Any(c => c.Program == args[i]))
    {
        wanted.Add(args[i]);
    }
    else
    {
        string tests = string.Join('|', all.Select(c => c.Program).Distinct());
        Console.Error.WriteLine($"usage: compare-verbs [--rounds N] [--json] [{tests}]...");
        return 2;
    }
}

Comparison[] comparisons = [.. all.Where(c => wanted.Count == 0 || wanted.Contains(c.Program))];
(string Program, string Package)[] peers =
    [("ib_write_bw", "perftest"), ("ibv_devices", "ibverbs-utils"), ("ucx_perftest", "ucx-utils")];
string[] missing = [.. peers.Where(p => FindProgram(p.Program) is null).Select(p => p.Package)];
if (missing.Length > 0 || !File.Exists(Path.Combine(library, "libibverbs.so.1")))
{
    Console.Error.WriteLine(missing.Length > 0
        ? $"compare-verbs: a peer is missing: apt-get install {string.Join(' ', missing)}"
        : "compare-verbs: no drop-in library: run scripts/build-ibverbs");
    return 3;
}

List<(double Ours, double Theirs)>[] measured = [.. comparisons.Select(_ => new List<(double, double)>())];
try
{
    Run(wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < rounds; round++)
    {
        latencyOf = "";
        for (int i = 0; i < comparisons.Length; i++)
        {
            Comparison c = comparisons[i];
            measured[i].Add((c.Ours(), c.Theirs?.Invoke() ?? double.NaN));
        }

        Console.Error.WriteLine($"round {round + 1} of {rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-verbs: {e.Message}");
    return 1;
}

List<Row> rows = [.. comparisons.Select((c, i) => Summarize(c, measured[i]))];
if (json)
{
    Print(rows, rounds);
}
else
{
    Console.WriteLine(
        $"{"over the drop-in",-22} {"ours",10} {"peer",10} {"unit",-5} {"ratio",6}  {"bar",-8} peer, {rounds} rounds");
    foreach (Row row in rows)
    {
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Test,-22} {row.Ours,10:F2} {Cell(row.Theirs),10} {row.Unit,-5} {Cell(row.Ratio),6}  ")
            + $"{row.Bar ?? "-",-8} {row.Peer ?? "-"}");
    }
}

return 0;

static string Cell(double value) => double.IsNaN(value) ? "-" : value.ToString("F2", CultureInfo.InvariantCulture);

static void Print(List<Row> rows, int rounds)
{
    using Stream output = Console.OpenStandardOutput();
    using Utf8JsonWriter writer = new(output, new JsonWriterOptions { Indented = true });
    writer.WriteStartObject();
    writer.WriteString("schema", "wayleave.compare/1");
    writer.WriteNumber("rounds", rounds);
    writer.WriteStartArray("comparisons");
    foreach (Row row in rows)
    {
        writer.WriteStartObject();
        writer.WriteString("test", row.Test);
        writer.WriteString("unit", row.Unit);
        writer.WriteNumber("median", row.Ours);
        if (row.Peer is not null)
        {
            writer.WriteString("peer", row.Peer);
            writer.WriteNumber("peer_median", row.Theirs);
            writer.WriteNumber("median_ratio", row.Ratio);
        }

        if (row.Bar is not null)
        {
            writer.WriteString("bar", row.Bar);
        }

        writer.WriteEndObject();
    }

    writer.WriteEndArray();
    writer.WriteEndObject();
    writer.Flush();
    output.WriteByte((byte)'\n');
}

static Row Summarize(Comparison c, List<(double Ours, double Theirs)> rounds) => new(
    c.Test,
    c.Peer,
    c.Unit,
    Median(rounds.Select(r => r.Ours)),
    Median(rounds.Select(r => r.Theirs)),
    Median(rounds.Select(r => r.Ours / r.Theirs)),
    c.Bar);

static double Median(IEnumerable<double> values)
{
    double[] sorted = [.. values.Order()];
    return sorted.Length % 2 == 1
        ? sorted[sorted.Length / 2]
        : (sorted[sorted.Length / 2 - 1] + sorted[sorted.Length / 2]) / 2;
}

// With the depth that perftest has below.
double BenchBandwidth()
{
    string[] arguments =
        [
            "bench", "write-bw", "--size", Text(Large), "--depth", "64", "--rounds", "1", "--duration", "1s", "--json",
        ];
    using JsonDocument report = JsonDocument.Parse(Run(wayleave, arguments));
    return report.RootElement.GetProperty("bandwidth").GetProperty("median_bytes_per_s").GetDouble() / 1e9;
}

// The average over all iterations: perftest's fourth column, in MiB/s.
double PerftestBandwidth(string program) =>
    Number(PerftestRow(program, "-s", Text(Large), "-n", "20000", "-t", "64"), 3) * (1 << 20) / 1e9;

// Half a round trip: t_typical and t_avg, columns five and six. One run for the two rows.
(double Typical, double Average) PerftestLatency(string program)
{
    if (latencyOf != program)
    {
        string[] row = PerftestRow(program, "-s", Text(Small), "-n", Text(LatencyIterations));
        (latency, latencyOf) = ((Number(row, 4), Number(row, 5)), program);
    }

    return latency;
}

static double Number(string[] row, int column) => double.Parse(row[column], CultureInfo.InvariantCulture);

// The row of figures: the one that begins with the size.
string[] PerftestRow(string program, params string[] arguments)
{
    string port = FreePort();
    string[] common = [.. arguments, "-F", "-p", port];
    using Process server = Start(program, common, Verbs("127.0.58.1"));
    try
    {
        AwaitListener(port, server);
        string table = Run(program, [.. common, "127.0.0.1"], Verbs("127.0.58.2"));
        return table.Split('\n')
            .Select(l => l.Split((char[])[' ', '\t'], StringSplitOptions.RemoveEmptyEntries))
            .FirstOrDefault(l => l.Length > 3 && l[0] == arguments[1])
            ?? throw new PeerException($"{program} said: {table}");
    }
    finally
    {
        End(server);
    }
}

(string, string)[] Verbs(string address) =>
    [("LD_LIBRARY_PATH", library), ("WAYLEAVE_DEVICES", $"wl0@{address}")];

// Milliseconds from start to end; the least of twenty, for the machine can only add to it.
double StartUp()
{
    double least = double.MaxValue;
    for (int i = 0; i < 20; i++)
    {
        long start = Stopwatch.GetTimestamp();
        Run("ibv_devices", [], Verbs("127.0.58.1"));
        least = Math.Min(least, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    }

    return least;
}

(double Bandwidth, double Latency) UcxTcp(string test, int sizeBytes) => MeasureUcx(
    test, sizeBytes, _ => ("ucx_perftest", []), [("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo")]);

// UCX looks for device nodes and finds them in a namespace of the program's own. It connects by datagrams.
(double Bandwidth, double Latency) UcxVerbs(string test, int sizeBytes) => MeasureUcx(
    test,
    sizeBytes,
    isServer => (wayleave,
        ["run", "--ns", "--devices", isServer ? "wl0@127.0.58.1" : "wl0@127.0.58.2", "--", "ucx_perftest"]),
    [("UCX_TLS", "rc_verbs,ud_verbs"), ("UCX_NET_DEVICES", "wl0:1"), ("UCX_UD_VERBS_ETH_DGID_CHECK", "n")]);

// Bandwidth in bytes per second (UCX prints MiB), latency in microseconds: half a round trip, the median.
static (double Bandwidth, double Latency) MeasureUcx(
    string test,
    int sizeBytes,
    Func<bool, (string Program, string[] Prefix)> command,
    (string Name, string Value)[] environment)
{
    string port = FreePort();
    (string program, string[] prefix) = command(true);
    using Process server = Start(program, [.. prefix, "-p", port], environment);
    try
    {
        AwaitListener(port, server);
        (program, prefix) = command(false);
        string csv = Run(
            program,
            [
                .. prefix, "127.0.0.1", "-p", port, "-t", test,
                "-s", Text(sizeBytes), "-n", "20000", "-w", "2000", "-f", "-v",
            ],
            environment);
        string[] values = csv.Trim().Split('\n')[^1].Split(',');
        return values.Length < 8
            ? throw new PeerException($"ucx_perftest said: {csv}")
            : (Number(values, 5) * (1 << 20), Number(values, 1));
    }
    finally
    {
        End(server);
    }
}

// A look at the table of sockets, not a connection: iperf3 -1 and ucx_perftest take the first one for their client.
static void AwaitListener(string port, Process server)
{
    string suffix = $":{int.Parse(port, CultureInfo.InvariantCulture):X4} ";
    for (int i = 0; i < 500; i++)
    {
        string sockets = File.ReadAllText("/proc/net/tcp")
            + (File.Exists("/proc/net/tcp6") ? File.ReadAllText("/proc/net/tcp6") : "");
        if (sockets.Split('\n').Any(
            l => l.Contains(suffix, StringComparison.Ordinal) && l.Contains(" 0A ", StringComparison.Ordinal)))
        {
            return;
        }

        if (server.WaitForExit(20))
        {
            throw new PeerException($"{server.StartInfo.FileName} ended before it listened on port {port}");
        }
    }

    throw new PeerException($"{server.StartInfo.FileName} does not listen on port {port}");
}

static string FreePort()
{
    using System.Net.Sockets.TcpListener listener = new(System.Net.IPAddress.Loopback, 0);
    listener.Start();
    return Text(((System.Net.IPEndPoint)listener.LocalEndpoint).Port);
}

static string Run(string program, string[] arguments, (string Name, string Value)[]? environment = null)
{
    using Process process = Start(program, arguments, environment ?? []);
    Task<string> errors = process.StandardError.ReadToEndAsync();
    Task<string> output = process.StandardOutput.ReadToEndAsync();
    if (!process.WaitForExit(TimeSpan.FromMinutes(5)))
    {
        End(process);
        throw new PeerException($"{program} {string.Join(' ', arguments)} did not end within 5 minutes");
    }

    return process.ExitCode == 0
        ? output.GetAwaiter().GetResult()
        : throw new PeerException(
            $"{program} {string.Join(' ', arguments)} exited with {process.ExitCode}: "
            + $"{errors.GetAwaiter().GetResult().Trim()}");
}

static Process Start(string program, string[] arguments, (string Name, string Value)[] environment)
{
    ProcessStartInfo start = new(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
    foreach ((string name, string value) in environment)
    {
        start.Environment[name] = value;
    }

    return Process.Start(start) ?? throw new PeerException($"{program} does not start");
}

static void End(Process process)
{
    if (!process.WaitForExit(500))
    {
        process.Kill(entireProcessTree: true);
        process.WaitForExit();
    }
}

static string? FindProgram(string name) => (Environment.GetEnvironmentVariable("PATH") ?? "")
    .Split(':', StringSplitOptions.RemoveEmptyEntries)
        .Select(folder => Path.Combine(folder, name)).FirstOrDefault(File.Exists);

static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

internal sealed record Comparison(
    string Test, string Unit, Func<double> Ours, string? Peer = null, Func<double>? Theirs = null, string? Bar = null)
{
    /// <summary>What a user names it by.</summary>
    public string Program => Test.Split(' ')[0];
}

internal sealed record Row(
    string Test, string? Peer, string Unit, double Ours, double Theirs, double Ratio, string? Bar);

internal sealed class PeerException(string message) : Exception(message);
