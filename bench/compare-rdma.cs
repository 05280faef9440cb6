#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// wayleave bench beside ucx_perftest and fi_pingpong over TCP and iperf3, all on the loopback of this machine. The
// programs take turns, round by round, so that what the machine does meanwhile meets all of them; medians of the rounds
// and of the rounds' ratios are printed. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a
// peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Wayleave.Compare;

const int Small = 8;
const int Message = 64;
const int Large = 64 * 1024;

Comparison[] all =
[
    new("write-bw", Large, "ucx_perftest ucp_put_bw", () => MeasureUcx("ucp_put_bw", Large).BytesPerS, ">= 2.5"),
    new("write-bw", Large, "iperf3", MeasureIperf),
    new("read-bw", Large, "ucx_perftest ucp_get", () => MeasureUcx("ucp_get", Large).BytesPerS),
    new("send-bw", Large, "ucx_perftest tag_bw", () => MeasureUcx("tag_bw", Large).BytesPerS),
    new("write-lat", Small, "ucx_perftest ucp_put_lat", () => MeasureUcx("ucp_put_lat", Small).LatencyUs, "<= 0.8"),
    new("send-lat", Small, "ucx_perftest tag_lat", () => MeasureUcx("tag_lat", Small).LatencyUs),
    new("send-lat", Small, "fi_pingpong", () => MeasurePingPong(Small, 20_000)),
    new("send-lat", Large, "fi_pingpong", () => MeasurePingPong(Large, 5_000)),
    new("write-rate", Message, "ucx_perftest ucp_put_bw", () => MeasureUcx("ucp_put_bw", Message).MessagesPerS),
    new("write-rate", Message, "fi_pingpong, one at a time", () => 1e6 / MeasurePingPong(Message, 20_000)),
];

if (ComparisonOptions.Parse("compare-rdma", args, all.Select(c => c.Test)) is not { } options)
{
    return 2;
}

(string Program, string Package)[] peers =
    [("ucx_perftest", "ucx-utils"), ("fi_pingpong", "libfabric-bin"), ("iperf3", "iperf3")];
if (PeerProgram.IsMissing("compare-rdma", peers))
{
    return 3;
}

Comparison[] comparisons = [.. all.Where(c => options.Wants(c.Test))];
List<(double Ours, double Theirs)>[] measured = [.. comparisons.Select(_ => new List<(double, double)>())];
try
{
    PeerProgram.Run(PeerProgram.Wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < options.Rounds; round++)
    {
        for (int i = 0; i < comparisons.Length; i++)
        {
            // One measurement of ours for all its peers, which follow at once.
            Comparison c = comparisons[i];
            bool isSame = i > 0 && (c.Test, c.SizeBytes) == (comparisons[i - 1].Test, comparisons[i - 1].SizeBytes);
            double ours = isSame ? measured[i - 1][^1].Ours : c.IsLatency ? MeasureLatency(c) : MeasureBandwidth(c);
            measured[i].Add((ours, c.Measure()));
        }

        Console.Error.WriteLine($"round {round + 1} of {options.Rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-rdma: {e.Message}");
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
        $"{"wayleave bench",-18} {"ours",10} {"peer",10} {"unit",-5} {"ratio",6}  {"bar",-7} peer, "
        + $"{options.Rounds} rounds");
    foreach (ComparisonRow row in rows)
    {
        Console.WriteLine(string.Create(
            CultureInfo.InvariantCulture,
            $"{row.Test,-18} {row.Ours,10:F2} {row.Theirs,10:F2} {row.Unit,-5} {row.Ratio,6:F2}  ")
            + $"{row.Bar ?? "-",-7} {row.Peer}");
    }
}

return 0;

static ComparisonRow Summarize(Comparison c, List<(double Ours, double Theirs)> rounds)
{
    double scale = c.IsLatency ? 1 : c.IsRate ? 1e6 : 1e9;
    return new ComparisonRow(
        c.SizeBytes == Large ? $"{c.Test} 64 KiB" : $"{c.Test} {c.SizeBytes} B",
        c.Peer,
        c.IsLatency ? "us" : c.IsRate ? "Mop/s" : "GB/s",
        Statistics.Median(rounds.Select(r => r.Ours)) / scale,
        Statistics.Median(rounds.Select(r => r.Theirs)) / scale,
        Statistics.Median(rounds.Select(r => r.Ours / r.Theirs)),
        c.Bar);
}

double MeasureBandwidth(Comparison c)
{
    string[] arguments =
        [
            "bench", c.IsRate ? "write-bw" : c.Test, "--size", Text(c.SizeBytes), "--depth", c.IsRate ? "256" : "64",
            "--rounds", "1", "--duration", "1s", "--json",
        ];
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(PeerProgram.Wayleave, arguments));
    return report.RootElement.GetProperty("bandwidth")
        .GetProperty(c.IsRate ? "median_messages_per_s" : "median_bytes_per_s").GetDouble();
}

double MeasureLatency(Comparison c)
{
    string[] arguments =
        ["bench", c.Test, "--size", Text(c.SizeBytes), "--rounds", "1", "--iterations", "20000", "--json"];
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(PeerProgram.Wayleave, arguments));
    return report.RootElement.GetProperty("latency").GetProperty("median_us").GetDouble();
}

static UcxPerftest MeasureUcx(string test, int sizeBytes) => UcxPerftest.Run(
    test, sizeBytes, sizeBytes == Message ? 1_000_000 : 20_000, warmUp: 2000,
    [("UCX_TLS", "tcp"), ("UCX_NET_DEVICES", "lo")]);

// Microseconds for half a round trip: its last column but one.
static double MeasurePingPong(int sizeBytes, int iterations)
{
    string port = PeerProgram.FreePort();
    string[] common = ["-p", "tcp", "-e", "msg", "-I", Text(iterations), "-S", Text(sizeBytes)];
    using Process server = PeerProgram.Start("fi_pingpong", [.. common, "-B", port]);
    try
    {
        PeerProgram.AwaitListener(port, server);
        string table = PeerProgram.Run("fi_pingpong", [.. common, "-P", port, "127.0.0.1"]);
        string[] values = table.Trim().Split('\n')[^1].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return values.Length == 8 && double.TryParse(values[6], CultureInfo.InvariantCulture, out double us)
            ? us
            : throw new PeerException($"fi_pingpong said: {table}");
    }
    finally
    {
        PeerProgram.End(server);
    }
}

static double MeasureIperf()
{
    string port = PeerProgram.FreePort();
    using Process server = PeerProgram.Start("iperf3", ["-s", "-1", "-p", port]);
    try
    {
        PeerProgram.AwaitListener(port, server);
        using JsonDocument report = JsonDocument.Parse(
            PeerProgram.Run("iperf3", ["-c", "127.0.0.1", "-p", port, "-t", "1", "-J"]));
        return report.RootElement
            .GetProperty("end").GetProperty("sum_received").GetProperty("bits_per_second").GetDouble() / 8;
    }
    finally
    {
        PeerProgram.End(server);
    }
}

static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

internal sealed record Comparison(string Test, int SizeBytes, string Peer, Func<double> Measure, string? Bar = null)
{
    public bool IsLatency => Test.EndsWith("-lat", StringComparison.Ordinal);

    public bool IsRate => Test.EndsWith("-rate", StringComparison.Ordinal);
}
