using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Wayleave.Cli;
using Wayleave.Host.Perftest;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary>
/// <c>wayleave perftest</c>, both sides of it, and peers that are none. The tools themselves are in the lab.
/// </summary>
public class PerftestCommandTests
{
    public static TheoryData<string, string> Runs
    {
        get
        {
            TheoryData<string, string> runs = [];
            foreach (string exchange in (string[])["", " -R"])
            {
                foreach (string test in (string[])["write-bw", "read-bw", "send-bw", "atomic-bw"])
                {
                    runs.Add(test, "-n 60" + exchange);
                }

                foreach (string test in (string[])["write-lat", "read-lat", "send-lat", "atomic-lat"])
                {
                    runs.Add(test, "-n 20" + exchange);
                }
            }

            runs.Add("write-bw", "-n 20 -q 3 -m 1024");
            runs.Add("write-bw", "-n 20 -b -q 2");
            runs.Add("write-bw", "-n 20 -q 4 -R");
            runs.Add("send-bw", "-n 20 -b -q 4 -R");
            runs.Add("send-bw", "-n 20 -b");
            runs.Add("read-bw", "-n 20 -b -R");
            runs.Add("send-bw", "-n 600 -s 64 -t 16");
            runs.Add("send-bw", "-D 0.2");
            runs.Add("send-bw", "-D 0.2 -b");
            runs.Add("write-bw", "-D 0.2");
            runs.Add("atomic-bw", "-n 50 -A CMP_AND_SWAP");
            runs.Add("write-bw", "-c UC -n 20 -s 4096");
            runs.Add("write-bw", "-c UC -D 0.2 -s 4096 -q 2 -t 4");
            runs.Add("send-bw", "-c UC -n 20 -s 4096");
            runs.Add("send-bw", "-c UC -D 0.2 -s 4096 -t 4 -b");
            runs.Add("write-lat", "-c UC -n 20");
            runs.Add("send-lat", "-c UC -n 20");
            runs.Add("send-bw", "-c UD -n 20");
            runs.Add("send-bw", "-c UD -n 20 -s 1024 -q 2 -m 1024");
            runs.Add("send-bw", "-c UD -D 0.2 -t 4 -b");
            runs.Add("send-lat", "-c UD -n 20 -s 64");
            return runs;
        }
    }

    [Theory]
    [MemberData(nameof(Runs))]
    public async Task ROCE_77_Two_of_ours_measure_each_other_by_both_exchanges(string test, string arguments)
    {
        (string server, string client) = NextAddresses();
        string[] options = [.. arguments.Split(' '), "--json"];
        Task<Outcome> serving = await Serve([test, "-d", server, .. options]);
        Outcome asked = await Run(new StringWriter(), ["perftest", test, server, "-d", client, .. options]);
        Outcome served = await serving;
        Assert.Equal((0, ""), (asked.ExitCode, asked.Error));
        Assert.Equal(0, served.ExitCode);
        foreach (JsonElement end in (JsonElement[])[Parse(asked.Output), Parse(served.Output)])
        {
            Assert.Equal("6.24", end.GetProperty("peer_version").GetString());
            Assert.NotEqual("foreign", end.GetProperty("bytes").GetString());
        }

        Assert.True(Proves(Parse(asked.Output)) || Proves(Parse(served.Output)), "neither side saw its bytes");

        static bool Proves(JsonElement end) => end.GetProperty("bytes").GetString() == "equal"
            || (end.GetProperty("tool").GetString()!.StartsWith("ib_atomic", StringComparison.Ordinal)
                && end.GetProperty("results").GetArrayLength() > 0);
    }

    // 1 % is lost each way, 5 % overtaken and 5 % doubled; retry count 7 as ever. Additions under faults are below.
    [Theory]
    [InlineData("write-bw")]
    [InlineData("read-bw")]
    [InlineData("send-bw")]
    public async Task ROCE_77_Two_of_ours_move_a_third_of_a_GiB_over_a_link_that_is_bad_both_ways(string test)
    {
        (string server, string client) = NextAddresses();
        string[] options =
            ["-n", "5462", "-s", "65536", "--faults", "loss=1%,reorder=5%,duplicate=5%,path=in", "--json"];
        Task<Outcome> serving = await Serve([test, "-d", server, .. options]);
        Outcome asked = await Run(new StringWriter(), ["perftest", test, server, "-d", client, .. options]);
        Outcome served = await serving;
        Assert.Equal((0, "", 0), (asked.ExitCode, asked.Error, served.ExitCode));
        (JsonElement there, JsonElement here) = (Parse(served.Output), Parse(asked.Output));
        (JsonElement sender, JsonElement receiver) = test == "read-bw" ? (there, here) : (here, there);
        Assert.Equal(
            sender.GetProperty("sent_sha256").GetString(), receiver.GetProperty("received_sha256").GetString());
        Assert.Equal("equal", receiver.GetProperty("bytes").GetString());
    }

    [Fact]
    public async Task Every_size_from_2_bytes_to_8_MiB_is_measured()
    {
        (string server, string client) = NextAddresses();
        Task<Outcome> serving = await Serve(["send-bw", "-d", server, "-a", "-n", "5", "--json"]);
        Outcome asked = await Run(
            new StringWriter(), ["perftest", "send-bw", server, "-d", client, "-a", "-n", "5", "--json"]);
        Assert.Equal((0, ""), (asked.ExitCode, asked.Error));
        JsonElement end = Parse((await serving).Output);
        Assert.Equal("equal", end.GetProperty("bytes").GetString());
        Assert.Equal(
            Enumerable.Range(1, 23).Select(power => 1L << power),
            end.GetProperty("results").EnumerateArray().Select(r => r.GetProperty("size_bytes").GetInt64()));
    }

    [Theory]
    [InlineData("", 1000)]
    [InlineData("-R", 300)]
    public async Task Additions_are_counted_where_they_are_made(string exchange, int count)
    {
        (string server, string client) = NextAddresses();
        string[] options =
            [.. exchange.Split(' ', StringSplitOptions.RemoveEmptyEntries), "-n", $"{count}", "--json"];
        Task<Outcome> serving = await Serve(["atomic-bw", "-d", server, .. options]);
        Outcome asked = await Run(new StringWriter(), ["perftest", "atomic-bw", server, "-d", client, .. options]);
        Assert.Equal(0, asked.ExitCode);
        Assert.Equal(count, Parse((await serving).Output).GetProperty("additions").GetInt32());
        Assert.Equal(count, Parse(asked.Output).GetProperty("additions").GetInt32());
    }

    [Theory]
    [InlineData("100")]
    [InlineData("1")]
    public async Task Ping_pong_comes_back_as_it_was_sent(string iterations)
    {
        (string server, string client) = NextAddresses();
        Task<Outcome> serving = await Serve(["rc-pingpong", "-d", server, "-n", iterations, "--json"]);
        Outcome asked = await Run(
            new StringWriter(), ["perftest", "rc-pingpong", server, "-d", client, "-n", iterations, "--json"]);
        Assert.Equal((0, ""), (asked.ExitCode, asked.Error));
        Assert.Equal(
            Parse(asked.Output).GetProperty("received_sha256").GetString(),
            Parse((await serving).Output).GetProperty("received_sha256").GetString());
    }

    public static TheoryData<string, byte[], string> Strangers => new()
    {
        { "9e999", [], "the peer says version '9e999', and 5.70 to 6.x are known here" },
        { "5.60", [], "the peer says version '5.60'" },
        { "7.01", [], "the peer says version '7.01'" },
        { "\u001b[31m", [], "the peer says version '?[31m'" },
        { "", [], "the peer says version ''" },
        { "6.06", [255, 255, 255, 255, 0, 0, 0, 64], "a page of -1 bytes" },
        { "6.06", [0, 0, 16, 0, 0, 0, 0, 64, (byte)'9', 0], "the peer sends '9' as its MTU" },
        { "6.06", [0, 0, 16, 0, 0, 0, 0, 64, (byte)'3', 0, .. Text('z')], "describe no queue pair" },
        { "6.06", [0, 0, 16, 0, 0, 0, 0, 64, (byte)'3', 0, .. Text(':')], "describe no queue pair" },
    };

    [Theory]
    [MemberData(nameof(Strangers))]
    public async Task H_16_A_peer_that_is_none_is_told_apart(string version, byte[] more, string problem)
    {
        byte[] hello = new byte[16];
        Encoding.ASCII.GetBytes(version, hello);
        Outcome served = await Answer([.. hello, .. more], closes: false);
        Assert.Equal(1, served.ExitCode);
        Assert.Contains(problem, served.Error, StringComparison.Ordinal);
        Assert.DoesNotContain('\u001b', served.Error);
    }

    [Theory]
    [InlineData(107)]
    [InlineData(1)]
    [InlineData(0)]
    public async Task H_16_A_peer_that_stops_in_the_middle_and_never_closes_is_given_up(int length)
    {
        Outcome served = await Answer([.. Greeting(), .. Text('0')[..length]], closes: false, "2s");
        Assert.Equal(1, served.ExitCode);
        Assert.Contains("the peer sends no keys for 2 s", served.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(107, "the peer has ended after 107 of 108 bytes")]
    [InlineData(0, "the peer has ended instead of sending its keys")]
    public async Task H_16_A_peer_that_ends_early_is_named(int length, string problem)
    {
        Outcome served = await Answer([.. Greeting(), .. Text('0')[..length]], closes: true);
        Assert.Equal(1, served.ExitCode);
        Assert.Contains(problem, served.Error, StringComparison.Ordinal);
    }

    // The other side's retries, and its questions whether this one is there, are no reason to wait on.
    [Theory]
    [InlineData("send-bw", "-n 10", "-n 20", "")]
    [InlineData("send-bw", "-n 10", "-n 20", "-R")]
    [InlineData("write-bw", "-n 20 -q 2", "-n 20 -q 3", "-R")]
    [InlineData("write-bw", "-n 20 -q 3", "-n 20 -q 2", "-R")]
    public async Task Two_sides_that_were_told_different_numbers_give_each_other_up(
        string test, string here, string there, string exchange)
    {
        (string server, string client) = NextAddresses();
        string[] both = [.. exchange.Split(' ', StringSplitOptions.RemoveEmptyEntries)];
        Task<Outcome> serving = await Serve([test, "-d", server, .. both, .. here.Split(' '), "--patience", "500ms"]);
        Outcome asked = await Run(
            new StringWriter(),
            ["perftest", test, server, "-d", client, .. both, .. there.Split(' '), "--patience", "10m"]);
        Outcome served = await serving;
        Assert.Equal((1, 1), (asked.ExitCode, served.ExitCode));
        Assert.Contains("with the same options as here?", served.Error, StringComparison.Ordinal);
        Assert.Matches(
            "the peer has (ended|disconnected|gone)|the exchange with the peer has ended|RetryExceeded", asked.Error);
    }

    // The client's retries for a server that has no receive any more go on for ever, and get nothing on.
    [Fact(Timeout = Patience.TestMs)]
    public async Task A_server_that_takes_no_more_messages_is_given_up()
    {
        (string server, string client) = NextAddresses();
        Task<Outcome> serving = await Serve(["send-lat", "-d", server, "-n", "10", "--patience", "10m"]);
        Outcome asked = await Run(
            new StringWriter(),
            ["perftest", "send-lat", server, "-d", client, "-n", "20", "--patience", "500ms"]);
        Outcome served = await serving;
        Assert.Equal((1, 0), (asked.ExitCode, served.ExitCode)); // a server may be left so
        Assert.Contains("nothing gets on for 0.5 s", asked.Error, StringComparison.Ordinal);
    }

    // A fifth of the messages is lost on the way: the receiver says how many came, and does not wait for the others.
    [Theory]
    [InlineData("UC")]
    [InlineData("UD")]
    public async Task A_side_that_takes_what_may_be_lost_ends_with_its_peer(string connection)
    {
        (string server, string client) = NextAddresses();
        string[] options = ["-c", connection, "-n", "200", "-s", "512", "-t", "4", "--json"];
        Task<Outcome> serving = await Serve(["send-bw", "-d", server, "--faults", "loss=20%,path=in", .. options]);
        Outcome asked = await Run(new StringWriter(), ["perftest", "send-bw", server, "-d", client, .. options]);
        Outcome served = await serving;
        Assert.Equal((0, "", 0), (asked.ExitCode, asked.Error, served.ExitCode));
        JsonElement end = Parse(served.Output);
        Assert.Equal(connection, end.GetProperty("connection").GetString());
        Assert.Equal("equal", end.GetProperty("bytes").GetString());
        Assert.InRange(end.GetProperty("results")[0].GetProperty("iterations").GetInt64(), 1, 199);
    }

    [Theory]
    [InlineData("perftest", "write-bw", "-s", "0")]
    [InlineData("perftest", "write-bw", "-s", "8388609")]
    [InlineData("perftest", "write-bw", "-n", "4")]
    [InlineData("perftest", "write-bw", "-x", "1")]
    [InlineData("perftest", "write-bw", "-d", "rxe0")]
    [InlineData("perftest", "write-bw", "-q", "1025")]
    [InlineData("perftest", "write-bw", "-q", "1000", "-a")]
    [InlineData("perftest", "write-lat", "-q", "2")]
    [InlineData("perftest", "write-bw", "-a", "-D", "1")]
    [InlineData("perftest", "atomic-bw", "-s", "16")]
    [InlineData("perftest", "write-bw", "-c", "UD")]
    [InlineData("perftest", "write-bw", "-c", "UC", "-R")]
    [InlineData("perftest", "read-bw", "-c", "UC")]
    [InlineData("perftest", "send-bw", "-c", "UD", "-s", "4097")]
    [InlineData("perftest", "send-bw", "-c", "UC", "-a")]
    [InlineData("perftest", "send-bw", "-c", "UD", "-b")]
    [InlineData("perftest", "atomic-bw", "-A", "ADD")]
    [InlineData("perftest", "rc-pingpong", "-s", "0")]
    [InlineData("perftest", "rc-pingpong", "-p", "65536")]
    [InlineData("perftest", "rc-pingpong", "--patience", "0s")]
    [InlineData("perftest", "write-bw", "--patience", "0s")]
    public async Task What_makes_no_sense_is_a_usage_error(params string[] arguments) =>
        Assert.Equal(2, (await Run(new StringWriter(), arguments)).ExitCode);

    [Fact]
    public async Task A_server_that_is_not_there_is_named()
    {
        (string server, string client) = NextAddresses();
        Outcome asked = await Run(new StringWriter(), ["perftest", "write-bw", server, "-d", client]);
        Assert.Equal(1, asked.ExitCode);
        Assert.Contains($"connect to {server}:18515", asked.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("revoke-at=1000000", "a request ended with RemoteAccessError")]
    [InlineData("fail-at=100", "a request ended with RemoteOperationError")]
    public async Task A_fault_at_a_place_ends_the_run_of_both_sides(string faults, string problem)
    {
        (string server, string client) = NextAddresses();
        Task<Outcome> serving = await Serve(["write-bw", "-d", server, "-n", "60", "--faults", faults]);
        Outcome asked = await Run(
            new StringWriter(), ["perftest", "write-bw", server, "-d", client, "-n", "60"]);
        Assert.Equal(1, asked.ExitCode);
        Assert.Contains(problem, asked.Error, StringComparison.Ordinal);
        Outcome served = await serving;
        Assert.Equal(1, served.ExitCode);
        Assert.Contains("the peer has ended before the run has", served.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("write-bw", "hostile")]
    [InlineData("atomic-bw", "loss=1%,reorder=5%,duplicate=5%,seed=7")]
    public async Task Faults_that_are_legal_are_made_good(string test, string faults)
    {
        (string server, string client) = NextAddresses();
        Task<Outcome> serving = await Serve([test, "-d", server, "-n", "30", "--faults", faults]);
        Outcome asked = await Run(new StringWriter(), ["perftest", test, server, "-d", client, "-n", "30"]);
        Assert.Equal((0, ""), (asked.ExitCode, asked.Error));
        Outcome served = await serving;
        Assert.Equal(0, served.ExitCode);
        Assert.Contains(
            test == "write-bw" ? "Bytes: all as they were sent" : "Additions: 30, each once",
            served.Output,
            StringComparison.Ordinal);
    }

    private static byte[] Greeting() =>
        [.. "6.06"u8, .. new byte[12], 0, 0, 16, 0, 0, 0, 0, 64, (byte)'3', 0];

    // A text of the right length, with another digit for every 0.
    private static byte[] Text(char digit)
    {
        byte[] text = new byte[PerftestKeys.TextBytes];
        default(PerftestKeys).WriteText(text);
        text.AsSpan().Replace((byte)'0', (byte)digit);
        return text;
    }

    // A server of ours and a peer that sends these bytes whatever it hears.
    private static async Task<Outcome> Answer(byte[] bytes, bool closes, string patience = "1m")
    {
        (string server, _) = NextAddresses();
        Task<Outcome> serving = await Serve(["write-bw", "-d", server, "--patience", patience]);
        using Socket peer = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await peer.ConnectAsync(new IPEndPoint(IPAddress.Parse(server), PerftestOptions.DefaultPort));
        await peer.SendAsync(bytes);
        if (closes)
        {
            peer.Shutdown(SocketShutdown.Send);
        }

        return await serving;
    }

    private static (string Server, string Client) NextAddresses() =>
        (Loopback.NextAddress(), Loopback.NextAddress());

    private static JsonElement Parse(string json) => JsonDocument.Parse(json).RootElement;

    // The server, once it waits for a client.
    private static async Task<Task<Outcome>> Serve(string[] arguments)
    {
        FirstLine error = new();
        Task<Outcome> server = Run(error, ["perftest", .. arguments]);
        await Task.WhenAny(server, error.Written);
        return server;
    }

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
