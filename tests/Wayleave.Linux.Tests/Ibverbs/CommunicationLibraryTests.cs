using System.Globalization;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>UCX and libfabric of Debian over our library.</summary>
public class CommunicationLibraryTests
{
    [Theory]
    [InlineData("dgram", "verbs")]
    [InlineData("rdm", "verbs;ofi_rxd")]
    public async Task Libfabric_answers_itself(string endpoint, string provider)
    {
        (string server, string client, string port) = Pair();
        string[] common = ["-p", provider, "-e", endpoint, "-I", "100", "-S", "64"];
        Task<DropInTests.Result> serving = Task.Run(() => DropInTests.Run(
            server, "fi_pingpong", [.. common, "-B", port]));
        DropInTests.AwaitListener(int.Parse(port, CultureInfo.InvariantCulture), serving);
        DropInTests.Result result = DropInTests.Run(client, "fi_pingpong", [.. common, "-P", port, "127.0.0.1"]);
        DropInTests.Result served = await serving;
        Assert.True(served.Exit == 0 && result.Exit == 0, $"{served}\n{result}");
        Assert.Contains("usec/xfer", result.Output, StringComparison.Ordinal);
        Assert.Equal("100", result.Output.Trim().Split('\n')[^1].Split(
            ' ', StringSplitOptions.RemoveEmptyEntries)[1]);
    }

    [Theory]
    [InlineData("msg", "verbs")]
    [InlineData("rdm", "verbs;ofi_rxm")]
    public void Libfabric_connects_message_endpoints(string endpoint, string provider)
    {
        Assert.SkipUnless(File.Exists("/usr/bin/fi_pingpong"), "no fi_pingpong");
        string script = Path.Combine(VerbsPrograms.Sources(), "message-endpoints.sh");
        VerbsRun run = VerbsPrograms.RunOn(
            "", "unshare", "-rn", script, "-p", provider, "-e", endpoint, "-I", "20");
        Assert.SkipWhen(run.Exit == 77 || run.Errors.StartsWith("unshare:", StringComparison.Ordinal), run.Errors);
        Assert.True(run.Exit == 0, run.ToString());
        string[] rows = run.Output.Trim().Split('\n');
        Assert.Equal(2, rows.Count(r => r.StartsWith("1m ", StringComparison.Ordinal) && r.Contains("=20")));
    }

    // UCX looks for device nodes and for the types of GIDs in files, which --ns makes. A connection by rc_verbs is made
    // with datagrams of ud_verbs.
    [Theory]
    [InlineData("rc_verbs,ud_verbs", "ucp_put_lat", "8")]
    [InlineData("rc_verbs,ud_verbs", "ucp_put_bw", "65536")]
    [InlineData("rc_verbs,ud_verbs", "tag_bw", "65536")]
    [InlineData("rc_verbs,ud_verbs", "ucp_get", "65536")]
    [InlineData("rc_verbs,ud_verbs", "ucp_fadd", "8")]
    [InlineData("ud_verbs", "tag_lat", "8")]
    [InlineData("ud_verbs", "tag_bw", "4096")]
    public async Task Ucx_measures(string transports, string test, string bytes)
    {
        DropInTests.Library();
        string wayleave = Path.Combine(AppContext.BaseDirectory, "wayleave");
        Assert.SkipUnless(File.Exists(wayleave), "no wayleave beside the tests");
        Assert.SkipUnless(File.Exists("/usr/bin/ucx_perftest"), "no ucx_perftest");
        DropInTests.Result made = DropInTests.Start(null, null, wayleave, "run", "--ns", "--", "true");
        Assert.SkipUnless(made.Exit == 0, $"no namespace: {made.Errors.Trim()}");
        (string server, string client, string port) = Pair();
        string[] program =
            [
                "--", "env", $"UCX_TLS={transports}", "UCX_NET_DEVICES=wl0:1", "UCX_WARN_UNUSED_ENV_VARS=n",
                "ucx_perftest", "-p", port,
            ];
        Task<DropInTests.Result> serving = Task.Run(() => DropInTests.Start(
            null, null, wayleave, ["run", "--ns", "--devices", server, .. program]));
        DropInTests.AwaitListener(int.Parse(port, CultureInfo.InvariantCulture), serving);
        DropInTests.Result result = DropInTests.Start(
            null, null, wayleave,
            [
                "run", "--ns", "--devices", client, .. program,
                "127.0.0.1", "-t", test, "-s", bytes, "-n", "200", "-w", "10", "-f", "-v",
            ]);
        DropInTests.Result served = await serving;
        Assert.True(served.Exit == 0 && result.Exit == 0, $"{served}\n{result}");
        string[] row = result.Output.Trim().Split('\n')[^1].Split(',');
        Assert.True(row.Length >= 8 && row[0].Trim() == "200", result.Output);
    }

    private static (string Server, string Client, string Port) Pair()
    {
        string port = Loopback.NextPort().ToString(CultureInfo.InvariantCulture);
        return ($"wl0@{Loopback.NextAddress()}", $"wl0@{Loopback.NextAddress()}", port);
    }
}
