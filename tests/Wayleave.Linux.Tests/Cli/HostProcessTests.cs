using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;
using Wayleave.Linux.Tests.Control;
using Wayleave.Linux.Tests.EndToEnd;
using Xunit;

namespace Wayleave.Linux.Tests.Cli;

/// <summary>The built program as processes, as a user and a service manager run it.</summary>
public sealed partial class HostProcessTests : IDisposable
{
    private const int SIGINT = 2;
    private const int SIGKILL = 9;
    private const int SIGTERM = 15;

    private readonly ControlTestFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(SIGINT)]
    [InlineData(SIGTERM)]
    public async Task A_host_that_is_asked_to_stop_leaves_nothing_behind(int signal)
    {
        CliProcess.SkipWhenIgnored(signal);
        using Process host = StartHost("host");
        JsonElement ready = await ReadReadyAsync(host);
        Assert.True(File.Exists(ready.GetProperty("token_file").GetString()));
        Assert.True(File.Exists(ready.GetProperty("socket").GetString()));
        Assert.Equal(0, Kill(host.Id, signal));
        await host.WaitForExitAsync(Cancellation);
        Assert.Equal(0, host.ExitCode);
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task Commands_find_the_host_and_work_on_it()
    {
        using Process host = StartHost("host");
        JsonElement ready = await ReadReadyAsync(host);
        string url = ready.GetProperty("url").GetString()!;
        (int devicesCode, string devices, _) = await RunAsync("devices", url);
        Assert.Equal(0, devicesCode);
        Assert.StartsWith("gpu0\n        type:                    gpu\n", devices, StringComparison.Ordinal);
        Assert.Contains("\nrdma0\n        type:                    rdma\n", devices, StringComparison.Ordinal);
        (int listCode, string list, _) = await RunAsync("ls");
        Assert.Equal((0, "NAME  SIZE  STATE  PLACE  MOVES  CREATED  SHA256\n"), (listCode, list));
        (int revokeCode, string output, string error) = await RunAsync("revoke", url + "/gpu0/none");
        string authority = url["wl://".Length..];
        Assert.Equal((1, ""), (revokeCode, output));
        Assert.Equal(
            $"wayleave: {authority}: find gpu0/none: there is no such object; wayleave ls shows what there is\n",
            error);
        (int deviceCode, _, string noDevice) = await RunAsync("devices", url + "/gpu9");
        Assert.Equal(
            (1, $"wayleave: {url}/gpu9: the host has no such device; it has gpu0, rdma0, nvme0\n"),
            (deviceCode, noDevice));
        await StopAsync(host);
    }

    [Fact]
    public async Task Two_hosts_of_one_name_or_one_port_do_not_start()
    {
        using Process host = StartHost("host");
        JsonElement ready = await ReadReadyAsync(host);
        string port = ready.GetProperty("control_port").GetRawText();
        (int sameName, _, string nameError) = await RunAsync("host", "--port", "0", "--udp-port", "0");
        Assert.Equal(
            (1, "wayleave: start host host: a host of this name runs already; choose another by --name\n"),
            (sameName, nameError));
        (int samePort, _, string portError) = await RunAsync("host", "--name", "b", "--port", port, "--udp-port", "0");
        Assert.Equal(
            (1, $"wayleave: listen on 127.0.0.2:{port}: the address is in use; stop the other program, or choose "
                + "another by --port or --address\n"),
            (samePort, portError));
        await StopAsync(host);
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task A_killed_host_is_no_host_and_its_name_is_free()
    {
        using Process host = StartHost("host");
        await ReadReadyAsync(host);
        Assert.Equal(0, Kill(host.Id, SIGKILL));
        await host.WaitForExitAsync(Cancellation);
        Assert.NotEmpty(_folder.Leftovers());
        (int code, _, string error) = await RunAsync("ls");
        Assert.Equal(
            (4, "wayleave: find the host: no host of yours runs here; start one: wayleave host\n"), (code, error));
        using Process second = StartHost("host");
        await ReadReadyAsync(second);
        await StopAsync(second);
        Assert.Empty(_folder.Leftovers());
    }

    [Fact]
    public async Task People_read_one_line_when_the_host_is_ready()
    {
        using Process host = Start("host", "--port", "0", "--udp-port", "0", "--vram", "64MiB");
        string? line = await host.StandardOutput.ReadLineAsync(Cancellation);
        Assert.Matches(
            $"^host host ready: wl://127\\.0\\.0\\.2:\\d+, control port \\d+, token in {_folder.Runtime}/host\\.token$",
            line);
        await StopAsync(host);
    }

    private Process StartHost(string name) =>
        Start("--json", "host", "--name", name, "--port", "0", "--udp-port", "0", "--vram", "64MiB");

    private static async Task<JsonElement> ReadReadyAsync(Process host)
    {
        string? line = await host.StandardOutput.ReadLineAsync(Cancellation);
        Assert.True(line is not null, line is null ? await host.StandardError.ReadToEndAsync(Cancellation) : "");
        using JsonDocument document = JsonDocument.Parse(line!);
        Assert.Equal("wayleave.ready.v1", document.RootElement.GetProperty("schema").GetString());
        return document.RootElement.Clone();
    }

    private static async Task StopAsync(Process host)
    {
        Assert.Equal(0, Kill(host.Id, SIGTERM));
        await host.WaitForExitAsync(Cancellation);
    }

    private async Task<(int Code, string Output, string Error)> RunAsync(params string[] arguments)
    {
        using Process process = Start(arguments);
        Task<string> error = process.StandardError.ReadToEndAsync(Cancellation);
        string output = await process.StandardOutput.ReadToEndAsync(Cancellation);
        await process.WaitForExitAsync(Cancellation);
        return (process.ExitCode, output, await error);
    }

    private Process Start(params string[] arguments)
    {
        // The program's own build folder is beside ours; its apphost finds the runtime by DOTNET_ROOT, so it is run by
        // our runtime.
        string program = typeof(Wayleave.Cli.CommandLine).Assembly.Location;
        ProcessStartInfo start = new(
            Environment.ProcessPath is { } path && Path.GetFileName(path) == "dotnet" ? path : "dotnet")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        start.ArgumentList.Add("exec");
        start.ArgumentList.Add(program);
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        foreach (
            string name in start.Environment.Keys
                .Where(k => k.StartsWith("WAYLEAVE_", StringComparison.Ordinal)).ToArray())
        {
            start.Environment.Remove(name);
        }

        start.Environment["XDG_RUNTIME_DIR"] = _folder.Root;
        return Process.Start(start)!;
    }

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
