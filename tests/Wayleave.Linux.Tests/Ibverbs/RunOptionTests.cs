using System.Globalization;
using System.Text.Json;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>The options of <c>wayleave run</c>, and <c>wayleave fault</c>.</summary>
public class RunOptionTests
{
    private static readonly char[] s_blanks = [' ', '\n'];
    private static readonly string[] s_sockets = ["/proc/net/tcp", "/proc/net/tcp6"];

    [Fact]
    public void A_run_is_captured_traced_and_reported_under_faults()
    {
        string pcap = Path.GetTempFileName(), trace = Path.GetTempFileName();
        string port = NextPort(), device = $"wl0@{Loopback.NextAddress()}";
        using StartedProgram server = VerbsPrograms.StartOn(
            $"wl0@{Loopback.NextAddress()}", "ib_write_bw", "-n", "100", "-s", "65536", "-p", port);
        AwaitListener(port, server);
        VerbsRun client = VerbsPrograms.Run(
            VerbsPrograms.Wayleave(), "run", "--devices", device, "--faults", "loss=2%,seed=3",
            "--pcap", pcap, "--trace", trace, "--report", "--",
            "ib_write_bw", "-n", "100", "-s", "65536", "-p", port, "127.0.0.1");
        VerbsRun served = server.Wait();
        Assert.True(client.Exit == 0 && served.Exit == 0, $"{client}\n{served}");
        Assert.Contains(device, client.Errors, StringComparison.Ordinal);
        Assert.True(Number(client.Errors, "retries ") > 0, client.Errors);
        long packets = Number(client.Errors, "sent ");
        Assert.True(packets >= 100 * 16, client.Errors);

        int frames = CountFrames(pcap);
        Assert.True(frames > packets / 2, $"{frames} of {packets}"); // those that were lost did not leave
        using JsonDocument events = JsonDocument.Parse(File.ReadAllText(trace));
        string[] names = [.. events.RootElement.EnumerateArray().Select(e => e.GetProperty("name").GetString()!)];
        Assert.Contains("RcWriteFirst", names);
        Assert.Contains("CreateQueuePair", names);
        Assert.Contains("rdma.region_mapped", names);
        File.Delete(pcap);
        File.Delete(trace);
    }

    [Fact]
    public void A_program_that_is_killed_leaves_its_report_its_capture_and_its_exit_code()
    {
        string pcap = Path.GetTempFileName(), address = Loopback.NextAddress();
        using StartedProgram server = VerbsPrograms.Start(
            VerbsPrograms.Wayleave(), "run", "--devices", $"wl0@{address}", "--report", "--pcap", pcap, "--",
            "rping", "-s", "-a", address);
        VerbsPrograms.AwaitPort(address, server);
        using StartedProgram client = VerbsPrograms.StartOn(
            $"wl0@{Loopback.NextAddress()}", "rping", "-c", "-a", address, "-C", "1000000");
        Assert.True(SpinWait.SpinUntil(
            () => client.HasEnded || new FileInfo(pcap).Length > 10_000, Patience.Max));
        int program = ChildOf(server.Id);
        System.Diagnostics.Process.GetProcessById(program).Kill(); // SIGKILL: no handler of anybody runs
        VerbsRun run = server.Wait();
        Assert.Equal(128 + 9, run.Exit);
        Assert.True(Number(run.Errors, "received ") > 0, run.Errors);
        Assert.True(CountFrames(pcap) > 10);
        File.Delete(pcap);
    }

    [Theory]
    [InlineData("trap - TERM", 128 + 15)]
    [InlineData("trap 'exit 7' TERM", 7)]
    [InlineData("trap '' TERM", 128 + 9)]
    public void Who_ends_the_run_ends_the_program_and_has_its_exit_code_and_the_report(string trap, int exit)
    {
        string cli = VerbsPrograms.Wayleave();
        string mark = Path.GetTempFileName();
        string program = $"{trap}; ibv_devinfo >/dev/null; echo ready >{mark}; while :; do sleep 0.1; done";
        using StartedProgram run = VerbsPrograms.Start(
            cli, "run", "--devices", $"wl0@{Loopback.NextAddress()}", "--report", "--", "sh", "-c", program);
        Assert.True(SpinWait.SpinUntil(
            () => run.HasEnded || new FileInfo(mark).Length > 0, Patience.Max));
        VerbsPrograms.Run("kill", run.Id.ToString(CultureInfo.InvariantCulture));
        VerbsRun ended = run.Wait();
        Assert.True(ended.Exit == exit, ended.ToString());
        Assert.Contains("no device was used", ended.Errors, StringComparison.Ordinal);
        File.Delete(mark);
    }

    [Fact]
    public void A_program_with_the_rights_of_its_owner_is_warned_of_and_started()
    {
        string cli = VerbsPrograms.Wayleave();
        string file = Path.Combine(Path.GetTempPath(), $"wayleave-{Guid.NewGuid():n}");
        File.Copy("/bin/true", file);
        File.SetUnixFileMode(file, File.GetUnixFileMode(file) | UnixFileMode.SetUser);
        VerbsRun own = VerbsPrograms.Run(cli, "run", "--", file); // its owner has no other rights here
        VerbsRun chown = VerbsPrograms.Run("chown", "61001", file);
        VerbsPrograms.Run("chmod", "u+s", file);
        VerbsRun foreign = VerbsPrograms.Run(cli, "run", "--", file);
        File.Delete(file);
        Assert.Equal((0, ""), (own.Exit, own.Errors));
        Assert.SkipUnless(chown.Exit == 0, "only root gives files away");
        Assert.Equal(0, foreign.Exit);
        Assert.Contains("the loader ignores LD_LIBRARY_PATH for it", foreign.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public void A_program_is_disturbed_from_outside_and_left_alone_again()
    {
        string cli = VerbsPrograms.Wayleave();
        string address = Loopback.NextAddress(), peer = Loopback.NextAddress();
        using StartedProgram server = VerbsPrograms.StartOn($"wl0@{address}", "rping", "-s", "-a", address);
        VerbsPrograms.AwaitPort(address, server);
        using StartedProgram client = VerbsPrograms.StartOn(
            $"wl0@{peer}", "rping", "-c", "-a", address, "-C", "10000000");
        VerbsPrograms.AwaitPort(peer, client);
        string id = server.Id.ToString(CultureInfo.InvariantCulture);
        Assert.Contains(id, VerbsPrograms.Run(cli, "fault").Output.Split('\n'));
        Assert.Contains("no faults", Ask("list").Output, StringComparison.Ordinal);
        Assert.Contains("loss=1%", Ask("drop=1%").Errors, StringComparison.Ordinal);
        Assert.Contains("loss=1%", Ask("list").Output, StringComparison.Ordinal);
        Assert.Contains("no faults", Ask("clear").Errors, StringComparison.Ordinal);
        Assert.Equal(0, Ask("rnr").Exit);
        Assert.Contains("no region has the key 0x00000001", Ask("revoke=1").Errors, StringComparison.Ordinal);
        Assert.Contains("'bogus' is not one of", Ask("bogus").Errors, StringComparison.Ordinal);
        Assert.Equal(1, Ask("bogus").Exit);

        // A client of rping that waits for the server's word waits on: nobody tells it.
        Assert.True(SpinWait.SpinUntil(
            () => Ask("list").Output.Contains("ReadyToSend", StringComparison.Ordinal), Patience.Max));
        Assert.Contains("1 queue pairs in ERR", Ask("qp-error").Errors, StringComparison.Ordinal);
        VerbsRun failed = Ask("list");
        Assert.Equal((0, true), (failed.Exit, failed.Output.Contains("Error", StringComparison.Ordinal)));

        VerbsRun Ask(string request) => VerbsPrograms.Run(cli, "fault", id, request);
    }

    [Fact]
    public void A_key_that_is_revoked_from_outside_is_refused_to_the_peer()
    {
        string cli = VerbsPrograms.Wayleave();
        string port = NextPort();
        using StartedProgram server = ServeWrites(port);
        using StartedProgram client = Write(port);
        string list = ListWhenConnected(server, out string id);
        string key = list.Substring(list.IndexOf("mr 0x", StringComparison.Ordinal) + 3, 10);
        VerbsRun revoked = VerbsPrograms.Run(cli, "fault", id, $"revoke={key}");

        // The program may be gone before its answer: its peer ends it. What follows shows that the key was dead.
        Assert.True(
            revoked.Errors.Contains("1 keys dead", StringComparison.Ordinal)
                || revoked.Errors.Contains("it ended before it answered", StringComparison.Ordinal),
            revoked.Errors);
        VerbsRun refused = client.Wait();
        Assert.NotEqual(0, refused.Exit); // 10 is IBV_WC_REM_ACCESS_ERR
        Assert.Contains("Failed status 10", refused.Output + refused.Errors, StringComparison.Ordinal);
        VerbsPrograms.Run("kill", id); // it may have ended by itself, as its peer has
        VerbsRun report = server.Wait();
        Assert.Equal(1, Number(report.Errors, "revokes "));
        Assert.True(Number(report.Errors, "NAKs ") > 0, report.Errors);
    }

    [Fact]
    public void A_queue_pair_that_is_failed_from_outside_answers_no_more()
    {
        string port = NextPort();
        using StartedProgram server = ServeWrites(port);
        using StartedProgram client = Write(port);
        ListWhenConnected(server, out string id);
        VerbsRun failed = VerbsPrograms.Run(VerbsPrograms.Wayleave(), "fault", id, "qp-error");
        Assert.Contains("1 queue pairs in ERR", failed.Errors, StringComparison.Ordinal);
        VerbsRun unanswered = client.Wait();
        Assert.NotEqual(0, unanswered.Exit); // 12 is IBV_WC_RETRY_EXC_ERR
        Assert.Contains("Failed status 12", unanswered.Output + unanswered.Errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("1", "no RDMA device of ours")]
    [InlineData("2147483647", "there is no such process")]
    public void A_process_that_cannot_be_disturbed_is_refused_in_words(string process, string words)
    {
        VerbsRun refused = VerbsPrograms.Run(VerbsPrograms.Wayleave(), "fault", process, "rnr");
        Assert.NotEqual(0, refused.Exit);
        Assert.Contains(words, refused.Errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--faults", "loss=2", "'loss=2' is not one of")]
    [InlineData("--devices", "wl0@here", "is no list NAME@ADDRESS")]
    [InlineData("--pcap", "/proc/nowhere/p", "write /proc/nowhere/p")]
    public void An_option_that_cannot_be_is_refused_before_the_program_starts(
        string option, string value, string words)
    {
        VerbsRun refused = VerbsPrograms.Run(
            VerbsPrograms.Wayleave(), "run", option, value, "--", "sh", "-c", "echo started");
        Assert.NotEqual(0, refused.Exit);
        Assert.Contains(words, refused.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("started", refused.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Who_has_an_address_already_is_named()
    {
        string address = Loopback.NextAddress();
        using System.Net.Sockets.UdpClient owner = new(new System.Net.IPEndPoint(
            System.Net.IPAddress.Parse(address), 4791));
        VerbsRun refused = VerbsPrograms.RunOn($"wl0@{address}", "ibv_rc_pingpong", "-g", "0");
        Assert.NotEqual(0, refused.Exit);
        Assert.Contains(
            string.Create(CultureInfo.InvariantCulture, $"(process {Environment.ProcessId}) has it"),
            refused.Errors,
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_namespace_has_the_files_that_programs_look_for_and_the_same_user()
    {
        string cli = VerbsPrograms.Wayleave();
        Assert.SkipUnless(VerbsPrograms.Run("unshare", "-Um", "true").Exit == 0, "no user namespaces here");
        string user = VerbsPrograms.Run("id", "-u").Output;
        string address = Loopback.NextAddress();
        byte[] bytes = System.Net.IPAddress.Parse(address).GetAddressBytes();
        VerbsRun run = VerbsPrograms.Run(
            cli, "run", "--ns", "--devices", $"wlx@{address}", "--", "sh", "-c",
            "id -u; cat /sys/class/infiniband/wlx/ports/1/gids/0 /sys/class/infiniband/wlx/ports/1/gid_attrs/types/0;"
            + " cat /sys/class/infiniband_verbs/uverbs0/ibdev; test -e /dev/infiniband/uverbs0 && ibv_devices;"
            + " echo gone >/dev/null; ls /sys/class/net >/dev/null; exit 9");
        Assert.True(run.Exit == 9, run.ToString());
        Assert.StartsWith(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{user}0000:0000:0000:0000:0000:ffff:7f{bytes[1]:x2}:{bytes[2]:x2}{bytes[3]:x2}\nRoCE v2\nwlx\n"),
            run.Output,
            StringComparison.Ordinal);
        Assert.Contains(
            string.Create(CultureInfo.InvariantCulture, $"02007ffffe{bytes[1]:x2}{bytes[2]:x2}{bytes[3]:x2}"),
            run.Output,
            StringComparison.Ordinal);
        Assert.False(File.Exists("/sys/class/infiniband/wlx"));
        Assert.Equal(127, VerbsPrograms.Run(cli, "run", "--ns", "--", "wayleave-no-such-program").Exit);
    }

    // All of them whole, up to the end.
    private static int CountFrames(string capture)
    {
        Assert.Equal(PcapStatus.Success, PcapReader.TryOpen(File.ReadAllBytes(capture), out PcapReader? reader));
        PcapStatus status;
        do
        {
            status = reader!.TryRead(out _);
        }
        while (status == PcapStatus.Success);
        Assert.Equal(PcapStatus.End, status);
        return reader.RecordCount;
    }

    private static long Number(string text, string after)
    {
        int at = text.IndexOf(after, StringComparison.Ordinal);
        Assert.True(at >= 0, text);
        string number = new([.. text[(at + after.Length)..].TakeWhile(char.IsAsciiDigit)]);
        return long.Parse(number, CultureInfo.InvariantCulture);
    }

    private static int ChildOf(int process)
    {
        string children = string.Create(CultureInfo.InvariantCulture, $"/proc/{process}/task/{process}/children");
        string found = "";
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                found = string.Join(
                    ' ',
                    Directory.EnumerateDirectories(Path.GetDirectoryName(Path.GetDirectoryName(children))!)
                        .Select(t => File.ReadAllText(Path.Combine(t, "children"))));
                return found.Trim().Length > 0;
            },
            Patience.Max));
        return int.Parse(
            found.Split(s_blanks, StringSplitOptions.RemoveEmptyEntries)[0], CultureInfo.InvariantCulture);
    }

    private static string NextPort() => Loopback.NextPort().ToString(CultureInfo.InvariantCulture);

    private static StartedProgram ServeWrites(string port)
    {
        StartedProgram server = VerbsPrograms.Start(
            VerbsPrograms.Wayleave(), "run", "--devices", $"wl0@{Loopback.NextAddress()}", "--report", "--",
            "ib_write_bw", "-D", "60", "-p", port);
        AwaitListener(port, server);
        return server;
    }

    private static StartedProgram Write(string port) => VerbsPrograms.StartOn(
        $"wl0@{Loopback.NextAddress()}", "ib_write_bw", "-D", "60", "-p", port, "127.0.0.1");

    // What the program under `wayleave run` has, once its queue pair takes requests; and that program's number.
    private static string ListWhenConnected(StartedProgram server, out string id)
    {
        string process = ChildOf(server.Id).ToString(CultureInfo.InvariantCulture);
        string list = "";
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                list = VerbsPrograms.Run(VerbsPrograms.Wayleave(), "fault", process, "list").Output;
                return server.HasEnded || list.Contains("ReadyToReceive", StringComparison.Ordinal);
            },
            Patience.Max));
        id = process;
        return list;
    }

    private static void AwaitListener(string port, StartedProgram server)
    {
        string suffix = string.Create(
            CultureInfo.InvariantCulture, $":{int.Parse(port, CultureInfo.InvariantCulture):X4} ");
        Assert.True(SpinWait.SpinUntil(
            () => server.HasEnded || s_sockets.SelectMany(File.ReadLines).Any(
                l => l.Contains(suffix, StringComparison.Ordinal) && l.Contains(" 0A ", StringComparison.Ordinal)),
            Patience.Max));
    }
}
