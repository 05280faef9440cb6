using System.Globalization;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Perftest;

namespace Wayleave.Cli.Output;

/// <summary>A result as perftest prints its own.</summary>
internal static class PerftestTable
{
    private const double Micro = 1e6;

    private static readonly string s_rule = new('-', 87);

    /// <summary>As <c>--connection</c> takes it.</summary>
    public static string NameOf(QueuePairType type) => type switch
    {
        QueuePairType.UnreliableConnection => "UC",
        QueuePairType.UnreliableDatagram => "UD",
        _ => "RC",
    };

    public static void Write(PerftestOptions options, PerftestResult result, TextWriter output)
    {
        output.WriteLine(s_rule);
        output.WriteLine(
            $" {options.ToolName}, {(options.IsClient ? "client" : "server")} of a peer of version "
            + $"{result.PeerVersion}, {NameOf(options.Connection)} over RoCEv2"
            + (options.UsesConnectionManager ? ", rdma_cm" : ""));
        output.WriteLine(
            $" Number of qps   : {options.QueuePairs,-12} Mtu             : {result.MtuBytes}[B]");
        output.WriteLine(s_rule);
        if (result.Times.Count > 0)
        {
            WriteLatency(result, output);
        }
        else if (result.Reports.Count > 0)
        {
            WriteBandwidth(options, result, output);
        }

        output.WriteLine(s_rule);
        WriteBytes(result, output);
    }

    private static void WriteBandwidth(PerftestOptions options, PerftestResult result, TextWriter output)
    {
        output.WriteLine(" #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]");
        for (int i = 0; i < result.Reports.Count; i++)
        {
            // Both directions together, as perftest prints them.
            PerftestReport peer = options.IsBidirectional && i < result.PeerReports.Count
                ? result.PeerReports[i] : default;
            PerftestReport report = result.Reports[i];
            output.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $" {report.SizeBytes,-10} {report.Operations,-14} "
                    + $"{report.PeakMebibytesPerS + peer.PeakMebibytesPerS,-19:F2} "
                    + $"{report.MebibytesPerS + peer.MebibytesPerS,-21:F2} "
                    + $"{report.MillionMessagesPerS + peer.MillionMessagesPerS:F6}"));
        }
    }

    private static void WriteLatency(PerftestResult result, TextWriter output)
    {
        output.WriteLine(
            " #bytes #iterations  t_min[usec]  t_max[usec]  t_typical[usec]  t_avg[usec]  t_stdev[usec]  "
            + "99%[usec]  99.9%[usec]");
        for (int i = 0; i < result.Times.Count; i++)
        {
            PerftestTimes t = result.Times[i];
            PerftestReport report = result.Reports[i];
            output.WriteLine(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $" {report.SizeBytes,-6} {report.Operations,-12} {t.MinS * Micro,-12:F2} {t.MaxS * Micro,-12:F2} "
                    + $"{t.TypicalS * Micro,-16:F2} {t.AverageS * Micro,-12:F2} {t.DeviationS * Micro,-14:F2} "
                    + $"{t.P99S * Micro,-10:F2} {t.P999S * Micro:F2}"));
        }
    }

    private static void WriteBytes(PerftestResult result, TextWriter output)
    {
        switch (result.Bytes)
        {
            case PerftestBytes.Equal:
                output.WriteLine(" Bytes: all as they were sent");
                break;
            case PerftestBytes.Foreign:
                output.WriteLine($" Bytes: received; sha256 {result.ReceivedSha256}");
                break;
            default:
                break;
        }

        if (result.Additions is { } additions)
        {
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $" Additions: {additions}, each once"));
        }
    }
}
