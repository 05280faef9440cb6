using System.Diagnostics;
using System.Net;
using System.Security.Cryptography;
using System.Text.Json;
using Wayleave.Host;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>The runs of the program, one at a time: two transfers on two cores say nothing about either.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class EndToEndRuns
{
    public const string Name = "end to end";
}

/// <summary>
/// What every end-to-end test has: a folder, a runtime directory and loopback addresses of its own, and the processes
/// that it started, which all end with it.
/// </summary>
[Collection(EndToEndRuns.Name)]
public abstract class EndToEndTest : IDisposable
{
    /// <summary>How long a fault may take to be told, from the moment it happens.</summary>
    private static readonly TimeSpan s_faultLimit = TimeSpan.FromSeconds(10);

    private readonly List<CliProcess> _processes = [];
    private readonly List<ControlClient> _clients = [];

    protected EndToEndTest()
    {
        Root = Directory.CreateTempSubdirectory("wayleave-e2e-").FullName;
        string temporary = Directory.CreateDirectory(Path.Combine(Root, "tmp")).FullName;
        Variables = new Dictionary<string, string> { ["XDG_RUNTIME_DIR"] = Root, ["TMPDIR"] = temporary };
    }

    /// <summary>The folder of this test, with the runtime directory <c>wayleave</c> and <c>tmp</c> in it.</summary>
    protected string Root { get; }

    /// <summary>For every process of this test.</summary>
    protected Dictionary<string, string> Variables { get; }

    /// <summary>Files in the runtime directory.</summary>
    protected string[] RuntimeFiles() => ListFiles(Path.Combine(Root, "wayleave"));

    /// <summary>Files and folders that were made for a while.</summary>
    protected string[] TemporaryFiles() => ListFiles(Path.Combine(Root, "tmp"));

    protected string InFolder(string name) => Path.Combine(Root, name);

    /// <summary>An address that no other test uses.</summary>
    protected static IPAddress NextAddress() => IPAddress.Parse(Loopback.NextAddress());

    /// <summary>Starts the program.</summary>
    protected CliProcess Start(params string[] arguments)
    {
        CliProcess process = CliProcess.Start(Variables, arguments);
        _processes.Add(process);
        return process;
    }

    /// <summary>Starts the program as <c>dotnet wayleave.dll</c>.</summary>
    protected CliProcess StartUnderRuntime(params string[] arguments)
    {
        CliProcess process = CliProcess.StartUnderRuntime(Variables, arguments);
        _processes.Add(process);
        return process;
    }

    /// <summary>Runs the program to its end.</summary>
    protected Task<CliResult> RunAsync(params string[] arguments) => Start(arguments).WaitAsync();

    /// <summary>Runs the program, which must end well and say nothing on stderr.</summary>
    protected async Task<string> RunWellAsync(params string[] arguments)
    {
        CliResult result = await RunAsync(arguments);
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
        return result.Out;
    }

    /// <summary>Runs the program, which must fail with one line.</summary>
    protected async Task ExpectFailureAsync(int exitCode, string line, params string[] arguments) =>
        ExpectFailure(exitCode, line, await RunAsync(arguments));

    /// <summary>A failure is its exit code, one line on stderr and nothing else.</summary>
    protected static void ExpectFailure(int exitCode, string line, CliResult result)
    {
        Assert.Equal($"wayleave: {line}\n", result.Error);
        Assert.Equal((exitCode, ""), (result.ExitCode, result.Out));
    }

    /// <summary>Starts a host with an address of its own and waits until it listens.</summary>
    protected async Task<HostProcess> StartHostAsync(string name = "b", string vram = "64MiB", params string[] more)
    {
        string address = NextAddress().ToString();
        string[] where = ["--address", address, "--port", "0", "--udp-port", "0"];
        CliProcess process = Start(["host", "--json", "--name", name, "--vram", vram, .. where, .. more]);
        using JsonDocument ready = JsonDocument.Parse(await process.ReadFirstLineAsync());
        int port = ready.RootElement.GetProperty("control_port").GetInt32();
        ControlClient client = ControlClient.Open(WlUrl.Create(address, port), new ControlClientOptions
        {
            EnvironmentVariables = variable => Variables.GetValueOrDefault(variable),
            TokenFile = ready.RootElement.GetProperty("token_file").GetString(),
        });
        _clients.Add(client);
        return new HostProcess(process, ready.RootElement.GetProperty("url").GetString()!, client);
    }

    /// <summary>
    /// The program has told of a fault within ten seconds, not counting those in which it, or another program of this
    /// machine, was ready to run and had no processor.
    /// </summary>
    protected static async Task ExpectInTimeAsync(CliResult result)
    {
        TimeSpan elapsed = result.Elapsed;
        if (elapsed > s_faultLimit)
        {
            await Task.Delay(ProcessorPressure.Lag, TestContext.Current.CancellationToken);
            elapsed -= ProcessorPressure.Read() - result.PressureBefore;
        }

        Assert.True(elapsed < s_faultLimit, $"{elapsed} of {result.Elapsed}, in which a processor was free");
    }

    /// <summary>A file of seeded bytes.</summary>
    protected string MakeFile(string name, long lengthBytes)
    {
        string path = InFolder(name);
        using FileStream file = File.Create(path);
        byte[] bytes = new byte[1 << 20];
        Random random = new(42);
        for (long left = lengthBytes; left > 0; left -= bytes.Length)
        {
            random.NextBytes(bytes);
            file.Write(bytes, 0, (int)Math.Min(left, bytes.Length));
        }

        return path;
    }

    protected static string Sha256(string path) => Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(path)));

    /// <summary>Looks again and again until what is expected is there: the only wait there is.</summary>
    protected static async Task UntilAsync(string what, Func<Task<bool>> condition)
    {
        long start = Stopwatch.GetTimestamp();
        while (!await condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Patience.Max, $"never came true: {what}");
            await Task.Delay(2, TestContext.Current.CancellationToken);
        }
    }

    public void Dispose()
    {
        foreach (CliProcess process in _processes)
        {
            process.Dispose();
        }

        foreach (ControlClient client in _clients)
        {
            client.Dispose();
        }

        Directory.Delete(Root, recursive: true);
        GC.SuppressFinalize(this);
    }

    private static string[] ListFiles(string folder) => Directory.Exists(folder)
        ? [.. Directory.GetFileSystemEntries(folder).Select(p => Path.GetFileName(p)).Order()]
        : [];
}

/// <summary>A host in a process of its own.</summary>
/// <param name="Process">Where it runs.</param>
/// <param name="Url"><c>wl://ADDRESS:PORT</c>.</param>
/// <param name="Client">Asks it directly.</param>
public sealed record HostProcess(CliProcess Process, string Url, ControlClient Client)
{
    public string UrlOf(string name) => $"{Url}/gpu0/{name}";

    /// <summary>ADDRESS:PORT, as messages name it.</summary>
    public string Authority => Url["wl://".Length..];

    public async Task<GpuDocument> ReadGpuAsync() =>
        (await Client.GetDevicesAsync(TestContext.Current.CancellationToken)).Gpus[0];

    public async Task<long> ReadCounterAsync(string name) =>
        (await Client.GetStatsAsync(TestContext.Current.CancellationToken)).Devices["rdma0"][name];

    public async Task<IReadOnlyList<ObjectDocument>> ListAsync() =>
        (await Client.GetObjectsAsync(TestContext.Current.CancellationToken)).Objects;
}
