namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>What a benchmark of TCP into device memory runs with.</summary>
public sealed record TcpReceiveOptions
{
    /// <summary>Of the link.</summary>
    public int MtuBytes { get; init; } = 1500;

    /// <summary>Device memory that is bound.</summary>
    public long RegionBytes { get; init; } = 2L << 20;

    /// <summary>
    /// What the reader keeps before it gives the oldest back. The chunk that was freed last is used first: a reader who
    /// keeps nothing makes any memory hot.
    /// </summary>
    public long HoldBytes { get; init; }

    /// <summary>Of a round.</summary>
    public TimeSpan Duration { get; init; } = TimeSpan.FromSeconds(1);

    public int Rounds { get; init; } = 3;

    /// <summary>Whether a round of reading frames and throwing them away goes before each round.</summary>
    public bool WithLimit { get; init; }

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (MtuBytes is < 1280 or > 65535)
        {
            problems.Add($"the MTU must be 1280 to 65535 bytes, not {MtuBytes}");
        }

        if (RegionBytes is < 256 << 10 or > 1L << 30 || RegionBytes % 4096 != 0)
        {
            problems.Add($"the region must be whole pages, 256 KiB to 1 GiB, not {RegionBytes} bytes");
        }

        if (HoldBytes < 0 || HoldBytes > RegionBytes / 2)
        {
            problems.Add($"the reader may keep up to half the region, not {HoldBytes} bytes");
        }

        if (Duration < TimeSpan.FromSeconds(1) || Duration > TimeSpan.FromHours(1))
        {
            problems.Add($"a round takes a second to an hour, not {Duration}");
        }

        if (Rounds is < 1 or > 1000)
        {
            problems.Add($"there can be 1 to 1000 rounds, not {Rounds}");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
