using Wayleave.Host.Configuration;

namespace Wayleave.Host.Benchmarks.Drives;

/// <summary>Whose read of the file the drive's is compared with.</summary>
public enum DriveReadPeer
{
    /// <summary><c>dd iflag=direct bs=1M</c>: one read after the other, in each process.</summary>
    Dd,

    /// <summary><c>fio --direct=1 --bs=1M</c>.</summary>
    Fio,
}

/// <summary>What a drive benchmark runs with.</summary>
public sealed record DriveReadOptions
{
    /// <summary>
    /// The host: its first drive reads into its first GPU. Its NICs take ports that the system chooses.
    /// </summary>
    public HostConfig Config { get; init; } = new();

    /// <summary>
    /// The file to read; null makes one of <see cref="SizeBytes"/> in the folder for temporary files.
    /// </summary>
    public string? Path { get; init; }

    /// <summary>Of the file that is made.</summary>
    public long SizeBytes { get; init; } = 256L << 20;

    public DriveReadPeer Peer { get; init; }

    /// <summary>Reads that the peer has under way at once. The drive has up to four.</summary>
    public int PeerStreams { get; init; } = 1;

    /// <summary>Pairs of a read by the peer and one by the drive; the results are their medians.</summary>
    public int Rounds { get; init; } = 7;

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (SizeBytes is < 4096 or > 1L << 40)
        {
            problems.Add($"the file must have 4 KiB to 1 TiB, not {SizeBytes}");
        }

        if (Rounds is < 1 or > 10_000)
        {
            problems.Add($"there can be 1 to 10000 rounds, not {Rounds}");
        }

        if (PeerStreams is < 1 or > 64)
        {
            problems.Add($"the peer reads 1 to 64 pieces at once, not {PeerStreams}");
        }

        if (Config.Nvmes.Count == 0)
        {
            problems.Add("the host has no drive");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
