#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// All ratios of RDMA. wayleave bench beside itself: WRITEs beside what two sockets carry, READs beside WRITEs, many
// queue pairs beside one, WRITEs of which packets are lost beside what go-back-N can reach. And beside ucx_perftest and
// fi_pingpong over TCP and iperf3, all on the loopback of this machine. They take turns, round by round, so that what
// the machine does meanwhile meets all of them; medians of the rounds and of the rounds' ratios are printed, each with
// its bar and whether it is met. Installs nothing. Exit codes: 0 measured, whatever bars are missed; 2 usage; and after
// everything else was printed 1, a program failed, or 3, a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Wayleave.Compare;

const int Small = 8;
const int Message = 64;
const int Large = 64 * 1024;
const double Loss = 0.01;
const string Duration = "300ms"; // of a round of ours
const string Beside = "WRITE bandwidth to the kernel's rxe in one guest (no bar): lab/run rxe-beside";

RoundMemory<JsonElement> bench = new(RunBench);

Comparison[] all =
[
    // What wayleave bench compares by itself.
    Limit("write-bw 1 MiB", Bar.AtLeast(0.65), "--size", "1MiB"),
    Limit("write-bw 1 MiB cold", Bar.AtLeast(0.50), "--size", "1MiB", "--region", "64MiB"),
    Limit("write-bw 1 MiB MTU 1024", Bar.AtLeast(0.60), "--size", "1MiB", "--mtu", "1024"),
    Limit("write-bw 64 KiB", Bar.AtLeast(0.50), "--size", "64KiB"),
    Limit("write-bw 64 KiB cold", Bar.AtLeast(0.42), "--size", "64KiB", "--region", "64MiB"),
    QueuePairs("write-bw 64 KiB 8 qps", Bar.AtLeast(0.95), "--qps", "8"),
    QueuePairs("write-bw 64 KiB 1,024 qps", Bar.AtLeast(0.70), "--qps", "1024", "--depth", "1"),

    // One after the other, and none of ours twice in a round.
    Own("read-bw", "read-bw 64 KiB", "write-bw", Bar.AtLeast(0.85), () => Bandwidth("read-bw"), () => Bandwidth()),
    Lossy("write-bw 64 KiB 1 % lost", "64KiB"),
    Lossy("write-bw 1 MiB 1 % lost", "1MiB"),
    Ucx("write-bw", "write-bw 64 KiB", "ucp_put_bw", Large, Bar.AtLeast(2.5)),
    new ComparisonInTurns("write-bw", "write-bw 64 KiB", "iperf3", "GB/s", null)
    {
        Ours = () => Bandwidth(),
        Theirs = () => MeasureIperf() / 1e9,
        Missing = Missing("iperf3", "iperf3"),
    },
    Ucx("read-bw", "read-bw 64 KiB", "ucp_get", Large, null),
    Ucx("send-bw", "send-bw 64 KiB", "tag_bw", Large, null),
    Ucx("write-lat", "write-lat 8 B", "ucp_put_lat", Small, Bar.AtMost(0.8)),
    Ucx("send-lat", "send-lat 8 B", "tag_lat", Small, null),
    PingPong("send-lat", "send-lat 8 B", Small, 20_000),
    PingPong("send-lat", "send-lat 64 KiB", Large, 5_000),
    Ucx("write-rate", "write-rate 64 B", "ucp_put_bw", Message, null),
    PingPong("write-rate", "write-rate 64 B", Message, 20_000),
];

if (ComparisonOptions.Parse("compare-rdma", args, all.Select(c => c.Group)) is not { } options)
{
    return 2;
}

Comparison[] comparisons = [.. all.Where(c => options.Wants(c.Group))];
ComparisonRun run = new(comparisons, options.Rounds, Console.Error);
try
{
    PeerProgram.Run(PeerProgram.Wayleave, ["--version"]); // builds it, if it has to be built
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-rdma: {e.Message}");
    return 1;
}

ComparisonRow[] rows = run.Run(bench.Forget);
if (options.IsJson)
{
    using Stream output = Console.OpenStandardOutput();
    ComparisonReport.Write(output, "wayleave.compare/1", rows, options.Rounds, notes: Beside);
}
else
{
    ComparisonTable.Write(Console.Out, rows, options.Rounds, Beside);
}

return run.ExitCode;

ComparisonInOneRun Limit(string test, Bar bar, params string[] arguments) => new(
    "udp-limit", test, "udp-limit", "GB/s", bar)
{
    Run = rounds => RunRounds(rounds, [.. arguments, "--with-limit"], "limit_bytes_per_s"),
};

ComparisonInOneRun QueuePairs(string test, Bar bar, params string[] arguments) => new(
    "qps", test, "one queue pair", "GB/s", bar)
{
    Run = rounds => RunRounds(rounds, ["--size", "64KiB", .. arguments, "--with-one"], "one_bytes_per_s"),
};

ComparisonInTurns Own(string group, string test, string peer, Bar bar, Func<double> ours, Func<double> theirs) =>
    new(group, test, peer, "GB/s", bar) { Ours = ours, Theirs = theirs };

// Each end loses what comes in, so that the loss of data is that of one link. Ours comes after the rate without loss.
ComparisonInTurns Lossy(string test, string size) => Own(
    "loss",
    test,
    "write-bw, as go-back-N can keep: 1/(1+pW)",
    Bar.AtLeast(0.80),
    () =>
    {
        _ = Bandwidth("write-bw", size);
        string faults = string.Create(CultureInfo.InvariantCulture, $"loss={100 * Loss}%,path=in");
        return Rate(bench.Get(BandwidthTest("write-bw", size, "--faults", faults)));
    },
    () =>
    {
        JsonElement report = bench.Get(BandwidthTest("write-bw", size));
        int window = GoBackN.WindowPackets(
            report.GetProperty("receive_buffer_bytes").GetInt32(), report.GetProperty("mtu_bytes").GetInt32());
        return Rate(report) * GoBackN.Reach(Loss, window);
    });

ComparisonInTurns Ucx(string group, string test, string peer, int sizeBytes, Bar? bar)
{
    (string unit, Func<double> ours) = Ours(group, sizeBytes);
    return new ComparisonInTurns(group, test, $"ucx_perftest {peer}", unit, bar)
    {
        Ours = ours,
        Theirs = () => Figure(MeasureUcx(peer, sizeBytes), unit),
        Missing = Missing("ucx_perftest", "ucx-utils"),
    };
}

static double Figure(UcxPerftest result, string unit) => unit switch
{
    "us" => result.LatencyUs,
    "Mop/s" => result.MessagesPerS / 1e6,
    _ => result.BytesPerS / 1e9,
};

ComparisonInTurns PingPong(string group, string test, int sizeBytes, int iterations)
{
    (string unit, Func<double> ours) = Ours(group, sizeBytes);
    bool isLatency = unit == "us";
    return new ComparisonInTurns(group, test, isLatency ? "fi_pingpong" : "fi_pingpong, one at a time", unit, null)
    {
        Ours = ours,
        Theirs = () => isLatency ? MeasurePingPong(sizeBytes, iterations) : 1 / MeasurePingPong(sizeBytes, iterations),
        Missing = Missing("fi_pingpong", "libfabric-bin"),
    };
}

(string Unit, Func<double> Measure) Ours(string test, int sizeBytes) => test switch
{
    "write-lat" or "send-lat" => ("us", () => bench
        .Get("bench", test, "--size", Text(sizeBytes), "--rounds", "1", "--iterations", "20000", "--json")
        .GetProperty("latency").GetProperty("median_us").GetDouble()),
    "write-rate" => ("Mop/s", () => bench
        .Get(BandwidthTest("write-bw", Text(sizeBytes), "--depth", "256"))
        .GetProperty("bandwidth").GetProperty("median_messages_per_s").GetDouble() / 1e6),
    _ => ("GB/s", () => Bandwidth(test)),
};

double Bandwidth(string test = "write-bw", string size = "64KiB") => Rate(bench.Get(BandwidthTest(test, size)));

string[] BandwidthTest(string test, string size, params string[] more) =>
    ["bench", test, "--size", size, "--rounds", "1", "--duration", Duration, .. more, "--json"];

static double Rate(JsonElement report) =>
    report.GetProperty("bandwidth").GetProperty("median_bytes_per_s").GetDouble() / 1e9;

RatioSample[] RunRounds(int rounds, string[] arguments, string peer) =>
[
    .. RunBench(["bench", "write-bw", "--rounds", Text(rounds), "--duration", Duration, .. arguments, "--json"])
        .GetProperty("rounds").EnumerateArray()
        .Select(r => new RatioSample(
            r.GetProperty("bytes_per_s").GetDouble() / 1e9, r.GetProperty(peer).GetDouble() / 1e9)),
];

static JsonElement RunBench(string[] command)
{
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(PeerProgram.Wayleave, command));
    return report.RootElement.Clone();
}

static string? Missing(string program, string package) =>
    PeerProgram.IsInPath(program) ? null : $"{program} is missing: apt-get install {package}";

static UcxPerftest MeasureUcx(string test, int sizeBytes) => UcxPerftest.Run(
    test,
    sizeBytes,
    sizeBytes == Message ? 200_000 : test == "ucp_get" ? 2000 : 20_000, // which has one at a time in flight
    warmUp: test == "ucp_get" ? 200 : 2000,
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
