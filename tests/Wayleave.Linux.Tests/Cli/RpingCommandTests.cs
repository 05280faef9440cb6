using System.Net;
using System.Net.Sockets;
using Wayleave.Cli;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary><c>wayleave rping</c>, both sides of it.</summary>
public class RpingCommandTests
{
    [Fact]
    public async Task ROCE_77_Two_of_ours_ping_each_other_with_65535_bytes()
    {
        string address = Loopback.NextAddress();
        Task<Outcome> server = await Serve("--address", address, "--verbose");
        Outcome client = await Run(
            "rping", "--client", address, "--address", Loopback.NextAddress(), "--count", "100", "--size", "65535");
        Assert.Equal((0, ""), (client.ExitCode, client.Error));
        Assert.Equal("100 pings of 65535 bytes, all as they were sent\n", client.Output);
        Outcome served = await server;
        Assert.Equal(0, served.ExitCode);
        Assert.EndsWith("100 pings served\n", served.Output, StringComparison.Ordinal);
        Assert.StartsWith("server ping data: rdma-ping-0: ABCDEF", served.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ROCE_70_A_client_that_finds_nobody_listening_says_so()
    {
        string address = Loopback.NextAddress();
        Task<Outcome> server = await Serve("--address", address, "--port", "7175");
        Outcome refused = await Run(
            "rping", "--client", address, "--address", Loopback.NextAddress(), "--port", "7176");
        Assert.Equal(1, refused.ExitCode);
        Assert.Contains("the peer says no: InvalidServiceId", refused.Error, StringComparison.Ordinal);
        Outcome client = await Run(
            "rping", "--client", address, "--address", Loopback.NextAddress(), "--port", "7175", "--count", "1",
            "--json");
        Assert.StartsWith(
            """{"schema":"wayleave.rping.v1","pings":1,"size_bytes":64,""", client.Output, StringComparison.Ordinal);
        Assert.Equal("1 ping served\n", (await server).Output);
    }

    [Fact]
    public async Task A_client_that_nobody_answers_gives_up_when_its_patience_is_over()
    {
        string address = Loopback.NextAddress();
        Outcome silent = await Run(
            "rping", "--client", address, "--address", Loopback.NextAddress(), "--patience", "300ms");
        Assert.Equal((1, ""), (silent.ExitCode, silent.Output));
        Assert.Equal(
            $"wayleave: connect to {address}:7174: nobody answers for 300 ms, and its UDP port 4791 is closed; start a "
            + "server there, and let UDP port 4791 through\n",
            silent.Error);
    }

    // Somebody has the port, and says nothing: there is no more to say.
    [Fact]
    public async Task Of_a_peer_that_is_only_silent_nothing_more_is_said()
    {
        string address = Loopback.NextAddress();
        using Socket deaf = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        deaf.Bind(new IPEndPoint(IPAddress.Parse(address), 4791));
        Outcome silent = await Run(
            "rping", "--client", address, "--address", Loopback.NextAddress(), "--patience", "300ms");
        Assert.StartsWith(
            $"wayleave: connect to {address}:7174: nobody answers for 300 ms; start a server there", silent.Error,
            StringComparison.Ordinal);
    }

    // Everything from the REQ to the DREP, as Wireshark and `roce check` read it.
    [Fact]
    public async Task A_capture_has_what_both_sides_sent_with_right_checksums()
    {
        string capture = Path.Combine(Path.GetTempPath(), $"wayleave-rping-{Guid.NewGuid():N}.pcap");
        try
        {
            string address = Loopback.NextAddress(), own = Loopback.NextAddress();
            Task<Outcome> server = await Serve("--address", address);
            Outcome client = await Run(
                "rping", "--client", address, "--address", own, "--count", "2", "--pcap", capture);
            Assert.Equal((0, "", 0), (client.ExitCode, client.Error, (await server).ExitCode));
            Outcome check = await Run("roce", "check", capture, "--json");
            Assert.Equal(0, check.ExitCode);
            Assert.Contains("RC_READ_REQUEST", check.Output, StringComparison.OrdinalIgnoreCase);
            Assert.Contains(address, check.Output, StringComparison.Ordinal);
            Outcome refused = await Run(
                "rping", "--client", address, "--address", own, "--pcap", "/proc/nowhere/p");
            Assert.StartsWith("wayleave: write /proc/nowhere/p: ", refused.Error, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(capture);
        }
    }

    [Theory]
    [InlineData("rping")]
    [InlineData("rping", "--server", "--client", "127.0.0.1")]
    [InlineData("rping", "--server", "--size", "22")]
    [InlineData("rping", "--server", "--size", "65536")]
    [InlineData("rping", "--server", "--port", "0")]
    [InlineData("rping", "--client", "nowhere")]
    [InlineData("rping", "--client", "127.79.4.1", "--count", "-1")]
    [InlineData("rping", "--client", "::1", "--address", "127.79.4.2")]
    public async Task What_makes_no_sense_is_a_usage_error(params string[] arguments) =>
        Assert.Equal(2, (await Run(arguments)).ExitCode);

    // The server, once it waits for a client.
    private static async Task<Task<Outcome>> Serve(params string[] arguments)
    {
        FirstLine error = new();
        Task<Outcome> server = Run(error, ["rping", "--server", .. arguments]);
        await Task.WhenAny(server, error.Written);
        return server;
    }

    private static Task<Outcome> Run(params string[] arguments) =>
        Run(new StringWriter { NewLine = "\n" }, arguments);

    private static async Task<Outcome> Run(StringWriter error, string[] arguments)
    {
        using StringWriter output = new() { NewLine = "\n" };
        int exitCode = await CommandLine.RunAsync(arguments, output, error, TestContext.Current.CancellationToken);
        return new Outcome(exitCode, output.ToString(), error.ToString());
    }

    /// <summary>Says when something was written.</summary>
    private sealed class FirstLine : StringWriter
    {
        private readonly TaskCompletionSource _written = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public Task Written => _written.Task;

        public override void WriteLine(string? value)
        {
            base.WriteLine(value);
            _written.TrySetResult();
        }
    }

    private sealed record Outcome(int ExitCode, string Output, string Error);
}
