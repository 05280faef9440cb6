using Wayleave.Core.Topology;
using Wayleave.Host;
using Wayleave.Host.Control;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave cp FILE DEVICE[/NAME]</c>: a drive of the host that runs here reads the file straight into device
/// memory.
/// </summary>
internal static class DriveCopyCommand
{
    /// <summary>Whether a target names a device of the host that runs here: <c>gpu0</c> or <c>gpu0/NAME</c>.</summary>
    public static bool IsDevice(string target) =>
        target.Length > 0 && !target.StartsWith('.') && !target.StartsWith('/') && target.Count(c => c == '/') <= 1
        && !File.Exists(target) && !Directory.Exists(target);

    public static async Task<int> RunAsync(
        CommandContext context,
        string source,
        string target,
        bool deniesStaging,
        ControlClientOptions options,
        CopyExplanation? explanation,
        CancellationToken cancellation)
    {
        string path = Path.GetFullPath(source);
        string[] parts = target.TrimEnd('/').Split('/');
        string name = parts.Length == 2 ? parts[1] : Path.GetFileName(path);
        if (!WlUrl.TryParseObject($"wl://localhost/{parts[0]}/{name}", out _, out string problem))
        {
            throw new UsageException($"{target}: {problem}");
        }

        using ControlClient client = ControlClient.Open(null, options);
        LoadObjectDocument load = new() { Path = path, DenyStaging = deniesStaging };
        LoadedDocument loaded = await client.LoadAsync(parts[0], name, load, cancellation).ConfigureAwait(false);
        if (context.IsJson)
        {
            context.WriteJson(loaded, ControlJson.Default.LoadedDocument);
        }
        else
        {
            Write(context, loaded);
            if (explanation is not null)
            {
                await explanation.AddRemoteAsync(
                    client, loaded.Device, loaded.Drive, (long)loaded.StagingBytes, cancellation).ConfigureAwait(false);
                explanation.Write(context.Out);
            }
        }

        return ExitCode.Done;
    }

    private static void Write(CommandContext context, LoadedDocument loaded)
    {
        double seconds = Math.Max(loaded.ElapsedUs, 1) / 1e6;
        string rate = ByteSize.Format((ulong)(loaded.Bytes / seconds));
        string route = loaded.Route switch
        {
            PeerMapType.BusAddress => "by bus address",
            PeerMapType.ThroughHostBridge => "through the host bridge",
            _ => "through system memory",
        };
        context.Out.WriteLine(
            $"{loaded.Drive} -> {loaded.Device}/{loaded.Name}: {ByteSize.Format(loaded.Bytes)} {route}, {rate}/s, "
            + $"{ByteSize.Format(loaded.StagingBytes)} staged");
        if (loaded.StagingReason is { } reason)
        {
            context.Out.WriteLine($"staged because {reason}");
        }
    }
}
