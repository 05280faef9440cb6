#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// wayleave bench beside ucx_perftest over TCP and iperf3, all on the loopback of this machine. The programs take turns,
// round by round, so that what the machine does meanwhile meets all of them; medians of the rounds and of the rounds'
// ratios are printed. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

const int BandwidthBytes = 64 * 1024;
const int LatencyBytes = 8;

int rounds = 5;
bool json = false;
for (int i = 0; i < args.Length; i++)
{
    if (args[i] == "--json")
    {
        json = true;
    }
    else if (args[i] == "--rounds" && i + 1 < args.Length && int.TryParse(args[++i], out rounds) && rounds > 0)
    {
    }
    else
    {
        Console.Error.WriteLine("usage: compare-rdma [--rounds N] [--json]");
        return 2;
    }
}

(string Program, string Package)[] peers = [("ucx_perftest", "ucx-utils"), ("iperf3", "iperf3")];
string[] missing = [.. peers.Where(p => FindProgram(p.Program) is null).Select(p => p.Package)];
if (missing.Length > 0)
{
    Console.Error.WriteLine($"compare-rdma: a peer is missing: apt-get install {string.Join(' ', missing)}");
    return 3;
}

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
string wayleave = Path.Combine(root, "wayleave");
List<Row> rows = [];
try
{
    Run(wayleave, ["--version"]); // builds it, if it has to be built
    List<Round> measured = [];
    for (int round = 0; round < rounds; round++)
    {
        measured.Add(new Round(
            MeasureWayleaveBandwidth(), MeasureUcx("ucp_put_bw", BandwidthBytes, 20_000).Bandwidth, MeasureIperf(),
            MeasureWayleaveLatency(), MeasureUcx("ucp_put_lat", LatencyBytes, 20_000).Latency));
        Console.Error.WriteLine($"round {round + 1} of {rounds}");
    }

    rows.Add(Compare(
        "write-bw 64 KiB",
        "ucx_perftest ucp_put_bw, tcp",
        "GB/s",
        measured,
        r => r.WriteBw / 1e9,
        r => r.UcxBw / 1e9,
        ">= 2.5"));
    rows.Add(
        Compare("write-bw 64 KiB", "iperf3, tcp", "GB/s", measured, r => r.WriteBw / 1e9, r => r.Iperf / 1e9, null));
    rows.Add(Compare(
        "write-lat 8 B",
        "ucx_perftest ucp_put_lat, tcp",
        "us",
        measured,
        r => r.WriteLat,
        r => r.UcxLat,
        "<= 0.8"));
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-rdma: {e.Message}");
    return 1;
}

if (json)
{
    Print(rows, rounds);
}
else
{
    Console.WriteLine(
        $"{"wayleave bench",-18} {"ours",10} {"peer",10} {"unit",-5} {"ratio",6}  {"bar",-7} peer, {rounds} rounds");
    foreach (Row row in rows)
    {
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Test,-18} {row.Ours,10:F2} {row.Theirs,10:F2} {row.Unit,-5} {row.Ratio,6:F2}  {row.Bar ?? "-",-7} "
            + $"{row.Peer}"));
    }
}

return 0;

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
        writer.WriteString("peer", row.Peer);
        writer.WriteString("unit", row.Unit);
        writer.WriteNumber("median", row.Ours);
        writer.WriteNumber("peer_median", row.Theirs);
        writer.WriteNumber("median_ratio", row.Ratio);
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

static Row Compare(
    string test,
    string peer,
    string unit,
    List<Round> rounds,
    Func<Round, double> ours,
    Func<Round, double> theirs,
    string? bar) =>
    new(
        test,
        peer,
        unit,
        Median(rounds.Select(ours)),
        Median(rounds.Select(theirs)),
        Median(rounds.Select(r => ours(r) / theirs(r))),
        bar);

static double Median(IEnumerable<double> values)
{
    double[] sorted = [.. values.Order()];
    return sorted.Length % 2 == 1
        ? sorted[sorted.Length / 2]
        : (sorted[sorted.Length / 2 - 1] + sorted[sorted.Length / 2]) / 2;
}

double MeasureWayleaveBandwidth()
{
    using JsonDocument report = JsonDocument.Parse(
        Run(wayleave, ["bench", "write-bw", "--size", "64KiB", "--rounds", "1", "--duration", "1s", "--json"]));
    return report.RootElement.GetProperty("bandwidth").GetProperty("median_bytes_per_s").GetDouble();
}

double MeasureWayleaveLatency()
{
    using JsonDocument report = JsonDocument.Parse(
        Run(wayleave, ["bench", "write-lat", "--size", "8", "--rounds", "1", "--iterations", "20000", "--json"]));
    return report.RootElement.GetProperty("latency").GetProperty("median_us").GetDouble();
}

// Bandwidth in bytes per second (UCX prints MiB), latency in microseconds: half a round trip, the median.
static (double Bandwidth, double Latency) MeasureUcx(string test, int sizeBytes, int iterations)
{
    string port = FreePort();
    (string, string)[] environment = [("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo")];
    using Process server = Start("ucx_perftest", ["-p", port], environment);
    try
    {
        AwaitListener(port, server);
        string csv = Run(
            "ucx_perftest",
            [
                "127.0.0.1", "-p", port, "-t", test,
                "-s", Text(sizeBytes), "-n", Text(iterations), "-w", "2000", "-f", "-v",
            ],
            environment);
        string[] values = csv.Trim().Split('\n')[^1].Split(',');
        return values.Length < 6
            ? throw new PeerException($"ucx_perftest said: {csv}")
            : (
                double.Parse(values[5], CultureInfo.InvariantCulture) * (1 << 20),
                double.Parse(values[1], CultureInfo.InvariantCulture));
    }
    finally
    {
        End(server);
    }
}

static double MeasureIperf()
{
    string port = FreePort();
    using Process server = Start("iperf3", ["-s", "-1", "-p", port], []);
    try
    {
        AwaitListener(port, server);
        using JsonDocument report = JsonDocument.Parse(Run("iperf3", ["-c", "127.0.0.1", "-p", port, "-t", "1", "-J"]));
        return report.RootElement
            .GetProperty("end").GetProperty("sum_received").GetProperty("bits_per_second").GetDouble() / 8;
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

internal sealed record Round(double WriteBw, double UcxBw, double Iperf, double WriteLat, double UcxLat);

internal sealed record Row(
    string Test, string Peer, string Unit, double Ours, double Theirs, double Ratio, string? Bar);

internal sealed class PeerException(string message) : Exception(message);
