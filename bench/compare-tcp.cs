#!/usr/bin/env dotnet
#:property PublishAot=false
#:property RestorePackagesWithLockFile=false
#:project Wayleave.Compare

// wayleave bench tcp-receive beside iperf3 from kernel to kernel, over the loopback and over a pair of virtual wires.
// The sender is iperf3 -c in each. They take turns, round by round, so that what the machine does meanwhile meets all
// of them; medians of the rounds and of the rounds' ratios are printed. Runs in a network namespace of its own, which
// compare-tcp makes. Installs nothing. Exit codes: 0 measured, 1 a program failed, 2 usage, 3 a peer is missing.

using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Wayleave.Compare;

(string Name, string[] Arguments, double? Bar)[] cases =
[
    ("MTU 1500, hot", ["--mtu", "1500", "--region", "2MiB"], 0.75),
    ("MTU 1500, 64 MiB", ["--mtu", "1500", "--region", "64MiB", "--hold", "32MiB"], 0.55),
    ("MTU 65000, hot", ["--mtu", "65000", "--region", "2MiB"], 0.75),
];

if (ComparisonOptions.Parse("compare-tcp", args) is not { } options)
{
    return 2;
}

if (PeerProgram.IsMissing("compare-tcp", ("iperf3", "iperf3"), ("ip", "iproute2")))
{
    return 3;
}

List<Result>[] ours = [.. cases.Select(_ => new List<Result>())];
List<Result> loopback = [], wire = [];
List<double> limits = [];
try
{
    PeerProgram.Run("ip", ["link", "set", "lo", "up"]);
    MakeWire();
    for (int round = 0; round < options.Rounds; round++)
    {
        loopback.Add(MeasureIperf("127.0.0.1", []));
        wire.Add(MeasureIperf("10.78.0.2", ["ip", "netns", "exec", "wlcompare"]));
        for (int i = 0; i < cases.Length; i++)
        {
            ours[i].Add(MeasureOurs(cases[i].Arguments, i == 0 ? limits : null));
        }

        Console.Error.WriteLine($"round {round + 1} of {options.Rounds}");
    }
}
catch (PeerException e)
{
    Console.Error.WriteLine($"compare-tcp: {e.Message}");
    return 1;
}

if (options.IsJson)
{
    Print();
    return 0;
}

Console.WriteLine(
    $"{"",-31} {"GB/s",6} {"CPU s/GB",9} {"of lo",6} {"of wire",8} {"of TAP",7}  bar   {options.Rounds} rounds");
Line("iperf3, loopback", loopback, null);
Line("iperf3, virtual wire", wire, null);
for (int i = 0; i < cases.Length; i++)
{
    Line($"device memory, {cases[i].Name}", ours[i], cases[i].Bar);
}

Console.WriteLine(string.Create(
    CultureInfo.InvariantCulture,
    $"{"frames of a TAP, thrown away",-31} {Statistics.Median(limits) / 1e9,6:F2}"));
return 0;

void Line(string name, List<Result> results, double? bar) => Console.WriteLine(string.Create(
    CultureInfo.InvariantCulture,
    $"{name,-31} {Statistics.Median(results.Select(r => r.BytesPerS)) / 1e9,6:F2} ")
    + string.Create(
        CultureInfo.InvariantCulture,
        $"{Statistics.Median(results.Select(r => r.CpuSPerGb)),9:F2} ")
    + string.Create(
        CultureInfo.InvariantCulture, $"{Ratio(results, loopback),6:F2} {Ratio(results, wire),8:F2} ")
    + string.Create(
        CultureInfo.InvariantCulture,
        $"{Statistics.Median(results.Select((r, i) => r.BytesPerS / limits[i])),7:F2}  ")
    + (bar is { } b ? string.Create(CultureInfo.InvariantCulture, $">= {b:F2}") : "-"));

void Print()
{
    using Stream output = Console.OpenStandardOutput();
    using Utf8JsonWriter writer = new(output, new JsonWriterOptions { Indented = true });
    writer.WriteStartObject();
    writer.WriteString("schema", "wayleave.compare-tcp/1");
    writer.WriteNumber("rounds", options.Rounds);
    writer.WriteNumber("tap_median_bytes_per_s", Statistics.Median(limits));
    writer.WriteStartArray("results");
    Object("iperf3 loopback", loopback, null);
    Object("iperf3 wire", wire, null);
    for (int i = 0; i < cases.Length; i++)
    {
        Object(cases[i].Name, ours[i], cases[i].Bar);
    }

    writer.WriteEndArray();
    writer.WriteEndObject();
    writer.Flush();
    output.WriteByte((byte)'\n');

    void Object(string name, List<Result> results, double? bar)
    {
        writer.WriteStartObject();
        writer.WriteString("name", name);
        writer.WriteNumber("median_bytes_per_s", Statistics.Median(results.Select(r => r.BytesPerS)));
        writer.WriteNumber("median_receiver_cpu_s_per_gb", Statistics.Median(results.Select(r => r.CpuSPerGb)));
        writer.WriteNumber("median_ratio_to_loopback", Ratio(results, loopback));
        writer.WriteNumber("median_ratio_to_wire", Ratio(results, wire));
        if (bar is { } least)
        {
            writer.WriteNumber("bar", least);
        }

        writer.WriteEndObject();
    }
}

static double Ratio(List<Result> results, List<Result> peers) =>
    Statistics.Median(results.Select((r, i) => r.BytesPerS / peers[i].BytesPerS));

// Two namespaces, so that the kernel does not take the short way: this one and wlcompare.
static void MakeWire()
{
    PeerProgram.Run("mount", ["-t", "tmpfs", "tmpfs", "/run"]);
    PeerProgram.Run("ip", ["netns", "add", "wlcompare"]);
    PeerProgram.Run("ip", ["link", "add", "wla", "type", "veth", "peer", "name", "wlb", "netns", "wlcompare"]);
    PeerProgram.Run("ip", ["addr", "add", "10.78.0.1/30", "dev", "wla"]);
    PeerProgram.Run("ip", ["link", "set", "wla", "up"]);
    PeerProgram.Run("ip", ["-n", "wlcompare", "addr", "add", "10.78.0.2/30", "dev", "wlb"]);
    PeerProgram.Run("ip", ["-n", "wlcompare", "link", "set", "wlb", "up"]);
}

// The second test counts: in the first, our receiver is not compiled yet.
Result MeasureOurs(string[] arguments, List<double>? limits)
{
    string[] limit = limits is null ? [] : ["--with-limit"];
    using JsonDocument report = JsonDocument.Parse(
        PeerProgram.Run(
            PeerProgram.Wayleave, ["bench", "tcp-receive", "--rounds", "2", "--json", .. arguments, .. limit]));
    JsonElement last = report.RootElement.GetProperty("rounds")[1];
    limits?.Add(last.GetProperty("limit_bytes_per_s").GetDouble());
    return new Result(last.GetProperty("bytes_per_s").GetDouble(), last.GetProperty("cpu_s_per_gb").GetDouble());
}

static Result MeasureIperf(string address, string[] inside)
{
    string[] server = [.. inside, "iperf3", "-s", "-1", "-p", "5999"];
    using Process process = PeerProgram.Start(server[0], server[1..]);
    try
    {
        for (int i = 0; i < 50; i++)
        {
            // Until somebody listens, a client is refused at once.
            (int exit, string output, _) = PeerProgram.TryRun("iperf3", ["-c", address, "-p", "5999", "-t", "1", "-J"]);
            using JsonDocument report = JsonDocument.Parse(output.Length > 0 ? output : "{}");
            if (exit == 0
                && report.RootElement.TryGetProperty("end", out JsonElement end)
                && end.TryGetProperty("sum_received", out JsonElement sum))
            {
                double rate = sum.GetProperty("bits_per_second").GetDouble() / 8;
                double cpu = end.GetProperty("cpu_utilization_percent").GetProperty("remote_total").GetDouble() / 100;
                return new Result(rate, cpu / (rate / 1e9));
            }

            Thread.Sleep(20);
        }

        throw new PeerException($"iperf3 -c {address} does not connect");
    }
    finally
    {
        PeerProgram.End(process);
    }
}

internal sealed record Result(double BytesPerS, double CpuSPerGb);
