using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>What a copy by a drive is asked for.</summary>
/// <param name="Source">As typed.</param>
/// <param name="Target">As typed.</param>
/// <param name="DeniesStaging">Fail rather than pass through system memory.</param>
/// <param name="StallMax">How long no command may end.</param>
/// <param name="Options">How to reach the host.</param>
/// <param name="Explanation">Filled, or null.</param>
internal sealed record DriveCopyRequest(
    string Source,
    string Target,
    bool DeniesStaging,
    TimeSpan StallMax,
    ControlClientOptions Options,
    CopyExplanation? Explanation)
{
    public int StallTimeoutMs =>
        StallMax == Timeout.InfiniteTimeSpan ? -1 : (int)Math.Ceiling(StallMax.TotalMilliseconds);
}

/// <summary>
/// <c>wayleave cp FILE DEVICE[/NAME]</c> and <c>wayleave cp DEVICE/NAME FILE</c>: a drive of the host that runs here
/// moves the bytes straight between the file and device memory.
/// </summary>
internal static class DriveCopyCommand
{
    /// <summary>
    /// Whether a target may name a device of the host that runs here: <c>gpu0</c> or <c>gpu0/NAME</c>.
    /// </summary>
    public static bool IsDevice(string target) =>
        target.Length > 0 && !target.StartsWith('.') && !target.StartsWith('/') && target.Count(c => c == '/') <= 1
        && !File.Exists(target) && !Directory.Exists(target);

    /// <summary>Whether a source may name an object of the host that runs here: <c>gpu0/NAME</c>.</summary>
    public static bool IsObject(string source) => IsDevice(source) && source.TrimEnd('/').Contains('/');

    /// <summary>Copies, whichever way it is.</summary>
    public static async Task<int> RunAsync(
        CommandContext context, DriveCopyRequest request, CancellationToken cancellation)
    {
        using ControlClient client = ControlClient.Open(null, request.Options);

        // Both may be names of files that are not there: then the host knows which one is a device.
        bool isSave = IsObject(request.Source)
            && (!IsDevice(request.Target)
                || await HasDeviceAsync(client, request.Source.Split('/')[0], cancellation).ConfigureAwait(false));
        DriveCopyDocument copied = isSave
            ? await SaveAsync(client, request, cancellation).ConfigureAwait(false)
            : await LoadAsync(client, request, cancellation).ConfigureAwait(false);
        if (context.IsJson)
        {
            context.WriteJson(copied, ControlJson.Default.DriveCopyDocument);
            return ExitCode.Done;
        }

        Write(context, copied, isSave ? request.Target : null);
        if (request.Explanation is { } explanation)
        {
            await explanation.AddRemoteAsync(
                client, copied.Device, copied.Drive, (long)copied.StagingBytes, cancellation).ConfigureAwait(false);
            explanation.Write(context.Out);
        }

        return ExitCode.Done;
    }

    private static Task<DriveCopyDocument> LoadAsync(
        ControlClient client, DriveCopyRequest request, CancellationToken cancellation)
    {
        string path = Path.GetFullPath(request.Source);
        if (Directory.Exists(path))
        {
            throw new WayleaveException(Errno.EINVAL, $"read {request.Source}", "it is a folder", "name a file");
        }

        string[] parts = request.Target.TrimEnd('/').Split('/');
        string name = parts.Length == 2 ? parts[1] : Path.GetFileName(path);
        Check(request.Target, parts[0], name);
        LoadObjectDocument load = new()
        {
            Path = path,
            DenyStaging = request.DeniesStaging,
            StallTimeoutMs = request.StallTimeoutMs,
        };
        return client.LoadAsync(parts[0], name, load, cancellation);
    }

    private static Task<DriveCopyDocument> SaveAsync(
        ControlClient client, DriveCopyRequest request, CancellationToken cancellation)
    {
        string[] parts = request.Source.TrimEnd('/').Split('/');
        Check(request.Source, parts[0], parts[1]);
        string path = Path.GetFullPath(request.Target);
        SaveObjectDocument save = new()
        {
            Path = Directory.Exists(path) ? Path.Combine(path, parts[1]) : path,
            DenyStaging = request.DeniesStaging,
            StallTimeoutMs = request.StallTimeoutMs,
        };
        return client.SaveAsync(parts[0], parts[1], save, cancellation);
    }

    private static void Check(string text, string device, string name)
    {
        if (!WlUrl.TryParseObject($"wl://localhost/{device}/{name}", out _, out string problem))
        {
            throw new UsageException($"{text}: {problem}");
        }
    }

    private static async Task<bool> HasDeviceAsync(
        ControlClient client, string name, CancellationToken cancellation)
    {
        DevicesDocument devices = await client.GetDevicesAsync(cancellation).ConfigureAwait(false);
        return devices.Gpus.Any(g => g.Name == name) || devices.Accelerators.Any(a => a.Name == name)
            || devices.Vfios.Any(v => v.Name == name);
    }

    private static void Write(CommandContext context, DriveCopyDocument copied, string? file)
    {
        double seconds = Math.Max(copied.ElapsedUs, 1) / 1e6;
        string rate = ByteSize.Format((ulong)(copied.Bytes / seconds));
        string route = copied.Route switch
        {
            PeerMapType.BusAddress => "by bus address",
            PeerMapType.ThroughHostBridge => "through the host bridge",
            _ => "through system memory",
        };
        string o = $"{copied.Device}/{copied.Name}";
        string way = file is null ? $"{copied.Drive} -> {o}" : $"{o} -> {copied.Drive} -> {file}";
        context.Out.WriteLine(
            $"{way}: {ByteSize.Format(copied.Bytes)} {route}, {rate}/s, "
            + $"{ByteSize.Format(copied.StagingBytes)} staged");
        if (copied.StagingReason is { } reason)
        {
            context.Out.WriteLine($"staged because {reason}");
        }
    }
}
