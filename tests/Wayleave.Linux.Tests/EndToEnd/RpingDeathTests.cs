using System.Net;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary><c>wayleave rping</c> when the process at the other end is killed, which tells nobody.</summary>
public class RpingDeathTests : EndToEndTest
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task The_side_that_lives_on_says_so_and_ends(bool isClientKilled)
    {
        IPAddress address = NextAddress();
        CliProcess server = await ServeAsync(address);
        CliProcess client = Start(
            "rping", "--client", $"{address}", "--address", $"{NextAddress()}", "--count", "0", "--patience", "1m");
        Assert.StartsWith("server ping data: rdma-ping-0: ", await server.ReadFirstLineAsync());
        (CliProcess dies, CliProcess lives) = isClientKilled ? (client, server) : (server, client);
        dies.Signal(CliProcess.SigKill);
        CliResult left = await lives.WaitAsync();
        Assert.Equal(1, left.ExitCode);
        Assert.Matches("rping over .*: a request ended with RetryExceeded\n$", left.Error);
    }

    [Fact]
    public async Task A_server_that_is_interrupted_takes_leave_and_its_client_says_who_has_ended()
    {
        CliProcess.SkipWhenIgnored(CliProcess.SigTerm);
        IPAddress address = NextAddress();
        CliProcess server = await ServeAsync(address);
        CliProcess client = Start(
            "rping", "--client", $"{address}", "--address", $"{NextAddress()}", "--count", "0", "--patience", "1m");
        await server.ReadFirstLineAsync();
        server.Signal(CliProcess.SigTerm);
        CliResult interrupted = await server.WaitAsync(), left = await client.WaitAsync();
        Assert.Equal((130, 1), (interrupted.ExitCode, left.ExitCode));
        Assert.Matches("^wayleave: rping over .*: the peer has disconnected\n$", left.Error);
    }

    [Fact]
    public async Task A_client_that_is_interrupted_takes_leave_and_its_server_ends_well()
    {
        CliProcess.SkipWhenIgnored(CliProcess.SigInt);
        IPAddress address = NextAddress();
        CliProcess server = await ServeAsync(address);
        CliProcess client = Start(
            "rping", "--client", $"{address}", "--address", $"{NextAddress()}", "--count", "0", "--patience", "1m");
        await server.ReadFirstLineAsync();
        client.Signal(CliProcess.SigInt);
        CliResult interrupted = await client.WaitAsync(), served = await server.WaitAsync();
        Assert.Equal((130, "wayleave: interrupted\n"), (interrupted.ExitCode, interrupted.Error));
        Assert.Equal((0, "waiting for a client at port 7174\n"), (served.ExitCode, served.Error));
        Assert.Matches(@"\d+ pings? served\n$", served.Out);
    }

    // A client that comes before the server listens is refused by the device, and the server would wait for ever.
    private async Task<CliProcess> ServeAsync(IPAddress address)
    {
        CliProcess server = Start("rping", "--server", "--address", $"{address}", "--verbose");
        await UntilAsync("the server listens", () => Task.FromResult(
            server.ErrorSoFar.Contains("waiting for a client", StringComparison.Ordinal)));
        return server;
    }
}
