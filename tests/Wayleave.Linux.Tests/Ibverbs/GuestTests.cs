using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>The library as a guest in somebody else's process.</summary>
public class GuestTests
{
    [Fact]
    public void Dispositions_and_masks_of_signals_are_after_the_library_what_they_were_before()
    {
        VerbsPrograms.Library();
        Assert.SkipUnless(File.Exists("/usr/include/infiniband/verbs.h"), "no <infiniband/verbs.h>");
        string file = Path.Combine(Path.GetTempPath(), $"wayleave-{Guid.NewGuid():n}");
        VerbsRun made = VerbsPrograms.Run(
            "gcc", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", file,
            Path.Combine(VerbsPrograms.Sources(), "Signals.c"), "-ldl");
        Assert.True(made.Exit == 0, made.ToString());
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{Loopback.NextAddress()}", file);
        File.Delete(file);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void Who_waits_for_an_event_waits_in_C_and_can_be_cancelled_interrupted_and_woken()
    {
        string program = VerbsPrograms.Compile("Blocking.c");
        VerbsRun run = VerbsPrograms.RunOn($"wl0@{Loopback.NextAddress()}", program);
        File.Delete(program);
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void A_hundred_pairs_of_rping_end_well() => RunHundred("rping");

    [Fact]
    public void A_hundred_programs_that_fork_and_then_end_do_so_well()
    {
        string program = VerbsPrograms.Compile("Fork.c");
        RunHundred(program);
        File.Delete(program);
    }

    private static void RunHundred(string program)
    {
        Assert.SkipUnless(program != "rping" || File.Exists("/usr/bin/rping"), "no rping");
        string script = Path.Combine(VerbsPrograms.Sources(), "hundred.sh");
        VerbsRun run = VerbsPrograms.RunOn("", script, program, Loopback.NextBlock());
        Assert.True(run.Exit == 0, run.ToString());
    }

    [Fact]
    public void A_user_without_rights_runs_both_sides()
    {
        Assert.SkipUnless(Environment.UserName == "root", "only root can become nobody");
        string library = VerbsPrograms.Library();
        string folder = Directory.CreateTempSubdirectory("wayleave-nobody-").FullName;
        foreach (string name in (string[])["libibverbs.so.1", "librdmacm.so.1"])
        {
            File.Copy(Path.Combine(library, name), Path.Combine(folder, name)); // where nobody may read
        }

        const UnixFileMode Everybody = UnixFileMode.OtherRead | UnixFileMode.OtherExecute;
        File.SetUnixFileMode(folder, File.GetUnixFileMode(folder) | Everybody);
        string server = Loopback.NextAddress();
        string script = $"""
            export LD_LIBRARY_PATH=$0
            cd /
            WAYLEAVE_DEVICES=wl0@{server} rping -s -a {server} -C 3 & server=$!
            until grep -q '{VerbsPrograms.RowOf(server)}' /proc/net/udp; do kill -0 $server || exit 9; done
            WAYLEAVE_DEVICES=wl0@{Loopback.NextAddress()} rping -c -a {server} -C 3 -v || exit 8
            wait $server
            """;
        VerbsRun run = VerbsPrograms.Run(
            "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs",
            "sh", "-c", script, folder);
        Directory.Delete(folder, recursive: true);
        Assert.True(run.Exit == 0, run.ToString());
        Assert.Contains("ping data: rdma-ping-2:", run.Output, StringComparison.Ordinal);
    }
}
