using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;

namespace Wayleave.Host.Benchmarks.Drives;

/// <summary>
/// Measures how fast a drive reads a file into VRAM, beside a tool that reads the same file past the page cache and
/// throws it away.
/// </summary>
public static class DriveReadBenchmark
{
    private const int PieceBytes = 1 << 20;
    private const string ObjectName = "bench-drive-read";

    /// <summary>Starts the host, reads the file in rounds that take turns, and stops it.</summary>
    /// <exception cref="ArgumentException">The options do not work together; names every problem.</exception>
    /// <exception cref="WayleaveException">
    /// The file cannot be read directly, or made; the peer is missing; the file has no room in VRAM.
    /// </exception>
    public static async Task<DriveReadReport> RunAsync(
        DriveReadOptions options, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        string path = options.Path ?? await MakeFileAsync(options.SizeBytes, cancellation).ConfigureAwait(false);
        try
        {
            return await MeasureAsync(options, path, cancellation).ConfigureAwait(false);
        }
        finally
        {
            if (options.Path is null)
            {
                File.Delete(path);
            }
        }
    }

    private static async Task<DriveReadReport> MeasureAsync(
        DriveReadOptions options, string path, CancellationToken cancellation)
    {
        WayleaveHost host = await WayleaveHost.StartAsync(
            options.Config with { Nics = [.. options.Config.Nics.Select(n => n with { UdpPort = 0 })] })
            .ConfigureAwait(false);
        await using (host.ConfigureAwait(false))
        {
            DriveCopy copy = new(host, host.Nvmes[0]);
            DriveCopyResult last = await LoadAsync(host, copy, path, cancellation).ConfigureAwait(false); // warms up
            DirectReader reader = new(options.Peer, path, (long)last.Bytes, options.PeerStreams);
            await reader.ReadAsync(cancellation).ConfigureAwait(false);
            List<DriveReadRound> rounds = [];
            for (int i = 0; i < options.Rounds; i++)
            {
                double peer = 0;
                if (i % 2 == 0)
                {
                    peer = await reader.ReadAsync(cancellation).ConfigureAwait(false);
                }

                last = await LoadAsync(host, copy, path, cancellation).ConfigureAwait(false);
                if (i % 2 != 0)
                {
                    peer = await reader.ReadAsync(cancellation).ConfigureAwait(false);
                }

                rounds.Add(new DriveReadRound(last.Bytes / last.Elapsed.TotalSeconds, peer));
            }

            return new DriveReadReport
            {
                Path = path,
                SizeBytes = (long)last.Bytes,
                Drive = host.Nvmes[0].Name,
                Device = host.Gpus[0].Name,
                Peer = reader.CommandLine,
                PeerStreams = options.PeerStreams,
                StagingBytes = last.StagingBytes,
                Rounds = rounds,
            };
        }
    }

    // As cp does, from the first command to the last completion; the object's memory is new and cleared each time.
    private static async Task<DriveCopyResult> LoadAsync(
        WayleaveHost host, DriveCopy copy, string path, CancellationToken cancellation)
    {
        (DeviceObject made, DriveCopyResult result) = await copy
            .LoadAsync(path, host.Gpus[0].Name, ObjectName, deniesStaging: false, cancellation).ConfigureAwait(false);
        await host.Objects.RevokeAsync(made, new RevokePolicy { Reason = "the round has ended" }).ConfigureAwait(false);
        return result;
    }

    // Bytes that no layer below can leave out: zeros could be holes, repetitions could be shared.
    private static async Task<string> MakeFileAsync(long sizeBytes, CancellationToken cancellation)
    {
        string path = System.IO.Path.Combine(
            System.IO.Path.GetTempPath(), $"wayleave-bench-{Environment.ProcessId}.bin");
        try
        {
            FileStreamOptions options = new()
            {
                Mode = FileMode.CreateNew,
                Access = FileAccess.Write,
                PreallocationSize = sizeBytes,
            };
            using FileStream file = new(path, options);
            byte[] piece = new byte[PieceBytes];
            Random random = new(1);
            for (long written = 0; written < sizeBytes; written += PieceBytes)
            {
                random.NextBytes(piece);
                int length = (int)Math.Min(PieceBytes, sizeBytes - written);
                await file.WriteAsync(piece.AsMemory(0, length), cancellation).ConfigureAwait(false);
            }

            file.Flush(flushToDisk: true);
            return path;
        }
        catch (Exception e)
        {
            File.Delete(path);
            if (e is IOException or UnauthorizedAccessException)
            {
                throw new WayleaveException(Errno.EIO, $"make {path}", e.Message, "name a file to read", e);
            }

            throw;
        }
    }
}
