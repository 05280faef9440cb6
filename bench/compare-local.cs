#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false

// wayleave bench local beside ucx_perftest over the transports posix (shared memory) and cma (the kernel's copy between
// processes), and beside process_vm_readv and a plain copy, which bench local measures itself. The programs take turns,
// round by round; medians of the rounds and of the rounds' ratios are printed. Installs nothing. Exit codes: 0
// measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;

const int SizeBytes = 1 << 20;

// What of ours, beside what, for which bar. Times in microseconds for one buffer; a ratio is ours over theirs.
Comparison[] comparisons =
[
    new("import_and_map", "ucx posix put_bw", "<= 20 us"),
    new("import_and_map", "ucx cma get", "<= 20 us"),
    new("import_and_map", "copy_read", "<= 20 us"),
    new("first_byte", "ucx cma get", null),
    new("hand_over", "ucx posix put_bw", "<= 20 us"),
    new("hand_over", "ucx cma get", "<= 20 us"),
    new("rested_import_and_map", "ucx cma get", null),
    new("ring", "ucx posix put_lat", "<= 1 us"),
    new("copy_mapped", "copy", "<= 1.11"),
    new("copy_mapped", "ucx posix put_bw", null),
    new("copy_mapped", "ucx cma get", null),
    new("copy_mapped", "copy_read", null),
];

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
        Console.Error.WriteLine("usage: compare-local [--rounds N] [--json]");
        return 2;
    }
}

if (FindProgram("ucx_perftest") is null)
{
    Console.Error.WriteLine("compare-local: a peer is missing: apt-get install ucx-utils");
    return 3;
}

string root = Path.GetFullPath(Path.Combine(AppContext.GetData("EntryPointFileDirectoryPath") as string ?? ".", ".."));
string wayleave = Path.Combine(root, "wayleave");
List<Dictionary<string, double>> measured = [];
try
{
    Run(wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < rounds; round++)
    {
        Dictionary<string, double> times = MeasureOurs();
        times["ucx posix put_bw"] = MeasureUcx("posix", "ucp_put_bw");
        times["ucx posix put_lat"] = MeasureUcxLatency();
        times["ucx cma get"] = MeasureUcx("posix,cma", "ucp_get");
        measured.Add(times);
        Console.Error.WriteLine($"round {round + 1} of {rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-local: {e.Message}");
    return 1;
}

// A machine may keep processes from reading each other: then there is nothing to say of that.
Row[] rows =
[
    .. comparisons
        .Where(c => measured.TrueForAll(m => m.ContainsKey(c.Ours) && m.ContainsKey(c.Theirs)))
        .Select(c => new Row(
            c,
            Median(measured.Select(m => m[c.Ours])),
            Median(measured.Select(m => m[c.Theirs])),
            Median(measured.Select(m => m[c.Ours] / m[c.Theirs])))),
];
if (json)
{
    Print(rows, rounds);
    return 0;
}

Console.WriteLine(
    $"{"us",-21} {"ours",8} {"peer",8} {"ratio",6}  {"bar",-9} peer, {rounds} rounds");
foreach (Row row in rows)
{
    Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture,
        $"{row.Of.Ours,-21} {row.Ours,8:F2} {row.Theirs,8:F2} {row.Ratio,6:F2}  {row.Of.Bar ?? "-",-9} "
            + $"{row.Of.Theirs}"));
}

return 0;

static void Print(Row[] rows, int rounds)
{
    using Stream output = Console.OpenStandardOutput();
    using Utf8JsonWriter writer = new(output, new JsonWriterOptions { Indented = true });
    writer.WriteStartObject();
    writer.WriteString("schema", "wayleave.compare-local/1");
    writer.WriteNumber("size_bytes", SizeBytes);
    writer.WriteNumber("rounds", rounds);
    writer.WriteStartArray("comparisons");
    foreach (Row row in rows)
    {
        writer.WriteStartObject();
        writer.WriteString("test", row.Of.Ours);
        writer.WriteString("peer", row.Of.Theirs);
        writer.WriteString("unit", "us");
        writer.WriteNumber("median", row.Ours);
        writer.WriteNumber("peer_median", row.Theirs);
        writer.WriteNumber("median_ratio", row.Ratio);
        if (row.Of.Bar is not null)
        {
            writer.WriteString("bar", row.Of.Bar);
        }

        writer.WriteEndObject();
    }

    writer.WriteEndArray();
    writer.WriteEndObject();
    writer.Flush();
    output.WriteByte((byte)'\n');
}

static double Median(IEnumerable<double> values)
{
    double[] sorted = [.. values.Order()];
    return sorted.Length % 2 == 1
        ? sorted[sorted.Length / 2]
        : (sorted[(sorted.Length / 2) - 1] + sorted[sorted.Length / 2]) / 2;
}

// The median of each operation, by its name.
Dictionary<string, double> MeasureOurs()
{
    using JsonDocument report = JsonDocument.Parse(
        Run(wayleave, ["bench", "local", "--size", Text(SizeBytes), "--iterations", "1000", "--json"]));
    return report.RootElement.GetProperty("results").EnumerateArray().ToDictionary(
        r => r.GetProperty("name").GetString()!,
        r => r.GetProperty("latency").GetProperty("median_us").GetDouble());
}

// Microseconds for one message of 1 MiB, by the overall bandwidth in MiB/s: the sixth of its columns.
static double MeasureUcx(string transports, string test) =>
    SizeBytes / (RunUcx(transports, test, SizeBytes, iterations: 2000)[5] * (1 << 20)) * 1e6;

// Microseconds for 8 bytes there and 8 back: its second column is half of that.
static double MeasureUcxLatency() => 2 * RunUcx("posix", "ucp_put_lat", sizeBytes: 8, iterations: 200_000)[1];

static double[] RunUcx(string transports, string test, int sizeBytes, int iterations)
{
    string port = FreePort();
    (string, string)[] environment = [("UCX_TLS", transports)];
    using Process server = Start("ucx_perftest", ["-p", port], environment);
    try
    {
        AwaitListener(port, server);
        string csv = Run(
            "ucx_perftest",
            [
                "127.0.0.1", "-p", port, "-t", test,
                "-s", Text(sizeBytes), "-n", Text(iterations), "-w", "200", "-f", "-v",
            ],
            environment);
        string[] values = csv.Trim().Split('\n')[^1].Split(',');
        return values.Length < 8
            ? throw new PeerException($"ucx_perftest said: {csv}")
            : [.. values.Select(v => double.Parse(v, CultureInfo.InvariantCulture))];
    }
    finally
    {
        End(server);
    }
}

// A look at the table of sockets, not a connection: ucx_perftest takes the first one for its client.
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

internal sealed record Comparison(string Ours, string Theirs, string? Bar);

internal sealed record Row(Comparison Of, double Ours, double Theirs, double Ratio);

internal sealed class PeerException(string message) : Exception(message);
