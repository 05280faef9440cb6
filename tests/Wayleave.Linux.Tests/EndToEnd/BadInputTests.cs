using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>What a user gets wrong is told in one line with the object and the remedy, and changes nothing.</summary>
public class BadInputTests : EndToEndTest
{
    [Fact]
    public async Task A_source_that_cannot_be_sent_is_named()
    {
        HostProcess host = await StartHostAsync();
        string target = host.UrlOf("object"), missing = InFolder("missing"), large = InFolder("large");
        await ExpectFailureAsync(1, $"read {missing}: does not exist; check the name", "cp", missing, target);
        string empty = MakeFile("empty", 0);
        await ExpectFailureAsync(
            1,
            $"read {empty}: it is empty; device memory has no objects of zero bytes",
            "cp", empty, target);
        await ExpectFailureAsync(1, $"read {Root}: it is a folder; name a file", "cp", Root, target);
        using (FileStream file = File.Create(large))
        {
            file.SetLength((64 << 20) + 1);
        }

        await ExpectFailureAsync(
            1,
            $"{host.Authority}: create gpu0/object of 67108865: 64MiB of 64MiB are free on gpu0; "
            + "revoke an object, or start the host with a larger --vram",
            "cp", large, target);
        Assert.Empty(await host.ListAsync());
        GpuDocument gpu = await host.ReadGpuAsync();
        Assert.Equal((0UL, 0UL), (gpu.VramUsedBytes, gpu.VramQuarantinedBytes));
    }

    [Fact]
    public async Task A_source_that_may_not_be_read_is_named()
    {
        Assert.SkipWhen(Environment.IsPrivilegedProcess, "root may read every file");
        HostProcess host = await StartHostAsync();
        string secret = MakeFile("secret", 1);
        File.SetUnixFileMode(secret, UnixFileMode.None);
        await ExpectFailureAsync(
            1,
            $"read {secret}: permission denied; ask its owner for the right to read it",
            "cp", secret, host.UrlOf("object"));
    }

    [Fact]
    public async Task A_file_that_may_not_grow_so_far_is_a_failure_and_no_crash()
    {
        HostProcess host = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 1 << 20), host.UrlOf("object"));
        string program = Path.Combine(AppContext.BaseDirectory, "wayleave");
        string target = InFolder("target");

        // 512 blocks of 1 KiB. The runtime's own double mapping needs a file of 2 GiB, so it goes without.
        ProcessStartInfo start = new("/bin/bash")
        {
            ArgumentList = { "-c", "ulimit -f 512; exec \"$@\"", "bash", program, "cp", host.UrlOf("object"), target },
            RedirectStandardError = true,
            Environment = { ["DOTNET_EnableWriteXorExecute"] = "0" },
        };
        foreach ((string name, string value) in Variables)
        {
            start.Environment[name] = value;
        }

        using Process process = Process.Start(start)!;
        string error = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(
            (1, $"wayleave: write {target}: the file is too large; raise the limit: ulimit -f\n"),
            (process.ExitCode, error));
        Assert.False(File.Exists(target));
    }

    [Fact]
    public async Task A_target_that_cannot_be_written_is_named()
    {
        HostProcess host = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 4097), host.UrlOf("object"));
        string folder = InFolder("nowhere");
        await ExpectFailureAsync(
            1,
            $"write {folder}/file: there is no folder {folder}; make it first", "cp",
            host.UrlOf("object"), $"{folder}/file");
        Directory.CreateDirectory(InFolder("dir/object"));
        await ExpectFailureAsync(
            1,
            $"write {InFolder("dir")}/object: it is a folder; name the file too", "cp",
            host.UrlOf("object"), InFolder("dir"));
        Assert.Empty(Directory.GetFileSystemEntries(InFolder("dir/object")));
    }

    [Fact]
    public async Task What_is_no_file_is_refused_and_never_waited_for()
    {
        HostProcess host = await StartHostAsync();
        await RunWellAsync("cp", MakeFile("source", 4097), host.UrlOf("object"));
        string fifo = InFolder("fifo");
        using (Process mkfifo = Process.Start("mkfifo", [fifo]))
        {
            await mkfifo.WaitForExitAsync(TestContext.Current.CancellationToken);
        }

        await ExpectFailureAsync(
            1,
            $"read {fifo}: it is a FIFO; save what comes out of it to a file first, whose size is known",
            "cp", fifo, host.UrlOf("other"));
        await ExpectFailureAsync(
            1,
            $"write {fifo}: it is a FIFO; name a file, which is replaced as a whole",
            "cp", host.UrlOf("object"), fifo);
        await ExpectFailureAsync(
            1,
            "write /dev/null: it is a device; name a file, which is replaced as a whole",
            "cp", host.UrlOf("object"), "/dev/null");
        await ExpectFailureAsync(1, "read a file: the name is empty; name a file", "cp", "", host.UrlOf("other"));
        Assert.Single(await host.ListAsync());
        await ExpectFailureAsync(
            1,
            $"write {fifo}/t: there is no folder {fifo}; make it first",
            "host", "--address", NextAddress().ToString(), "--vram", "64MiB", "--trace", $"{fifo}/t");
    }

    [Fact]
    public async Task A_wrong_URL_device_or_name_is_told()
    {
        HostProcess host = await StartHostAsync();
        string source = MakeFile("source", 1);
        await ExpectFailureAsync(
            2,
            $"{host.Url}/gpu0: names no object; write wl://HOST[:PORT]/DEVICE/NAME",
            "cp", source, $"{host.Url}/gpu0");
        await ExpectFailureAsync(
            2,
            $"{host.UrlOf("a%20b")}: the object name contains '%'; letters, digits, '.', '_', '-' and '+' are allowed",
            "cp", source, host.UrlOf("a%20b"));
        await ExpectFailureAsync(
            2,
            "cp copies to, from or between objects of hosts; one of the two must be wl://HOST/DEVICE/NAME",
            "cp", source, InFolder("other"));
        await ExpectFailureAsync(
            2,
            "Required argument 'DST' missing for command: 'cp'; see wayleave cp --help", "cp",
            source);
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: find device gpu9: this host has no such device with memory; it has gpu0, nvme0",
            "cp", source, $"{host.Url}/gpu9/object");
        await ExpectFailureAsync(
            1,
            $"{host.Authority}: find gpu0/object: there is no such object; wayleave ls shows what there is",
            "cp", host.UrlOf("object"), InFolder("other"));
        Assert.False(File.Exists(InFolder("other")));
        Assert.Empty(await host.ListAsync());
    }

    [Fact]
    public async Task Without_a_host_the_exit_code_is_four()
    {
        string source = MakeFile("source", 1), address = NextAddress().ToString();
        await ExpectFailureAsync(
            4,
            $"list devices on {address}:7471: nobody listens there; start it: wayleave host --address {address}",
            "cp", source, $"wl://{address}/gpu0/object");
        await ExpectFailureAsync(
            4,
            $"find gpu0/object on {address}:7471: nobody listens there; start it: wayleave host --address {address}",
            "cp", $"wl://{address}/gpu0/object", InFolder("target"));
        await ExpectFailureAsync(4, "find the host: no host of yours runs here; start one: wayleave host", "ls");
        Assert.Equal(["source", "tmp"], Directory.GetFileSystemEntries(Root).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task A_wrong_token_is_refused()
    {
        HostProcess host = await StartHostAsync();
        string token = InFolder("token"), source = MakeFile("source", 1);
        File.WriteAllText(token, new string('0', 64));
        File.SetUnixFileMode(token, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        await ExpectFailureAsync(
            1,
            $"list devices on {host.Authority}: its token is another; "
            + "give the file that the host named when it started: --token-file FILE",
            "cp", source, host.UrlOf("object"), "--token-file", token);
        Assert.Empty(await host.ListAsync());
    }

    [Fact]
    public async Task A_port_in_use_is_named_with_the_way_out()
    {
        string address = NextAddress().ToString();
        using Socket udp = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        udp.Bind(new IPEndPoint(IPAddress.Parse(address), 0));
        int udpPort = ((IPEndPoint)udp.LocalEndPoint!).Port;
        await ExpectFailureAsync(
            1,
            $"open the RoCEv2 port {address}:{udpPort} of rdma0: the address is in use; "
            + "hosts on one machine use 127.0.0.2, 127.0.0.3, ...: choose another by --address, or by --udp-port",
            "host", "--address", address, "--port", "0", "--vram", "64MiB", "--udp-port", $"{udpPort}");

        using Socket tcp = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        tcp.Bind(new IPEndPoint(IPAddress.Parse(address), 0));
        tcp.Listen();
        int port = ((IPEndPoint)tcp.LocalEndPoint!).Port;
        await ExpectFailureAsync(
            1,
            $"listen on {address}:{port}: the address is in use; "
            + "stop the other program, or choose another by --port or --address",
            "host", "--address", address, "--port", $"{port}", "--vram", "64MiB", "--udp-port", "0");
        Assert.Empty(RuntimeFiles());
    }

    [Fact]
    public async Task The_same_address_or_name_twice_is_told()
    {
        string address = NextAddress().ToString();
        CliProcess first = Start("host", "--name", "a", "--address", address, "--vram", "64MiB");
        await first.ReadFirstLineAsync();
        await ExpectFailureAsync(
            1,
            $"open the RoCEv2 port {address}:4791 of rdma0: the address is in use; "
            + "hosts on one machine use 127.0.0.2, 127.0.0.3, ...: choose another by --address, or by --udp-port",
            "host", "--name", "b", "--address", address, "--vram", "64MiB");
        await ExpectFailureAsync(
            1,
            "start host a: a host of this name runs already; choose another by --name",
            "host", "--name", "a", "--address", NextAddress().ToString(), "--vram", "64MiB");
        Assert.Equal(["a.broker.sock", "a.json", "a.lock", "a.sock", "a.token"], RuntimeFiles());
    }
}
