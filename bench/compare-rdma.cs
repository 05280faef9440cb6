#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// wayleave bench beside ucx_perftest and fi_pingpong over TCP and iperf3, all on the loopback of this machine. The
// programs take turns, round by round, so that what the machine does meanwhile meets all of them; medians of the rounds
// and of the rounds' ratios are printed. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a
// peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

const int Small = 8;
const int Message = 64;
const int Large = 64 * 1024;

Comparison[] all =
[
    new("write-bw", Large, "ucx_perftest ucp_put_bw", () => MeasureUcx("ucp_put_bw", Large).Bandwidth, ">= 2.5"),
    new("write-bw", Large, "iperf3", MeasureIperf),
    new("read-bw", Large, "ucx_perftest ucp_get", () => MeasureUcx("ucp_get", Large).Bandwidth),
    new("send-bw", Large, "ucx_perftest tag_bw", () => MeasureUcx("tag_bw", Large).Bandwidth),
    new("write-lat", Small, "ucx_perftest ucp_put_lat", () => MeasureUcx("ucp_put_lat", Small).Latency, "<= 0.8"),
    new("send-lat", Small, "ucx_perftest tag_lat", () => MeasureUcx("tag_lat", Small).Latency),
    new("send-lat", Small, "fi_pingpong", () => MeasurePingPong(Small, 20_000)),
    new("send-lat", Large, "fi_pingpong", () => MeasurePingPong(Large, 5_000)),
    new("write-rate", Message, "ucx_perftest ucp_put_bw", () => MeasureUcx("ucp_put_bw", Message).Rate),
    new("write-rate", Message, "fi_pingpong, one at a time", () => 1e6 / MeasurePingPong(Message, 20_000)),
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
    else if (all.Any(c => c.Test == args[i]))
    {
        wanted.Add(args[i]);
    }
    else
    {
        string tests = string.Join('|', all.Select(c => c.Test).Distinct());
        Console.Error.WriteLine($"usage: compare-rdma [--rounds N] [--json] [{tests}]...");
        return 2;
    }
}

(string Program, string Package)[] peers =
    [("ucx_perftest", "ucx-utils"), ("fi_pingpong", "libfabric-bin"), ("iperf3", "iperf3")];
string[] missing = [.. peers.Where(p => FindProgram(p.Program) is null).Select(p => p.Package)];
if (missing.Length > 0)
{
    Console.Error.WriteLine($"compare-rdma: a peer is missing: apt-get install {string.Join(' ', missing)}");
    return 3;
}

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
string wayleave = Path.Combine(root, "wayleave");
Comparison[] comparisons = [.. all.Where(c => wanted.Count == 0 || wanted.Contains(c.Test))];
List<(double Ours, double Theirs)>[] measured = [.. comparisons.Select(_ => new List<(double, double)>())];
try
{
    Run(wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < rounds; round++)
    {
        for (int i = 0; i < comparisons.Length; i++)
        {
            // One measurement of ours for all its peers, which follow at once.
            Comparison c = comparisons[i];
            bool isSame = i > 0 && (c.Test, c.SizeBytes) == (comparisons[i - 1].Test, comparisons[i - 1].SizeBytes);
            double ours = isSame ? measured[i - 1][^1].Ours : c.IsLatency ? MeasureLatency(c) : MeasureBandwidth(c);
            measured[i].Add((ours, c.Measure()));
        }

        Console.Error.WriteLine($"round {round + 1} of {rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-rdma: {e.Message}");
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
        $"{"wayleave bench",-18} {"ours",10} {"peer",10} {"unit",-5} {"ratio",6}  {"bar",-7} peer, {rounds} rounds");
    foreach (Row row in rows)
    {
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Test,-18} {row.Ours,10:F2} {row.Theirs,10:F2} {row.Unit,-5} {row.Ratio,6:F2}  ")
            + $"{row.Bar ?? "-",-7} {row.Peer}");
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

static Row Summarize(Comparison c, List<(double Ours, double Theirs)> rounds)
{
    double scale = c.IsLatency ? 1 : c.IsRate ? 1e6 : 1e9;
    return new Row(
        c.SizeBytes == Large ? $"{c.Test} 64 KiB" : $"{c.Test} {c.SizeBytes} B",
        c.Peer,
        c.IsLatency ? "us" : c.IsRate ? "Mop/s" : "GB/s",
        Median(rounds.Select(r => r.Ours)) / scale,
        Median(rounds.Select(r => r.Theirs)) / scale,
        Median(rounds.Select(r => r.Ours / r.Theirs)),
        c.Bar);
}

static double Median(IEnumerable<double> values)
{
    double[] sorted = [.. values.Order()];
    return sorted.Length % 2 == 1
        ? sorted[sorted.Length / 2]
        : (sorted[sorted.Length / 2 - 1] + sorted[sorted.Length / 2]) / 2;
}

double MeasureBandwidth(Comparison c)
{
    string[] arguments =
        [
            "bench", c.IsRate ? "write-bw" : c.Test, "--size", Text(c.SizeBytes), "--depth", c.IsRate ? "256" : "64",
            "--rounds", "1", "--duration", "1s", "--json",
        ];
    using JsonDocument report = JsonDocument.Parse(Run(wayleave, arguments));
    return report.RootElement.GetProperty("bandwidth")
        .GetProperty(c.IsRate ? "median_messages_per_s" : "median_bytes_per_s").GetDouble();
}

double MeasureLatency(Comparison c)
{
    string[] arguments =
        ["bench", c.Test, "--size", Text(c.SizeBytes), "--rounds", "1", "--iterations", "20000", "--json"];
    using JsonDocument report = JsonDocument.Parse(Run(wayleave, arguments));
    return report.RootElement.GetProperty("latency").GetProperty("median_us").GetDouble();
}

// Bandwidth in bytes per second (UCX prints MiB), messages per second, latency in microseconds: half a round trip, the
// median.
static (double Bandwidth, double Rate, double Latency) MeasureUcx(string test, int sizeBytes)
{
    int iterations = sizeBytes == Message ? 1_000_000 : 20_000;
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
        return values.Length < 8
            ? throw new PeerException($"ucx_perftest said: {csv}")
            : (
                double.Parse(values[5], CultureInfo.InvariantCulture) * (1 << 20),
                double.Parse(values[7], CultureInfo.InvariantCulture),
                double.Parse(values[1], CultureInfo.InvariantCulture));
    }
    finally
    {
        End(server);
    }
}

// Microseconds for half a round trip: its last column but one.
static double MeasurePingPong(int sizeBytes, int iterations)
{
    string port = FreePort();
    string[] common = ["-p", "tcp", "-e", "msg", "-I", Text(iterations), "-S", Text(sizeBytes)];
    using Process server = Start("fi_pingpong", [.. common, "-B", port], []);
    try
    {
        AwaitListener(port, server);
        string table = Run("fi_pingpong", [.. common, "-P", port, "127.0.0.1"]);
        string[] values = table.Trim().Split('\n')[^1].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return values.Length == 8 && double.TryParse(values[6], CultureInfo.InvariantCulture, out double us)
            ? us
            : throw new PeerException($"fi_pingpong said: {table}");
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

internal sealed record Comparison(string Test, int SizeBytes, string Peer, Func<double> Measure, string? Bar = null)
{
    public bool IsLatency => Test.EndsWith("-lat", StringComparison.Ordinal);

    public bool IsRate => Test.EndsWith("-rate", StringComparison.Ordinal);
}

internal sealed record Row(
    string Test, string Peer, string Unit, double Ours, double Theirs, double Ratio, string? Bar);

internal sealed class PeerException(string message) : Exception(message);
