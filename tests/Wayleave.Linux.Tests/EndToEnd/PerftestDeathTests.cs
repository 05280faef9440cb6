using System.Net;
using Wayleave.Linux.Tests.Ibverbs;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>
/// <c>wayleave perftest</c> when the process at the other end is killed. Over TCP its kernel closes the exchange; with
/// <c>-R</c> nobody says anything.
/// </summary>
public class PerftestDeathTests : EndToEndTest
{
    // Greeting, keys and barriers are shorter: behind this many bytes of packets the run is on.
    private const long CapturedBytes = 1 << 18;

    // A side that only waits, one that only sends, and both; requests one at a time, for a capture of each is kept.
    [Theory]
    [InlineData("write-bw", "-n 100000000 -t 1 -s 64", true)]
    [InlineData("write-bw", "-n 100000000 -t 1 -s 64 -R", true)]
    [InlineData("write-bw", "-n 100000000 -t 1 -s 64 -R", false)]
    [InlineData("read-bw", "-n 100000000 -t 1 -s 64 -q 3 -R", true)]
    [InlineData("send-bw", "-n 100000000 -t 1 -s 64", true)]
    [InlineData("send-bw", "-n 100000000 -t 1 -s 64 -R", true)]
    [InlineData("send-bw", "-D 600 -t 1 -s 64 -b -c UC", true)]
    [InlineData("write-lat", "-n 10000000 -s 64 -R", true)]
    [InlineData("read-lat", "-n 10000000 -s 64", true)]
    public async Task The_side_that_lives_on_says_so_and_ends(string test, string arguments, bool isClientKilled)
    {
        IPAddress address = NextAddress();
        string capture = InFolder("capture.pcap");
        string[] options = [.. arguments.Split(' '), "--patience", "10m"];
        CliProcess server = Start(["perftest", test, "-d", $"{address}", .. options]);
        await UntilAsync("the server waits", () => Task.FromResult(server.ErrorSoFar.Contains("waiting for ib_")));
        CliProcess client = Start(
            ["perftest", test, $"{address}", "-d", $"{NextAddress()}", "--pcap", capture, .. options]);
        await UntilAsync("the run is on", () => Task.FromResult(
            new FileInfo(capture) is { Exists: true, Length: > CapturedBytes }));
        (CliProcess dies, CliProcess lives) = isClientKilled ? (client, server) : (server, client);
        lives.MeasureFromNow();
        dies.Signal(CliProcess.SigKill);
        CliResult left = await lives.WaitAsync();
        await ExpectInTimeAsync(left);
        Assert.Equal((1, ""), (left.ExitCode, left.Out));
        Assert.Matches(
            @"^(waiting for ib_\w+ at port 18515\n)?wayleave: perftest: (the peer has ended before the run has"
            + @"|the peer has gone: it does not answer any more|a request ended with RetryExceeded( after \d+)?"
            + @"|the exchange with the peer has ended: Connection reset by peer)\n$",
            left.Error);
    }

    // Debian's tool over our libibverbs, whose process drives its own port.
    [Theory]
    [InlineData("write-bw", "ib_write_bw", "-n 100000000 -t 1 -s 64")]
    [InlineData("write-bw", "ib_write_bw", "-n 100000000 -t 1 -s 64 -R")]
    [InlineData("send-bw", "ib_send_bw", "-n 100000000 -t 1 -s 64 -R")]
    public async Task A_tool_of_perftest_that_is_killed_is_told_of_in_time(string test, string tool, string arguments)
    {
        VerbsPrograms.Library();
        IPAddress address = NextAddress();
        string capture = InFolder("capture.pcap");
        string[] options = arguments.Split(' ');
        CliProcess server = Start(
            ["perftest", test, "-d", $"{address}", "--pcap", capture, "--patience", "10m", .. options]);
        await UntilAsync("the server waits", () => Task.FromResult(server.ErrorSoFar.Contains("waiting for ib_")));
        using StartedProgram client = VerbsPrograms.StartOn(
            $"wl0@{NextAddress()}", tool, ["-F", .. options, $"{address}"]);
        await UntilAsync("the run is on", () => Task.FromResult(
            client.HasEnded || new FileInfo(capture) is { Exists: true, Length: > CapturedBytes }));
        server.MeasureFromNow();
        client.Kill();
        CliResult left = await server.WaitAsync();
        await ExpectInTimeAsync(left);
        Assert.Equal((1, ""), (left.ExitCode, left.Out));
        Assert.Matches("the peer has (ended before the run has|gone: it does not answer any more)", left.Error);
    }

    // The connection manager itself would go on asking for more than a minute.
    [Fact]
    public async Task A_server_that_nobody_is_is_given_up_with_patience()
    {
        IPAddress nobody = NextAddress();
        CliResult result = await RunAsync(
            "perftest", "write-bw", $"{nobody}", "-d", $"{NextAddress()}", "-R", "--patience", "500ms");
        ExpectFailure(
            1,
            $"connect to {nobody}:18515: the peer does not answer for 0.5 s, and its UDP port 4791 is closed; is it "
            + "there, with -R, and does UDP port 4791 reach it?",
            result);
    }

    [Fact]
    public async Task A_server_that_nobody_is_is_told_of_in_time()
    {
        IPAddress nobody = NextAddress();
        CliResult result = await RunAsync("perftest", "write-bw", $"{nobody}", "-d", $"{NextAddress()}", "-R");
        await ExpectInTimeAsync(result);
        ExpectFailure(
            1,
            $"connect to {nobody}:18515: the peer does not answer for 8 s, and its UDP port 4791 is closed; is it "
            + "there, with -R, and does UDP port 4791 reach it?",
            result);
    }

    [Fact]
    public async Task A_ping_pong_of_which_one_side_is_killed_ends_after_its_patience()
    {
        IPAddress address = NextAddress();
        string capture = InFolder("capture.pcap");
        string[] options = ["-n", "10000000", "-s", "64", "--patience", "5s"];
        CliProcess server = Start(["perftest", "rc-pingpong", "-d", $"{address}", .. options]);
        await UntilAsync("the server waits", () => Task.FromResult(server.ErrorSoFar.Contains("waiting for ibv_")));
        CliProcess client = Start(
            ["perftest", "rc-pingpong", $"{address}", "-d", $"{NextAddress()}", "--pcap", capture, .. options]);
        await UntilAsync("the run is on", () => Task.FromResult(
            new FileInfo(capture) is { Exists: true, Length: > CapturedBytes }));
        client.Signal(CliProcess.SigKill);
        CliResult left = await server.WaitAsync();
        Assert.Equal(1, left.ExitCode);
        Assert.Matches("pingpong: (the peer is silent for 5 s|a request ended with RetryExceeded)", left.Error);
    }
}
