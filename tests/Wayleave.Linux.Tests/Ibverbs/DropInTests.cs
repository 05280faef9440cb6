using System.Diagnostics;
using System.Globalization;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// Programs of Debian with our library in the place of theirs: no module, no device, no root. The library is made by
/// scripts/build-ibverbs; without it, or without a program, its tests are skipped.
/// </summary>
public class DropInTests
{
    private static readonly string[] s_sockets = ["/proc/net/tcp", "/proc/net/tcp6"];

    [Fact]
    public void Devices_are_those_of_the_variable()
    {
        Result result = Run("wla@127.0.60.1,wlb@::1", "ibv_devices");
        Assert.Equal(0, result.Exit);
        Assert.Contains("wla", result.Output, StringComparison.Ordinal);
        Assert.Contains("wlb", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void A_variable_that_cannot_be_read_is_named_and_gives_no_device()
    {
        Result result = Run("wla@nowhere", "ibv_devices");
        Assert.Contains("WAYLEAVE_DEVICES: nowhere is no IP address", result.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("wla", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_is_described_while_another_program_has_its_address()
    {
        string address = Loopback.NextAddress();
        using System.Net.Sockets.UdpClient owner = new(new System.Net.IPEndPoint(
            System.Net.IPAddress.Parse(address), 4791));
        Result result = Run($"wl0@{address}", "ibv_devinfo", "-v");
        Assert.Equal(0, result.Exit);
        Assert.Contains("PORT_ACTIVE", result.Output, StringComparison.Ordinal);
        Assert.Contains($"::ffff:{address}, RoCE v2", result.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("ibv_rc_pingpong", "-g", "0", "-c", "-n", "100")]
    [InlineData("ibv_rc_pingpong", "-g", "0", "-e", "-n", "100")]
    [InlineData("ibv_rc_pingpong", "-g", "0", "-N", "-n", "100")]
    [InlineData("ibv_rc_pingpong", "-g", "0", "-s", "100000", "-m", "4096", "-n", "20")]
    [InlineData("ibv_uc_pingpong", "-g", "0", "-e", "-n", "100")]
    [InlineData("ibv_ud_pingpong", "-g", "0", "-n", "100")]
    [InlineData("ibv_ud_pingpong", "-g", "0", "-e", "-n", "100")]
    [InlineData("ibv_srq_pingpong", "-g", "0", "-n", "100")]
    [InlineData("ibv_srq_pingpong", "-g", "0", "-e", "-n", "100")]
    public void Programs_of_libibverbs_talk_to_each_other(string program, params string[] arguments)
    {
        (Result server, Result client) = RunPair(program, "-p", arguments);
        Assert.True(server.Exit == 0 && client.Exit == 0, $"{server}\n{client}");
        Assert.Contains("iters in", client.Output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("ib_write_bw", "-n", "200")]
    [InlineData("ib_read_bw", "-n", "200")]
    [InlineData("ib_send_bw", "-n", "200")]
    [InlineData("ib_write_bw", "-n", "100", "-q", "4")]
    [InlineData("ib_write_bw", "-n", "100", "-q", "8")]
    [InlineData("ib_read_bw", "-n", "100", "-q", "8")]
    [InlineData("ib_send_bw", "-n", "100", "-e")]
    [InlineData("ib_send_bw", "-n", "100", "-q", "4", "-r", "64", "--use-srq")]
    [InlineData("ib_atomic_bw", "-n", "200")]
    [InlineData("ib_atomic_bw", "-n", "200", "-A", "CMP_AND_SWAP")]
    // As much as a socket holds when its reader does not run: what gets lost would be waited for.
    [InlineData("ib_send_bw", "-n", "100", "-c", "UD", "-s", "512")]
    [InlineData("ib_send_lat", "-n", "100", "-c", "UD")]
    [InlineData("ib_write_bw", "-n", "100", "-c", "UC", "-s", "512")]
    [InlineData("ib_write_lat", "-n", "100")]
    [InlineData("ib_read_lat", "-n", "100")]
    [InlineData("ib_send_lat", "-n", "100")]
    [InlineData("ib_atomic_lat", "-n", "100")]
    public void Programs_of_perftest_measure(string program, params string[] arguments)
    {
        (Result server, Result client) = RunPair(program, "-p", arguments);
        Assert.True(server.Exit == 0 && client.Exit == 0, $"{server}\n{client}");
        Assert.Contains("#bytes", client.Output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Rping_of_rdma_core_plays_both_roles_and_ends_well()
    {
        for (int i = 0; i < 3; i++)
        {
            string server = Loopback.NextAddress();
            Task<Result> waiting = Task.Run(() => Run($"wl0@{server}", "rping", "-s", "-a", server, "-C", "3", "-v"));
            AwaitPort(server, waiting);
            Result client = Run(
                $"wl0@{Loopback.NextAddress()}", "rping", "-c", "-a", server, "-C", "3", "-v");
            Result served = await waiting;
            Assert.True(served.Exit == 0 && client.Exit == 0, $"{served}\n{client}");
            Assert.Contains("ping data: rdma-ping-2:", client.Output, StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task A_connection_that_nobody_listens_for_is_refused()
    {
        string host = Loopback.NextAddress(), device = $"wl0@{Loopback.NextAddress()}";
        Task<Result> waiting = Task.Run(() => Run($"wl0@{host}", "rping", "-s", "-a", host, "-p", "7175", "-C", "1"));
        AwaitPort(host, waiting);
        Result refused = Run(device, "rping", "-c", "-a", host, "-p", "7176", "-C", "1");
        Assert.NotEqual(0, refused.Exit);
        Assert.Contains("RDMA_CM_EVENT_REJECTED", refused.Errors + refused.Output, StringComparison.Ordinal);
        Assert.Equal(0, Run(device, "rping", "-c", "-a", host, "-p", "7175", "-C", "1").Exit);
        Assert.Equal(0, (await waiting).Exit);
    }

    [Fact]
    public void Bad_input_gets_the_errno_of_the_manual_page_and_random_structures_crash_nothing()
    {
        string file = Compile(File.ReadAllText(Path.Combine(
            Root(), "tests", "Wayleave.Linux.Tests", "Ibverbs", "BadInput.c")));
        Result result = Run($"wl0@{Loopback.NextAddress()}", file);
        File.Delete(file);
        Assert.True(result.Exit == 0, result.ToString());
    }

    // For hours: scripts/fuzz-verbs.
    [Theory]
    [InlineData("1")]
    [InlineData("2")]
    [InlineData("3")]
    public void Verbs_in_random_order_with_random_arguments_crash_nothing(string seed)
    {
        string file = Compile(File.ReadAllText(Path.Combine(
            Root(), "tests", "Wayleave.Linux.Tests", "Ibverbs", "FuzzVerbs.c")));
        Result result = Run($"wl0@{Loopback.NextAddress()},wl1@{Loopback.NextAddress()}", file, seed, "2");
        File.Delete(file);
        Assert.True(result.Exit == 0, result.ToString());
    }

    [Fact]
    public void Run_takes_a_free_address_and_passes_the_exit_code_on()
    {
        Library();
        string cli = Path.Combine(AppContext.BaseDirectory, "wayleave");
        Assert.SkipUnless(File.Exists(cli), "no wayleave beside the tests");
        Result found = Start(null, null, cli, "run", "--", "ibv_devices");
        Assert.True(found.Exit == 0 && found.Output.Contains("wl0", StringComparison.Ordinal), found.ToString());
        Assert.Equal(7, Start(null, null, cli, "run", "--", "sh", "-c", "exit 7").Exit);
    }

    [Theory]
    [InlineData("libibverbs.so.1")]
    [InlineData("librdmacm.so.1")]
    public void All_symbols_of_the_distributions_library_are_there_in_their_versions(string library)
    {
        string theirs = $"/usr/lib/x86_64-linux-gnu/{library}";
        Assert.SkipUnless(File.Exists(theirs), $"no {theirs}");
        Assert.Empty(Symbols(theirs).Except(Symbols(Path.Combine(Library(), library))));
    }

    internal static string Compile(string program)
    {
        string library = Library();
        Assert.SkipUnless(File.Exists("/usr/include/infiniband/verbs.h"), "no <infiniband/verbs.h>");
        string file = Path.Combine(Path.GetTempPath(), $"wayleave-{Guid.NewGuid():n}");
        File.WriteAllText(file + ".c", program);
        Result result = Start(
            null, null, "gcc", "-o", file, file + ".c", Path.Combine(library, "libibverbs.so.1"));
        File.Delete(file + ".c");
        Assert.True(result.Exit == 0, result.Errors);
        return file;
    }

    // nm marks a default version by two signs; those by one are for programs of 2006.
    private static HashSet<string> Symbols(string library)
    {
        Result result = Start(null, null, "nm", "-D", "--defined-only", library);
        Assert.SkipUnless(result.Exit == 0, "no nm");
        return [.. result.Output.Split('\n').Select(l => l.Split(' ')[^1])
            .Where(s => s.Contains("@@", StringComparison.Ordinal))];
    }

    internal static (Result Server, Result Client) RunPair(string program, string portOption, string[] arguments)
    {
        int port = Loopback.NextPort();
        string[] all = [.. arguments, portOption, port.ToString(CultureInfo.InvariantCulture)];
        Task<Result> server = Task.Run(() => Run($"wl0@{Loopback.NextAddress()}", program, all));
        AwaitListener(port, server);
        Result client = Run($"wl0@{Loopback.NextAddress()}", program, [.. all, "127.0.0.1"]);
        return (server.Result, client);
    }

    // The port is bound by the listener.
    internal static void AwaitPort(string address, Task server)
    {
        string row = VerbsPrograms.RowOf(address);
        Assert.True(SpinWait.SpinUntil(
            () => server.IsCompleted
                || File.ReadLines("/proc/net/udp").Any(l => l.Contains(row, StringComparison.Ordinal)),
            Patience.Max));
    }

    internal static void AwaitListener(int port, Task server)
    {
        string suffix = $":{port:X4} ";
        Assert.True(SpinWait.SpinUntil(
            () => server.IsCompleted || s_sockets.SelectMany(File.ReadLines).Any(
                l => l.Contains(suffix, StringComparison.Ordinal) && l.Contains(" 0A ", StringComparison.Ordinal)),
            Patience.Max));
    }

    internal static Result Run(string devices, string program, params string[] arguments) =>
        Start(Library(), devices, program, arguments);

    internal static string Library()
    {
        string folder = Path.Combine(Root(), "artifacts", "ibverbs", "lib");
        Assert.SkipUnless(
            File.Exists(Path.Combine(folder, "libibverbs.so.1")), "no drop-in library: run scripts/build-ibverbs");
        return folder;
    }

    internal static string Root()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(Path.Combine(folder, "Wayleave.slnx")))
        {
            folder = Path.GetDirectoryName(folder);
        }

        return folder ?? throw new InvalidOperationException("the tests do not run inside the repository");
    }

    internal static Result Start(string? library, string? devices, string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.Environment["LD_LIBRARY_PATH"] = library;
        start.Environment["WAYLEAVE_DEVICES"] = devices;
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip($"no {program}");
            throw;
        }

        using (process)
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            Task<string> errors = process.StandardError.ReadToEndAsync();
            bool hasEnded = process.WaitForExit(Patience.Max);
            if (!hasEnded)
            {
                process.Kill(entireProcessTree: true);
            }

            process.WaitForExit();
            Result result = new(process.ExitCode, output.Result, errors.Result);
            Assert.True(hasEnded, $"{program} did not end in {Patience.Max}\n{result}");
            return result;
        }
    }

    internal sealed record Result(int Exit, string Output, string Errors)
    {
        public override string ToString() => $"exit {Exit}\n{Output}\n{Errors}";
    }
}
