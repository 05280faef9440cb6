using System.Diagnostics;
using System.Net;
using System.Security.Cryptography;
using System.Text.Json;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Demo;

/// <summary>
/// The other host: <c>wayleave host</c> in a process of its own, which ends when our end of its standard input closes,
/// so that it cannot outlive this process.
/// </summary>
internal sealed class DemoPeer : IAsyncDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(20);

    private readonly Process _process;
    private readonly string _folder;
    private readonly Task<string> _errors;

    private DemoPeer(Process process, string folder, Task<string> errors, ControlClient client, string? traceFile)
    {
        (_process, _folder, _errors, Client, TraceFile) = (process, folder, errors, client, traceFile);
    }

    public ControlClient Client { get; }

    /// <summary>Where the host writes its events when it ends, or null.</summary>
    public string? TraceFile { get; }

    public int ProcessId => _process.Id;

    /// <summary>Starts the host and waits until it is ready.</summary>
    /// <exception cref="WayleaveException">It did not start; the message is what it said.</exception>
    public static async Task<DemoPeer> StartAsync(
        IPAddress address, long vramBytes, string? breakName, bool trace, CancellationToken cancellation)
    {
        string folder = Directory.CreateTempSubdirectory("wayleave-demo-").FullName;
        string token = RandomNumberGenerator.GetHexString(64, lowercase: true);
        string config = Path.Combine(folder, "b.json");
        await File.WriteAllTextAsync(
            config,
            $$"""
            {
              "name": "demo-{{Environment.ProcessId}}",
              "gpus": [{ "name": "gpu0", "vram_bytes": {{vramBytes}}, "system_pool_bytes": {{vramBytes}} }],
              "nics": [{ "name": "rdma0", "address": "{{address}}", "udp_port": 0 }],
              "control": { "port": 0, "socket": "none", "token": "{{token}}" }
            }
            """,
            cancellation).ConfigureAwait(false);
        File.SetUnixFileMode(config, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        string? traceFile = trace ? Path.Combine(folder, "b.trace.json") : null;
        ProcessStartInfo start = SelfProgram.With([.. Arguments(config, breakName, traceFile)]);
        start.RedirectStandardInput = true;
        start.RedirectStandardOutput = true;
        start.RedirectStandardError = true;
        Process process = Process.Start(start)
            ?? throw new WayleaveException(Errno.EIO, "start the other host", "no process");
        Task<string> errors = process.StandardError.ReadToEndAsync(CancellationToken.None);
        try
        {
            string? line = await process.StandardOutput
                .ReadLineAsync(cancellation).AsTask().WaitAsync(s_patience, cancellation).ConfigureAwait(false);
            if (line is null)
            {
                string said = string.Join("; ", (await errors.ConfigureAwait(false)).Split(
                    '\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));
                throw new WayleaveException(
                    Errno.EIO, "start the other host", said.Length == 0 ? "it ended at once" : said);
            }

            using JsonDocument ready = JsonDocument.Parse(line);
            int port = ready.RootElement.GetProperty("control_port").GetInt32();
            ControlClientOptions options =
                new() { EnvironmentVariables = name => name == "WAYLEAVE_TOKEN" ? token : null };
            ControlClient client = ControlClient.Open(WlUrl.Create(address.ToString(), port), options);
            return new DemoPeer(process, folder, errors, client, traceFile);
        }
        catch
        {
            process.Kill();
            process.Dispose();
            Directory.Delete(folder, recursive: true);
            throw;
        }
    }

    /// <summary>Lets the host end and waits for it.</summary>
    public async Task StopAsync()
    {
        if (_process.HasExited)
        {
            return;
        }

        _process.StandardInput.Close();
        using CancellationTokenSource limit = new(s_patience);
        try
        {
            await _process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            _process.Kill();
            await _process.WaitForExitAsync(CancellationToken.None).ConfigureAwait(false);
        }
    }

    public async ValueTask DisposeAsync()
    {
        await StopAsync().ConfigureAwait(false);
        await _errors.ConfigureAwait(false);
        Client.Dispose();
        _process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static IEnumerable<string> Arguments(string config, string? breakName, string? traceFile)
    {
        yield return "host";
        yield return "--config";
        yield return config;
        yield return "--json";
        yield return "--until-eof";
        if (breakName is not null)
        {
            yield return "--break";
            yield return breakName;
        }

        if (traceFile is not null)
        {
            yield return "--trace";
            yield return traceFile;
        }
    }
}
