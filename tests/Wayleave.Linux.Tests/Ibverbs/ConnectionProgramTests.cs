using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Programs of librdmacm: Debian's, and one of ours that uses what those do not.</summary>
public class ConnectionProgramTests
{
    [Theory]
    [InlineData("IPv4")]
    [InlineData("::1")]
    public void Own_queue_pairs_endpoints_and_datagrams_connect_and_the_rest_is_refused_by_its_errno(string where)
    {
        string address = where == "IPv4" ? Loopback.NextAddress() : where;
        string program = VerbsPrograms.Compile("Connections.c");
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{address}", program, address);
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Theory]
    [InlineData("udaddy", "-b", "-s", "-C", "5")]
    [InlineData("ucmatose", "-b", "-s", "-c", "4")]
    [InlineData("rdma_server", "-s", "-s")]
    public void Both_sides_of_a_program_of_rdmacm_utils_end_well(
        string program, string serverOption, string clientOption, params string[] arguments)
    {
        string server = Loopback.NextAddress(), client = Loopback.NextAddress();
        using StartedProgram waiting = VerbsPrograms.StartOn(
            $"wl0@{server}", program, [serverOption, server, .. arguments]);
        VerbsPrograms.AwaitPort(server, waiting);
        VerbsRun asked = VerbsPrograms.RunOn(
            $"wl0@{client}", program == "rdma_server" ? "rdma_client" : program, [clientOption, server, .. arguments]);
        VerbsRun served = waiting.Wait();
        Assert.True(asked.Exit == 0 && served.Exit == 0, $"{asked}\n{served}");
    }

    // Its server listens, takes one connection, and listens again a second after its client has asked for the next.
    [Theory]
    [InlineData("ib_write_bw", "-n", "100")]
    [InlineData("ib_send_lat", "-n", "100")]
    [InlineData("ib_read_bw", "-n", "100", "-q", "2")]
    [InlineData("ib_send_lat", "-n", "20", "-c", "UD")]
    public void Perftest_connects_by_rdma_cm(string program, params string[] arguments)
    {
        string server = Loopback.NextAddress(), client = Loopback.NextAddress();
        string[] all = [.. arguments, "-R", "-p", "19875"];
        using StartedProgram waiting = VerbsPrograms.StartOn($"wl0@{server}", program, all);
        VerbsPrograms.AwaitPort(server, waiting);
        VerbsRun asked = VerbsPrograms.RunOn($"wl0@{client}", program, [.. all, server]);
        VerbsRun served = waiting.Wait();
        Assert.True(asked.Exit == 0 && served.Exit == 0, $"{asked}\n{served}");
    }

    [Fact]
    public void Two_hosts_of_IPv6_talk_by_rping()
    {
        Assert.SkipUnless(VerbsPrograms.Run("unshare", "-Urn", "true").Exit == 0, "no user namespaces here");
        string library = VerbsPrograms.Library();
        string script = $"""
            set -e
            export LD_LIBRARY_PATH={library}
            ip link set lo up
            ip -6 addr add fd77::1/128 dev lo nodad
            ip -6 addr add fd77::2/128 dev lo nodad
            WAYLEAVE_DEVICES=wl0@fd77::1 rping -s -a fd77::1 -C 3 & server=$!
            until grep -q ' 000077FD000000000000000001000000:12B7 ' /proc/net/udp6; do kill -0 $server; done
            WAYLEAVE_DEVICES=wl0@fd77::2 rping -c -a fd77::1 -C 3 -v
            wait $server
            """;
        VerbsRun run = VerbsPrograms.Run("unshare", "-Urn", "bash", "-c", script);
        Assert.True(run.Exit == 0, run.ToString());
        Assert.Contains("ping data: rdma-ping-2:", run.Output, StringComparison.Ordinal);
    }
}
