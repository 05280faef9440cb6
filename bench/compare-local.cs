#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// wayleave bench local, as it is and with --pin, beside ucx_perftest over the transports posix (shared memory) and cma
// (the kernel's copy between processes), and beside process_vm_readv and a plain copy, which bench local measures
// itself. The programs take turns, round by round; medians of the rounds and of the rounds' ratios are printed.
// Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Globalization;
using System.Text.Json;
using Wayleave.Compare;

const int SizeBytes = 1 << 20;

// What of ours, beside what, for which bar. Times in microseconds for one buffer; a ratio is ours over theirs.
Comparison[] comparisons =
[
    new("import_and_map", "ucx posix put_bw", "<= 20 us"),
    new("import_and_map", "ucx cma get", "<= 20 us"),
    new("import_and_map", "copy_read", "<= 20 us"),
    new("first_byte", "ucx cma get", null),
    new("pinned hand_over", "ucx posix put_bw", "<= 20 us"),
    new("pinned hand_over", "ucx cma get", "<= 20 us"),
    new("hand_over", "ucx posix put_bw", "<= 20 us"),
    new("hand_over", "ucx cma get", "<= 20 us"),
    new("hand_over_alone", "ucx cma get", null),
    new("pinned hand_over_alone", "ucx cma get", null),
    new("import_with_pages", "ucx cma get", null),
    new("rested_import_and_map", "ucx cma get", null),
    new("ring", "ucx posix put_lat", "<= 1 us"),
    new("copy_mapped", "copy", "<= 1.11"),
    new("copy_mapped", "ucx posix put_bw", null),
    new("copy_mapped", "ucx cma get", null),
    new("copy_mapped", "copy_read", null),
];

if (ComparisonOptions.Parse("compare-local", args) is not { } options)
{
    return 2;
}

if (PeerProgram.IsMissing("compare-local", ("ucx_perftest", "ucx-utils")))
{
    return 3;
}

List<Dictionary<string, double>> measured = [];
try
{
    PeerProgram.Run(PeerProgram.Wayleave, ["--version"]); // builds it, if it has to be built
    for (int round = 0; round < options.Rounds; round++)
    {
        Dictionary<string, double> times = MeasureOurs();
        foreach ((string name, double time) in MeasureOurs("--pin"))
        {
            times["pinned " + name] = time;
        }

        times["ucx posix put_bw"] = MeasureUcx("posix", "ucp_put_bw");
        times["ucx posix put_lat"] = MeasureUcxLatency();
        times["ucx cma get"] = MeasureUcx("posix,cma", "ucp_get");
        measured.Add(times);
        Console.Error.WriteLine($"round {round + 1} of {options.Rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-local: {e.Message}");
    return 1;
}

// A machine may keep processes from reading each other: then there is nothing to say of that.
ComparisonRow[] rows =
[
    .. comparisons
        .Where(c => measured.TrueForAll(m => m.ContainsKey(c.Ours) && m.ContainsKey(c.Theirs)))
        .Select(c => new ComparisonRow(
            c.Ours,
            c.Theirs,
            "us",
            Statistics.Median(measured.Select(m => m[c.Ours])),
            Statistics.Median(measured.Select(m => m[c.Theirs])),
            Statistics.Median(measured.Select(m => m[c.Ours] / m[c.Theirs])),
            c.Bar)),
];
if (options.IsJson)
{
    ComparisonReport.Print("wayleave.compare-local/1", rows, options.Rounds, SizeBytes);
    return 0;
}

Console.WriteLine(
    $"{"us",-22} {"ours",8} {"peer",8} {"ratio",6}  {"bar",-9} peer, {options.Rounds} rounds");
foreach (ComparisonRow row in rows)
{
    Console.WriteLine(string.Create(
        CultureInfo.InvariantCulture,
        $"{row.Test,-22} {row.Ours,8:F2} {row.Theirs,8:F2} {row.Ratio,6:F2}  {row.Bar ?? "-",-9} {row.Peer}"));
}

return 0;

// The median of each operation, by its name.
Dictionary<string, double> MeasureOurs(params string[] options)
{
    using JsonDocument report = JsonDocument.Parse(PeerProgram.Run(
        PeerProgram.Wayleave,
        ["bench", "local", "--size", Text(SizeBytes), "--iterations", "1000", "--json", .. options]));
    return report.RootElement.GetProperty("results").EnumerateArray().ToDictionary(
        r => r.GetProperty("name").GetString()!,
        r => r.GetProperty("latency").GetProperty("median_us").GetDouble());
}

// Microseconds for one message of 1 MiB, by the overall bandwidth.
static double MeasureUcx(string transports, string test) =>
    SizeBytes / RunUcx(transports, test, SizeBytes, iterations: 2000).BytesPerS * 1e6;

// Microseconds for 8 bytes there and 8 back.
static double MeasureUcxLatency() => 2 * RunUcx("posix", "ucp_put_lat", sizeBytes: 8, iterations: 200_000).LatencyUs;

static UcxPerftest RunUcx(string transports, string test, int sizeBytes, int iterations) =>
    UcxPerftest.Run(test, sizeBytes, iterations, warmUp: 200, [("UCX_TLS", transports)]);

static string Text(int value) => value.ToString(CultureInfo.InvariantCulture);

internal sealed record Comparison(string Ours, string Theirs, string? Bar);
