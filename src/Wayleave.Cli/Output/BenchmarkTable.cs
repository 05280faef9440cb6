using System.Globalization;
using Wayleave.Host.Benchmarks;

namespace Wayleave.Cli.Output;

/// <summary>A report as perftest prints its own: a banner of parameters between rules, then the columns.</summary>
internal static class BenchmarkTable
{
    private const double Mebibyte = 1 << 20;
    private const double Million = 1e6;

    private static readonly string s_rule = new('-', 103);

    public static void Write(BenchmarkReport report, TextWriter output)
    {
        WriteBanner(report, output);
        if (report.Latency is { } latency)
        {
            WriteLatency(report, latency, output);
        }
        else if (report.TakeBack is { } takeBack)
        {
            WriteTakeBack(takeBack, output);
        }
        else if (report.Bandwidth is { } bandwidth)
        {
            WriteBandwidth(report, bandwidth, output);
        }

        output.WriteLine(s_rule);
        WriteFooter(report, output);
    }

    private static void WriteBanner(BenchmarkReport report, TextWriter output)
    {
        string title = report.Test switch
        {
            "write-bw" => "RDMA_Write BW Test",
            "read-bw" => "RDMA_Read BW Test",
            "send-bw" => "Send BW Test",
            "write-lat" => "RDMA_Write Latency Test",
            "send-lat" => "Send Latency Test",
            "revoke" => "Take-back under RDMA_Write Test",
            _ => "UDP super-packets without a protocol",
        };
        bool isLimit = report.Test == "udp-limit";
        output.WriteLine(s_rule);
        output.WriteLine($"                    {title}");
        Line("Number of qps", isLimit ? "-" : Text(report.QueuePairs), "Transport type", isLimit ? "UDP" : "RoCEv2");
        string processors = Text(report.Processors) + (report.IsPinned ? ", pinned" : "");
        Line("Connection type", isLimit ? "-" : "RC", "Processors", processors);
        Line("Mtu", $"{Text(report.MtuBytes)}[B]", "Receive buffer", $"{Text(report.ReceiveBufferBytes)}[B]");
        string depth = isLimit ? "-" : Text(report.Depth), region = isLimit ? "-" : $"{Text(report.RegionBytes)}[B]";
        Line("TX depth", depth, "Region", region);
        output.WriteLine(s_rule);

        void Line(string left, string leftValue, string right, string rightValue) =>
            output.WriteLine($" {left,-16}: {leftValue,-16} {right,-16}: {rightValue}");
    }

    private static void WriteBandwidth(BenchmarkReport report, BandwidthResult result, TextWriter output)
    {
        output.WriteLine(
            " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]   alloc[B/op]");
        output.WriteLine(
            $" {Text(report.SizeBytes),-10} {Text(result.Operations),-14} "
            + $"{Fixed(result.PeakBytesPerS / Mebibyte, 2),-19} "
            + $"{Fixed(result.MedianBytesPerS / Mebibyte, 2),-21} {Fixed(result.MedianMessagesPerS / Million, 6),-15} "
            + Allocated(report.AllocatedBytesPerOperation));
    }

    private static void WriteLatency(BenchmarkReport report, LatencyResult result, TextWriter output)
    {
        output.WriteLine(
            " #bytes #iterations  t_min[usec]  t_max[usec]  t_typical[usec]  t_avg[usec]  t_stdev[usec]  99%[usec]  "
            + "99.9%[usec]  alloc[B/op]");
        output.WriteLine(
            $" {Text(report.SizeBytes),-6} {Text(result.Count),-12} {Times(result)}  "
            + $"{Allocated(report.AllocatedBytesPerOperation)}");
    }

    private static void WriteTakeBack(TakeBackResult result, TextWriter output)
    {
        output.WriteLine(
            " #revokes #retired   t_min[usec]  t_max[usec]  t_typical[usec]  t_avg[usec]  t_stdev[usec]  99%[usec]  "
            + "99.9%[usec]");
        output.WriteLine($" {Text(result.Time.Count),-8} {Text(result.Retired),-10} {Times(result.Time)}");
        output.WriteLine(s_rule);
        output.WriteLine($" late bytes                : {Text(result.LateBytes)}");
        output.WriteLine(
            $" placed before, rejected   : {Text(result.PlacedBytes)}, {Text(result.RejectedBytes)} bytes");
        output.WriteLine(
            $" context switches of owner : {Text(result.VoluntarySwitches)} voluntary, "
            + $"{Text(result.InvoluntarySwitches)} involuntary");
    }

    private static string Times(LatencyResult result) =>
        $"{Fixed(result.MinUs, 2),-12} {Fixed(result.MaxUs, 2),-12} {Fixed(result.MedianUs, 2),-16} "
        + $"{Fixed(result.AverageUs, 2),-12} "
        + $"{Fixed(result.DeviationUs, 2),-14} {Fixed(result.P99Us, 2),-10} {Fixed(result.P999Us, 2)}";

    private static void WriteFooter(BenchmarkReport report, TextWriter output)
    {
        if (report.Bandwidth is not null)
        {
            output.WriteLine($" medians of {Text(report.Rounds.Count)} rounds; peak is the best round");
        }

        if (report.Bandwidth is { MedianRatio: { } ratio, MedianLimitBytesPerS: { } limit })
        {
            output.WriteLine($" udp-limit {Fixed(limit / Mebibyte, 2)} MiB/sec, median ratio {Fixed(ratio, 2)}");
        }

        if (report.Bandwidth is { MedianOneRatio: { } oneRatio, MedianOneBytesPerS: { } one })
        {
            output.WriteLine($" one queue pair {Fixed(one / Mebibyte, 2)} MiB/sec, median ratio {Fixed(oneRatio, 2)}");
        }

        if (report is { Beside: { } beside, MedianBesideBytesPerS: { } moved })
        {
            output.WriteLine(
                $" beside {Text(beside)} queue pairs with WRITEs of {Text(BenchmarkOptions.BesideBytes)} bytes: "
                + $"{Fixed(moved / Mebibyte, 2)} MiB/sec together");
        }

        if (report.SocketDrops is { } drops)
        {
            output.WriteLine($" {Text(report.Retransmits ?? 0)} packets sent again, {Text(drops)} dropped at a socket");
        }
    }

    private static string Allocated(double? bytes) =>
        bytes is { } value ? Fixed(Math.Abs(value) < 0.005 ? 0 : value, 2) : "-";

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);

    private static string Fixed(double value, int digits) => value.ToString($"F{digits}", CultureInfo.InvariantCulture);
}
