#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// Stock programs of libibverbs over the drop-in (docs/verbs.md), beside wayleave bench, which needs no drop-in, and UCX
// over TCP, which needs no NIC. The programs take turns, round by round, so that what the machine does meanwhile meets
// all of them; medians of the rounds and of the rounds' ratios are printed. Installs nothing. Exit codes: 0 measured, 1
// a program failed, 2 usage, 3 a peer or the library is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Wayleave.Compare;

const int Small = 8;
const int Large = 64 * 1024;
const int LatencyIterations = 20_000;
const int UcxIterations = 20_000;
const int UcxWarmUp = 2_000;

string library = Path.Combine(PeerProgram.Root, "artifacts", "ibverbs", "lib");
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
    new("ucp_put_bw 64 KiB", "GB/s", () => UcxVerbs("ucp_put_bw", Large).BytesPerS / 1e9, "UCX tcp",
        () => UcxTcp("ucp_put_bw", Large).BytesPerS / 1e9),
    new("ucp_put_lat 8 B", "us", () => UcxVerbs("ucp_put_lat", Small).LatencyUs, "UCX tcp",
        () => UcxTcp("ucp_put_lat", Small).LatencyUs),
    new("ibv_devices", "ms", StartUp, Bar: "< 10 ms"),
];

if (ComparisonOptions.Parse("compare-verbs", args, all.Select(c => c.Program)) is not { } options)
{
    return 2;
}

Comparison[] comparisons = [.. all.Where(c => options.Wants(c.Program))];
(string Program, string Package)[] peers =
    [("ib_write_bw", "perftest"), ("ibv_devices", "ibverbs-utils"), ("ucx_perftest", "ucx-utils")];
if (PeerProgram.IsMissing("compare-verbs", peers))
{
    return 3;
}

if (!File.Exists(Path.Combine(library, "libibverbs.so.1")))
{
    Console.Error.WriteLine("compare-verbs: no drop-in library: run scripts/build-ibverbs");
    return 3;
}

List<(double Ours, double Theirs)>[] measured = [.. comparisons.Select(_ => new List<(double, double)>())];
try
{
    PeerProgram.Run(PeerProgram.Wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < options.Rounds; round++)
    {
        latencyOf = "";
        for (int i = 0; i < comparisons.Length; i++)
        {
            Comparison c = comparisons[i];
            measured[i].Add((c.Ours(), c.Theirs?.Invoke() ?? double.NaN));
        }

        Console.Error.WriteLine($"round {round + 1} of {options.Rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-verbs: {e.Message}");
    return 1;
}

ComparisonRow[] rows = [.. comparisons.Select((c, i) => Summarize(c, measured[i]))];
if (options.IsJson)
{
    ComparisonReport.Print("wayleave.compare/1", rows, options.Rounds);
}
else
{
    Console.WriteLine(
        $"{"over the drop-in",-22} {"ours",10} {"peer",10} {"unit",-5} {"ratio",6}  {"bar",-8} peer, "
        + $"{options.Rounds} rounds");
    foreach (ComparisonRow row in rows)
    {
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Test,-22} {row.Ours,10:F2} {Cell(row.Theirs),10} {row.Unit,-5} {Cell(row.Ratio),6}  ")
            + $"{row.Bar ?? "-",-8} {row.Peer ?? "-"}");
    }
}

return 0;

static string Cell(double value) => double.IsNaN(value) ? "-" : value.ToString("F2", CultureInfo.InvariantCulture);

static ComparisonRow Summarize(Comparison c, List<(double Ours, double Theirs)> rounds) => new(
    c.Test,
    c.Peer,
    c.Unit,
    Statistics.Median(rounds.Select(r => r.Ours)),
    Statistics.Median(rounds.Select(r => r.Theirs)),
    Statistics.Median(rounds.Select(r => r.Ours / r.Theirs)),
    c.Bar);

// With the depth that perftest has below.
double BenchBandwidth()
{
    string[] arguments =
        [
            "bench", "write-bw", "--size", Text(Large), "--depth", "64", "--rounds", "1", "--duration", "1s", "--json",
        ];
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(PeerProgram.Wayleave, arguments));
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
    string port = PeerProgram.FreePort();
    string[] common = [.. arguments, "-F", "-p", port];
    using Process server = PeerProgram.Start(program, common, Verbs("127.0.58.1"));
    try
    {
        PeerProgram.AwaitListener(port, server);
        string table = PeerProgram.Run(program, [.. common, "127.0.0.1"], Verbs("127.0.58.2"));
        return table.Split('\n')
            .Select(l => l.Split((char[])[' ', '\t'], StringSplitOptions.RemoveEmptyEntries))
            .FirstOrDefault(l => l.Length > 3 && l[0] == arguments[1])
            ?? throw new PeerException($"{program} said: {table}");
    }
    finally
    {
        PeerProgram.End(server);
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
        PeerProgram.Run("ibv_devices", [], Verbs("127.0.58.1"));
        least = Math.Min(least, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
    }

    return least;
}

static UcxPerftest UcxTcp(string test, int sizeBytes) => UcxPerftest.Run(
    test, sizeBytes, UcxIterations, UcxWarmUp, [("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo")]);

// UCX looks for device nodes and finds them in a namespace of the program's own. It connects by datagrams.
static UcxPerftest UcxVerbs(string test, int sizeBytes) => UcxPerftest.Run(
    test,
    sizeBytes,
    UcxIterations,
    UcxWarmUp,
    [("UCX_TLS", "rc_verbs,ud_verbs"), ("UCX_NET_DEVICES", "wl0:1")],
    isServer =>
    [
        PeerProgram.Wayleave, "run", "--ns", "--devices", isServer ? "wl0@127.0.58.1" : "wl0@127.0.58.2", "--",
        "ucx_perftest",
    ]);

static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

internal sealed record Comparison(
    string Test, string Unit, Func<double> Ours, string? Peer = null, Func<double>? Theirs = null, string? Bar = null)
{
    /// <summary>What a user names it by.</summary>
    public string Program => Test.Split(' ')[0];
}
