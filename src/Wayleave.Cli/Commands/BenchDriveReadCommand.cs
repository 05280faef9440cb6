using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Benchmarks.Drives;
using Wayleave.Host.Configuration;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench drive-read</c>: a file into VRAM by a drive, beside a direct read of the same file.
/// </summary>
internal static class BenchDriveReadCommand
{
    private const double Gigabyte = 1e9;

    public static Command Create()
    {
        DriveReadOptions defaults = new();
        Argument<string?> path = new("FILE")
        {
            Description = "What to read; by default a file of --size that is made for it in the temporary folder",
            Arity = ArgumentArity.ZeroOrOne,
        };
        Option<long?> size = Parsing.SizeOption("--size", "Bytes of the file that is made (default 256MiB)");
        Option<DriveReadPeer> peer = new("--peer")
        {
            Description = "Who reads the file in the other rounds",
            DefaultValueFactory = _ => defaults.Peer,
        };
        Option<int> streams = new("--peer-streams")
        {
            Description = "Reads that the peer has under way at once; the drive has up to four",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.PeerStreams,
        };
        Option<int> rounds = new("--rounds")
        {
            Description = "Rounds of both, in turns; the results are their medians",
            HelpName = "N",
            DefaultValueFactory = _ => defaults.Rounds,
        };
        Option<string?> config = new("--config")
        {
            Description = "The host: its first drive reads into its first GPU",
            HelpName = "F",
        };
        Command command = new("drive-read", "A file into device memory by a drive, beside a direct read of it")
        {
            path, size, peer, streams, rounds, config,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            DriveReadOptions options = defaults with
            {
                Path = parsed.GetValue(path) is { } file ? Path.GetFullPath(file) : null,
                SizeBytes = parsed.GetValue(size) ?? defaults.SizeBytes,
                Peer = parsed.GetValue(peer),
                PeerStreams = parsed.GetValue(streams),
                Rounds = parsed.GetValue(rounds),
                Config = parsed.GetValue(config) is { } described
                    ? ConfigurationLoader.Load(
                        described, new Dictionary<string, string>(), Environment.GetEnvironmentVariable).Config
                    : defaults.Config,
            };
            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            CommandContext context = new(parsed);
            DriveReadReport report = await DriveReadBenchmark.RunAsync(options, cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                Write(report, context.Out);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static void Write(DriveReadReport report, TextWriter output)
    {
        output.WriteLine(
            $"{report.Path}, {ByteSize.ToText(report.SizeBytes)}: {report.Drive} -> memory of {report.Device}");
        output.WriteLine($"peer: {report.Peer}{(report.PeerStreams > 1 ? $", {report.PeerStreams} at once" : "")}");
        TablePrinter table = new(">round", ">drive[GB/s]", ">peer[GB/s]", ">ratio");
        for (int i = 0; i < report.Rounds.Count; i++)
        {
            DriveReadRound round = report.Rounds[i];
            table.Add(
                (i + 1).ToString(CultureInfo.InvariantCulture),
                Fixed(round.BytesPerS / Gigabyte),
                Fixed(round.PeerBytesPerS / Gigabyte),
                Fixed(round.Ratio));
        }

        table.Add(
            "median",
            Fixed(report.MedianBytesPerS / Gigabyte),
            Fixed(report.MedianPeerBytesPerS / Gigabyte),
            Fixed(report.MedianRatio));
        table.WriteTo(output);
        output.WriteLine($"{report.StagingBytes} bytes staged");
    }

    private static string Fixed(double value) => value.ToString("F2", CultureInfo.InvariantCulture);
}
