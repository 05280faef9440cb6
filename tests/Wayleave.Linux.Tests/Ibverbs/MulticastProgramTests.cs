using System.Globalization;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>Multicast by programs: one of ours, and Debian's.</summary>
public sealed class MulticastProgramTests
{
    // No two tests at one time in one group: each would get the other's.
    private static int s_groups = Environment.ProcessId;

    [Fact]
    public void A_group_by_verbs_and_by_rdma_cm_and_what_is_refused()
    {
        string address = Loopback.NextAddress();
        string program = VerbsPrograms.Compile("Multicast.c");
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{address}", program, address, NextGroup(), "ff0e::77");
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void A_group_of_IPv6()
    {
        string program = VerbsPrograms.Compile("Multicast.c");
        VerbsRun run = RunWithIPv6($"WAYLEAVE_DEVICES=wl0@fd77::1 {program} fd77::1 ff15::77 239.77.1.2");
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void Both_sides_of_mckey_end_well_on_the_loopback()
    {
        string receiver = Loopback.NextAddress(), sender = Loopback.NextAddress(), group = NextGroup();
        using StartedProgram waiting = VerbsPrograms.StartOn(
            $"wl0@{receiver}", "mckey", "-m", group, "-b", receiver, "-C", "5");
        VerbsPrograms.AwaitPort(group, waiting);
        VerbsRun sent = VerbsPrograms.RunOn($"wl0@{sender}", "mckey", "-m", group, "-b", sender, "-s", "-C", "5");
        VerbsRun received = waiting.Wait();
        Assert.True(sent.Exit == 0 && received.Exit == 0, $"{sent}\n{received}");
    }

    [Fact]
    public void Both_sides_of_mckey_end_well_over_a_link_of_IPv6()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/mckey"), "no mckey");
        VerbsRun run = RunWithIPv6("""
            WAYLEAVE_DEVICES=wl0@fd77::1 mckey -m ff0e::77 -b fd77::1 -C 3 & server=$!
            until grep -q ' 00000EFF000000000000000077000000:12B7 ' /proc/net/udp6; do kill -0 $server; done
            WAYLEAVE_DEVICES=wl1@fd77::2 mckey -m ff0e::77 -b fd77::2 -s -C 3
            wait $server
            """);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Theory]
    [InlineData("ib_send_bw", "-n", "200", "-s", "512")]
    [InlineData("ib_send_lat", "-n", "200", "-s", "64")]
    public void Perftest_sends_to_a_group(string program, params string[] arguments)
    {
        string group = "0:0:0:0:0:0:0:0:0:0:255:255:" + NextGroup().Replace('.', ':');
        (DropInTests.Result server, DropInTests.Result client) = DropInTests.RunPair(
            program, "-p", [.. arguments, "-c", "UD", "-g", "-M", group]);
        Assert.True(server.Exit == 0 && client.Exit == 0, $"{server}\n{client}");
    }

    private static string NextGroup()
    {
        int number = Interlocked.Increment(ref s_groups);
        return string.Create(
            CultureInfo.InvariantCulture, $"239.{192 + (number >> 14 & 63)}.{number >> 7 & 127}.{number & 127}");
    }

    // The loopback carries no group of IPv6: two interfaces at two ends of a link.
    private static VerbsRun RunWithIPv6(string commands)
    {
        Assert.SkipUnless(VerbsPrograms.Run("unshare", "-Urn", "true").Exit == 0, "no user namespaces here");
        string script = $"""
            set -e
            export LD_LIBRARY_PATH={VerbsPrograms.Library()}
            ip link set lo up
            ip link add v0 type veth peer name v1
            ip link set v0 up
            ip link set v1 up
            ip -6 addr add fd77::1/64 dev v0 nodad
            ip -6 addr add fd77::2/64 dev v1 nodad
            {commands}
            """;
        return VerbsPrograms.Run("unshare", "-Urn", "bash", "-c", script);
    }
}
