using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Host;
using Wayleave.Host.Control;
using Wayleave.Host.Leases;
using Wayleave.Linux.Sharing;
using Wayleave.Linux.Tests.Broker;
using Wayleave.Linux.Tests.Control;
using Wayleave.Linux.Tests.EndToEnd;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary>A host under a service manager, which these tests play, and the units that are shipped.</summary>
public sealed partial class ServiceTests : IDisposable
{
    private static readonly string[] s_host = ["--json", "host", "--port", "0", "--udp-port", "0", "--vram", "64MiB"];

    private readonly ControlTestFolder _folder = new();
    private readonly Dictionary<string, string> _variables;

    public ServiceTests() => _variables = new Dictionary<string, string> { ["XDG_RUNTIME_DIR"] = _folder.Root };

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Fact(Timeout = Patience.TestMs)]
    public async Task The_manager_learns_when_it_is_ready_that_it_lives_and_when_it_stops()
    {
        string path = Path.Combine(_folder.Root, "notify");
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(path));
        _variables["NOTIFY_SOCKET"] = path;
        _variables["WATCHDOG_USEC"] = "20000";
        using CliProcess host = CliProcess.Start(_variables, s_host);
        Assert.StartsWith("READY=1\nSTATUS=host on 127.0.0.2:", await ReceiveAsync(manager), StringComparison.Ordinal);
        await host.ReadFirstLineAsync();
        for (int sign = 0; sign < 3; sign++)
        {
            Assert.Equal("WATCHDOG=1", await ReceiveAsync(manager));
        }

        host.Signal(CliProcess.SigTerm);
        string message;
        do
        {
            message = await ReceiveAsync(manager);
        }
        while (message == "WATCHDOG=1");

        Assert.Equal("STOPPING=1\nSTATUS=stopping", message);
        Assert.Equal(0, (await host.WaitAsync()).ExitCode);
    }

    // Signs of life have taken all the room there is, or the manager is behind with those of others.
    [Fact(Timeout = Patience.TestMs)]
    public async Task A_manager_that_reads_nothing_keeps_no_host_from_its_end()
    {
        string path = Path.Combine(_folder.Root, "notify");
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(path));
        _variables["NOTIFY_SOCKET"] = path;
        _variables["WATCHDOG_USEC"] = "1000";
        using CliProcess host = CliProcess.Start(_variables, s_host);
        Assert.StartsWith("READY=1", await ReceiveAsync(manager), StringComparison.Ordinal);
        await host.ReadFirstLineAsync();
        using Socket another = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { Blocking = false };
        another.Connect(new UnixDomainSocketEndPoint(path));
        Assert.Equal(SocketError.WouldBlock, Assert.Throws<SocketException>(() => FillUp(another)).SocketErrorCode);
        host.Signal(CliProcess.SigTerm);
        Assert.Equal(0, (await host.WaitAsync()).ExitCode);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_manager_that_reads_late_learns_that_the_host_is_ready()
    {
        string path = Path.Combine(_folder.Root, "notify");
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(path));
        using Socket another = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { Blocking = false };
        another.Connect(new UnixDomainSocketEndPoint(path));
        Assert.Equal(SocketError.WouldBlock, Assert.Throws<SocketException>(() => FillUp(another)).SocketErrorCode);
        _variables["NOTIFY_SOCKET"] = path;
        using CliProcess host = CliProcess.Start(_variables, s_host);
        await host.ReadFirstLineAsync();
        string said;
        do
        {
            said = await ReceiveAsync(manager);
        }
        while (!said.StartsWith("READY=1", StringComparison.Ordinal));

        host.Signal(CliProcess.SigTerm);
        Assert.StartsWith("STOPPING=1", await ReceiveAsync(manager), StringComparison.Ordinal);
        Assert.Equal(0, (await host.WaitAsync()).ExitCode);
    }

    [Fact]
    public async Task The_watchdog_of_another_process_is_none_of_ours()
    {
        string path = Path.Combine(_folder.Root, "notify");
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(path));
        _variables["NOTIFY_SOCKET"] = path;
        _variables["WATCHDOG_USEC"] = "1000";
        _variables["WATCHDOG_PID"] = "1";
        using CliProcess host = CliProcess.Start(_variables, s_host);
        Assert.StartsWith("READY=1", await ReceiveAsync(manager), StringComparison.Ordinal);
        await host.ReadFirstLineAsync();
        host.Signal(CliProcess.SigTerm);
        Assert.StartsWith("STOPPING=1", await ReceiveAsync(manager), StringComparison.Ordinal);
        Assert.Equal(0, (await host.WaitAsync()).ExitCode);
    }

    [Fact]
    public async Task A_manager_that_is_not_there_is_named()
    {
        _variables["NOTIFY_SOCKET"] = Path.Combine(_folder.Root, "none");
        using CliProcess host = CliProcess.Start(_variables, s_host);
        CliResult result = await host.WaitAsync();
        Assert.Equal(1, result.ExitCode);
        Assert.StartsWith(
            $"wayleave: reach the service manager at NOTIFY_SOCKET={_folder.Root}/none: ",
            result.Error,
            StringComparison.Ordinal);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_client_that_came_before_the_host_is_served_by_it()
    {
        string path = Path.Combine(_folder.Root, "early.sock");
        using Socket listener = Listen(path);
        using ControlClient client = ControlClient.Open(null, _folder.ClientOptions with { SocketPath = path });
        Task<HostDocument> early = client.GetHostAsync(Cancellation); // waits in the backlog
        using CliProcess host = StartWith(listener);
        Assert.Equal("host", (await early).Name);
        using JsonDocument ready = JsonDocument.Parse(await host.ReadFirstLineAsync());
        Assert.Equal(path, ready.RootElement.GetProperty("socket").GetString());
        host.Signal(CliProcess.SigTerm);
        Assert.Equal(0, (await host.WaitAsync()).ExitCode);
        Assert.True(File.Exists(path), "the file is the manager's");
    }

    // Started again by the manager, it serves the same sockets: the first has not shut them down.
    [Theory(Timeout = Patience.TestMs)]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_program_that_came_before_the_host_is_served_by_its_broker(bool comesWithControl)
    {
        string path = Path.Combine(_folder.Root, "early.broker.sock"), control = Path.Combine(_folder.Root, "c.sock");
        using Socket listener = MessageSocket.Listen(path, 8), other = Listen(control);
        for (int start = 0; start < 2; start++)
        {
            Task<BrokerClient> early = Task.Run(() => BrokerClient.Connect(path, "early"), Cancellation);
            using CliProcess host = comesWithControl ? StartWith(listener, other) : StartWith(listener);
            using (BrokerClient client = await early)
            {
                client.OpenDevice("gpu0").Allocate("x", 4096).Dispose();
            }

            using JsonDocument ready = JsonDocument.Parse(await host.ReadFirstLineAsync());
            Assert.Equal(comesWithControl, ready.RootElement.GetProperty("socket").GetString() == control);
            host.Signal(CliProcess.SigTerm);
            Assert.Equal(0, (await host.WaitAsync()).ExitCode);
            Assert.True(File.Exists(path), "the file is the manager's");
        }
    }

    [Fact]
    public async Task Two_sockets_of_one_kind_are_refused()
    {
        using Socket one = Listen(Path.Combine(_folder.Root, "one")), two = Listen(Path.Combine(_folder.Root, "two"));
        using CliProcess host = StartWith(one, two);
        CliResult result = await host.WaitAsync();
        Assert.Equal(
            (1, "wayleave: take descriptor 4 from the service manager: it is of the same kind as "
                + $"{_folder.Root}/one; see packaging/systemd for units that fit\n"),
            (result.ExitCode, result.Error));
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task A_descriptor_that_is_no_listening_Unix_socket_is_refused()
    {
        using Socket udp = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        using CliProcess host = StartWith(udp);
        CliResult result = await host.WaitAsync();
        Assert.Equal(
            (1, "wayleave: take descriptor 3 from the service manager: it is no listening Unix socket with a file; see "
                + "packaging/systemd for units that fit\n"),
            (result.ExitCode, result.Error));
        Assert.Empty(_folder.Leftovers());
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_host_that_drains_finishes_what_was_begun_and_begins_nothing()
    {
        using CliProcess host = CliProcess.Start(_variables, [.. s_host, "--drain", "100s"]);
        using ControlClient client = await OpenAsync(host);
        ObjectDocument made = await CreateAsync(client, "a");
        HeldLease writer = await LeaseAsync(client, made);
        host.Signal(CliProcess.SigTerm);
        WayleaveException refused;
        do
        {
            refused = await Assert.ThrowsAsync<WayleaveException>(async () =>
            {
                ObjectDocument early = await CreateAsync(client, "b"); // until the signal has come
                await client.DeleteObjectAsync(early.Id, Cancellation);
                throw new WayleaveException(Errno.EAGAIN, "create b", "it was made");
            });
        }
        while (refused.Errno == Errno.EAGAIN);

        Assert.Equal(Errno.ESHUTDOWN, refused.Errno);
        Assert.Contains("the host is stopping and finishes what was begun", refused.Message, StringComparison.Ordinal);
        Assert.False(host.HasExited);
        await client.CommitObjectAsync(made.Id, null, Cancellation);
        Assert.Single((await client.GetObjectsAsync(Cancellation)).Objects);
        await writer.DisposeAsync();
        CliResult result = await host.WaitAsync();
        Assert.Equal(0, result.ExitCode);

        // The lease, and perhaps a request of above that the signal overtook.
        Assert.Matches("^wayleave: draining: [12] under way, at most 100 s\n$", result.Error);
        Assert.Empty(_folder.Leftovers());
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task A_host_that_drains_waits_for_what_engines_do_for_programs()
    {
        string path = Path.Combine(_folder.Root, "notify");
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
        manager.Bind(new UnixDomainSocketEndPoint(path));
        _variables["NOTIFY_SOCKET"] = path;
        using CliProcess host = CliProcess.Start(_variables, [.. s_host, "--drain", "110s"]);
        await ReceiveAsync(manager);
        using ForeignProgram program = ForeignProgram.Start();
        await program.OkAsync($"connect {Path.Combine(_folder.Runtime, "host.broker.sock")}");
        await program.OkAsync("open gpu0");
        await program.OkAsync($"spin {await program.OkAsync("queue 1")}");
        host.Signal(CliProcess.SigTerm);
        string told;
        do
        {
            told = await ReceiveAsync(manager);
        }
        while (!told.Contains("draining", StringComparison.Ordinal));

        Assert.Equal("STOPPING=1\nSTATUS=draining: 1 under way, at most 110 s", told);
        await program.RefusedAsync(Errno.ESHUTDOWN, "allocate 1 4096 0");
        program.Kill();
        CliResult result = await host.WaitAsync();
        Assert.Equal(0, result.ExitCode);
        Assert.DoesNotContain("not drained", result.Error, StringComparison.Ordinal);
    }

    [Fact(Timeout = Patience.TestMs)]
    public async Task What_does_not_end_while_the_host_drains_is_ended_by_it()
    {
        using CliProcess host = CliProcess.Start(_variables, [.. s_host, "--drain", "100ms"]);
        using ControlClient client = await OpenAsync(host);
        await using HeldLease held = await LeaseAsync(client, await CreateAsync(client, "a"));
        host.Signal(CliProcess.SigTerm);
        CliResult result = await host.WaitAsync();
        Assert.Equal(
            (0, "wayleave: draining: 1 under way, at most 100 ms\nwayleave: not drained: 1 ended by the host\n"),
            (result.ExitCode, result.Error));
    }

    [Theory]
    [InlineData("user")]
    [InlineData("system")]
    public async Task The_units_are_valid(string folder)
    {
        const string Analyze = "/usr/bin/systemd-analyze";
        Assert.SkipUnless(File.Exists(Analyze), "no systemd-analyze");
        string program = Path.Combine(AppContext.BaseDirectory, "wayleave");
        string[] units = Directory.GetFiles(FindUnits(folder));
        foreach (string unit in units)
        {
            string text = await File.ReadAllTextAsync(unit, Cancellation);
            await File.WriteAllTextAsync(
                Path.Combine(_folder.Root, Path.GetFileName(unit)),
                text.Replace("/usr/bin/wayleave", program, StringComparison.Ordinal),
                Cancellation);
        }

        ProcessStartInfo start = new(
            Analyze,
            [
                "verify", "--man=no", "--recursive-errors=no", folder == "user" ? "--user" : "--system",
                .. units.Select(u => Path.Combine(_folder.Root, Path.GetFileName(u))),
            ])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        start.Environment["XDG_RUNTIME_DIR"] = _folder.Root;
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(Cancellation);
        string error = await process.StandardError.ReadToEndAsync(Cancellation);
        await process.WaitForExitAsync(Cancellation);
        Assert.Equal((0, "", ""), (process.ExitCode, await output, error));
    }

    private static string FindUnits(string folder)
    {
        string? at = AppContext.BaseDirectory;
        while (at is not null && !File.Exists(Path.Combine(at, "Wayleave.slnx")))
        {
            at = Path.GetDirectoryName(at);
        }

        Assert.SkipUnless(at is not null, "not run from the repository");
        return Path.Combine(at!, "packaging", "systemd", folder);
    }

    private static Socket Listen(string path)
    {
        Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen();
        return listener;
    }

    private static void FillUp(Socket socket)
    {
        while (true)
        {
            socket.Send("STATUS=busy"u8);
        }
    }

    private static async Task<string> ReceiveAsync(Socket manager)
    {
        byte[] message = new byte[4096];
        int length = await manager.ReceiveAsync(message, Cancellation);
        return Encoding.UTF8.GetString(message, 0, length);
    }

    private static Task<ObjectDocument> CreateAsync(ControlClient client, string name) => client.CreateObjectAsync(
        new CreateObjectDocument { Device = "gpu0", Name = name, SizeBytes = 64 * 1024 }, Cancellation);

    private static Task<HeldLease> LeaseAsync(ControlClient client, ObjectDocument made)
    {
        ConnectionEndDocument peer = new()
        {
            Gid = "127.0.0.3",
            UdpPort = 4791,
            QpNumber = 17,
            Psn = 0,
            PathMtuBytes = 1024,
        };
        LeaseRequestDocument request = new()
        {
            Access = LeaseAccess.Write,
            Region = ImporterKind.Dynamic,
            Peer = peer,
        };
        return client.LeaseAsync(made.Id, request, Cancellation);
    }

    private async Task<ControlClient> OpenAsync(CliProcess host)
    {
        using JsonDocument ready = JsonDocument.Parse(await host.ReadFirstLineAsync());
        string socket = ready.RootElement.GetProperty("socket").GetString()!;
        return ControlClient.Open(null, _folder.ClientOptions with { SocketPath = socket });
    }

    /// <summary>The host with descriptors from its manager, by way of a shell that keeps its process id.</summary>
    private CliProcess StartWith(params Socket[] listeners)
    {
        int[] inherited = [.. listeners.Select(l => Dup((int)l.Handle))]; // without FD_CLOEXEC
        try
        {
            _variables["LISTEN_FDS"] = $"{inherited.Length}";
            string moves = string.Join(' ', inherited.Select((number, i) => $"{3 + i}<&{number}"));
            return CliProcess.StartUnderShell(
                _variables, $"exec {moves}; LISTEN_PID=$$ exec \"$0\" \"$@\"", s_host);
        }
        finally
        {
            Array.ForEach(inherited, number => _ = Close(number));
        }
    }

    [LibraryImport("libc", EntryPoint = "dup")]
    private static partial int Dup(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
