using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Benchmarks.Drives;

/// <summary>
/// Reads a file past the page cache by a tool that everybody has, and takes its own word for how long that took: the
/// start of its process does not count.
/// </summary>
/// <param name="peer">Which tool.</param>
/// <param name="path">What it reads.</param>
/// <param name="sizeBytes">All of it.</param>
/// <param name="streams">Reads at once: so many processes of <c>dd</c> with a share each, or fio's queue depth.</param>
internal sealed class DirectReader(DriveReadPeer peer, string path, long sizeBytes, int streams)
{
    private const long BlockBytes = 1 << 20;

    /// <summary>For the report: the first of them.</summary>
    public string CommandLine => $"{Program} {string.Join(' ', Arguments(0))}";

    private string Program => peer == DriveReadPeer.Dd ? "dd" : "fio";

    private int Processes => peer == DriveReadPeer.Dd ? streams : 1;

    /// <summary>Reads the whole file once.</summary>
    /// <returns>Bytes per second, until the last of several is through.</returns>
    /// <exception cref="WayleaveException">The tool is missing, failed, or said what cannot be read.</exception>
    public async Task<double> ReadAsync(CancellationToken cancellation)
    {
        double[] seconds = await Task.WhenAll(
            Enumerable.Range(0, Processes).Select(i => RunAsync(i, cancellation))).ConfigureAwait(false);
        return sizeBytes / seconds.Max();
    }

    private string[] Arguments(int index)
    {
        if (peer == DriveReadPeer.Fio)
        {
            return
            [
                "--name=read", $"--filename={path}", "--readonly", "--rw=read", "--bs=1M", "--direct=1", "--thread",
                "--ioengine=libaio", Text($"--iodepth={streams}"), "--output-format=json", Text($"--size={sizeBytes}"),
            ];
        }

        long blocks = (sizeBytes + BlockBytes - 1) / BlockBytes;
        (long first, long end) = (blocks * index / streams, blocks * (index + 1) / streams);
        string[] whole = [$"if={path}", "of=/dev/null", "bs=1M", "iflag=direct"];
        return streams == 1 ? whole : [.. whole, Text($"skip={first}"), Text($"count={end - first}")];
    }

    private async Task<double> RunAsync(int index, CancellationToken cancellation)
    {
        ProcessStartInfo start = new(Program, Arguments(index))
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { ["LC_ALL"] = "C" },
        };
        using Process process = Start(start);
        Task<string> output = process.StandardOutput.ReadToEndAsync(cancellation);
        Task<string> error = process.StandardError.ReadToEndAsync(cancellation);
        await process.WaitForExitAsync(cancellation).ConfigureAwait(false);
        string said = await error.ConfigureAwait(false);
        string shown = await output.ConfigureAwait(false);
        if (process.ExitCode != 0)
        {
            throw new WayleaveException(
                Errno.EIO,
                CommandLine,
                said.Trim(),
                "name a file that you may read, on a file system with O_DIRECT");
        }

        return (peer == DriveReadPeer.Dd ? SecondsOfDd(said) : SecondsOfFio(shown))
            ?? throw new WayleaveException(Errno.EPROTO, CommandLine, $"it said: {said.Trim()}{shown.Trim()}");
    }

    private Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new WayleaveException(
                (Errno)e.NativeErrorCode, $"start {Program}", e.Message, $"install {Program}", e);
        }
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    // 268435456 bytes (268 MB, 256 MiB) copied, 0.105127 s, 2.6 GB/s
    private static double? SecondsOfDd(string said)
    {
        string[] parts = said.Trim().Split('\n')[^1].Split(", ");
        int copied = Array.FindIndex(parts, p => p.EndsWith(" copied", StringComparison.Ordinal));
        return copied >= 0 && copied + 1 < parts.Length
            && double.TryParse(parts[copied + 1].Split(' ')[0], CultureInfo.InvariantCulture, out double seconds)
            && seconds > 0
            ? seconds
            : null;
    }

    private static double? SecondsOfFio(string shown)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(shown);
            JsonElement read = document.RootElement.GetProperty("jobs")[0].GetProperty("read");
            double bandwidth = read.GetProperty("bw_bytes").GetDouble();
            return bandwidth > 0 ? read.GetProperty("io_bytes").GetInt64() / bandwidth : null;
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            return null; // the caller shows what it said
        }
    }
}
