using System.Globalization;
using System.Net;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary><c>wayleave cp --src-port --dst-port</c>: which port of a NIC with several the bytes go by.</summary>
public class PortOptionTests : EndToEndTest
{
    private const long LengthBytes = (1 << 20) + 1;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Between_hosts_each_end_goes_by_the_port_that_was_named()
    {
        HostProcess a = await StartHostOfTwoPortsAsync("a"), b = await StartHostOfTwoPortsAsync("b");
        await RunWellAsync("cp", MakeFile("source", LengthBytes), a.UrlOf("object"));
        foreach ((int leaves, int comes) in ((int, int)[])[(2, 2), (1, 2), (2, 1)])
        {
            long[] sent = await ReadAsync(a, "bytes_sent"), received = await ReadAsync(b, "bytes_received");
            await RunWellAsync(
                "cp", "--src-port", $"{leaves}", "--dst-port", $"{comes}", a.UrlOf("object"), b.UrlOf("copy"));
            ExpectOnly(leaves, sent, await ReadAsync(a, "bytes_sent"));
            ExpectOnly(comes, received, await ReadAsync(b, "bytes_received"));
        }

        Assert.Equal(Sha256(InFolder("source")), Assert.Single(await b.ListAsync()).Sha256);
    }

    [Fact]
    public async Task A_file_goes_by_the_port_of_the_host_that_was_named()
    {
        HostProcess a = await StartHostOfTwoPortsAsync("a");
        long[] before = await ReadAsync(a, "bytes_received");
        await RunWellAsync("cp", "--dst-port", "2", MakeFile("source", LengthBytes), a.UrlOf("object"));
        ExpectOnly(2, before, await ReadAsync(a, "bytes_received"));
        before = await ReadAsync(a, "bytes_sent");
        await RunWellAsync("cp", "--src-port", "2", a.UrlOf("object"), InFolder("back"));
        ExpectOnly(2, before, await ReadAsync(a, "bytes_sent"));
        Assert.Equal(Sha256(InFolder("source")), Sha256(InFolder("back")));
    }

    [Fact]
    public async Task A_capture_of_a_host_has_the_packets_of_every_port()
    {
        string capture = InFolder("both.pcap");
        HostProcess a = await StartHostOfTwoPortsAsync("a", "--pcap", capture);
        NicDocument nic = (await a.Client.GetDevicesAsync(Cancellation)).Nics[0];
        foreach (int port in (int[])[1, 2])
        {
            await RunWellAsync("cp", "--dst-port", $"{port}", MakeFile("source", 4096), a.UrlOf($"object{port}"));
        }

        a.Process.Signal(CliProcess.SigTerm);
        Assert.Equal(0, (await a.Process.WaitAsync()).ExitCode);
        string[] ports = [.. nic.Ports.SelectMany(p => (string[])["--port", $"{p.UdpPort}"])];
        string check = await RunWellAsync(["roce", "check", "--json", capture, .. ports]);
        Assert.All(nic.Ports, p => Assert.Contains(p.Gid, check, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_copy_captures_its_own_port_where_it_has_one()
    {
        string capture = InFolder("cp.pcap");
        HostProcess a = await StartHostAsync();
        NicDocument nic = (await a.Client.GetDevicesAsync(Cancellation)).Nics[0];
        string source = MakeFile("source", 4096);
        await RunWellAsync("cp", "--pcap", capture, source, a.UrlOf("object"));
        string check = await RunWellAsync("roce", "check", "--json", capture, "--port", $"{nic.Ports[0].UdpPort}");
        Assert.Contains(nic.Ports[0].Gid, check, StringComparison.Ordinal);
        CliResult between = await RunAsync("cp", "--pcap", capture, a.UrlOf("object"), a.UrlOf("other"));
        Assert.Equal(2, between.ExitCode);
    }

    [Fact]
    public async Task A_port_that_is_not_there_is_told_before_anything_is_made()
    {
        HostProcess a = await StartHostOfTwoPortsAsync("a"), b = await StartHostAsync();
        string source = MakeFile("source", 4096);
        await RunWellAsync("cp", source, a.UrlOf("object"));
        await ExpectFailureAsync(
            1,
            $"reach {a.Authority}: rdma0 has no port 3; wayleave devices shows what there is",
            "cp", "--dst-port", "3", source, a.UrlOf("other"));
        await ExpectFailureAsync(
            1,
            $"{a.Authority}: connect gpu0/object: rdma0 has no port 0",
            "cp", "--src-port", "0", a.UrlOf("object"), b.UrlOf("copy"));
        CliResult refused = await RunAsync("cp", "--dst-port", "2", a.UrlOf("object"), b.UrlOf("copy"));
        Assert.Equal(1, refused.ExitCode);
        Assert.EndsWith(": rdma0 has no port 2\n", refused.Error, StringComparison.Ordinal);
        await ExpectFailureAsync(
            2,
            "--src-port names a port of a host's NIC, and SRC is not wl://HOST/DEVICE/NAME",
            "cp", "--src-port", "1", source, a.UrlOf("other"));
        Assert.Single(await a.ListAsync());
        await UntilAsync("the object that was begun is gone", async () => (await b.ListAsync()).Count == 0);
    }

    private async Task<HostProcess> StartHostOfTwoPortsAsync(string name, params string[] more)
    {
        string config = InFolder($"{name}.json");
        IPAddress second = NextAddress();
        await File.WriteAllTextAsync(
            config,
            "{ \"nics\": [ { \"further_ports\": [ { \"address\": \"" + second + "\", \"udp_port\": 0 } ] } ] }",
            Cancellation);
        return await StartHostAsync(name, "64MiB", ["--config", config, .. more]);
    }

    private static async Task<long[]> ReadAsync(HostProcess host, string counter)
    {
        NicDocument nic = (await host.Client.GetDevicesAsync(Cancellation)).Nics[0];
        return [.. nic.Ports.Select(p => p.Counters[counter])];
    }

    private static void ExpectOnly(int port, long[] before, long[] after)
    {
        long[] moved = [.. after.Zip(before, (a, b) => a - b)];
        Assert.True(
            moved[port - 1] >= LengthBytes && moved[2 - port] < LengthBytes / 8,
            string.Create(CultureInfo.InvariantCulture, $"port 1: {moved[0]}, port 2: {moved[1]}, wanted {port}"));
    }
}
