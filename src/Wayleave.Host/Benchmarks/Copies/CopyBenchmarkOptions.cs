using Wayleave.Host.Configuration;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>What a copy benchmark runs with.</summary>
public sealed record CopyBenchmarkOptions
{
    /// <summary>The largest copy: both ends of one must fit a piece of memory that one span can hold.</summary>
    public const int SizeBytesMax = 256 << 20;

    /// <summary>The most memory that copies walk over.</summary>
    public const int RegionBytesMax = 1 << 30;

    /// <summary>
    /// The host whose devices are tried. It is started for the benchmark, without a control server; its NICs take ports
    /// that the system chooses. By default two GPUs, an accelerator and a drive below one switch.
    /// </summary>
    public HostConfig Config { get; init; } = new()
    {
        Gpus = [new GpuConfig { Name = "gpu0" }, new GpuConfig { Name = "gpu1" }],
        Accelerators = [new AcceleratorConfig()],
    };

    /// <summary>Sizes of a copy, in bytes, each with a matrix of its own.</summary>
    public IReadOnlyList<int> SizesBytes { get; init; } = [64 << 10, 1 << 20, 64 << 20];

    /// <summary>Copies in the ring of an engine at once.</summary>
    public int Depth { get; init; } = 16;

    /// <summary>Pairs of a round of plain copies and one of the engine; the results are their medians.</summary>
    public int Rounds { get; init; } = 7;

    /// <summary>Length of either.</summary>
    public TimeSpan Duration { get; init; } = TimeSpan.FromMilliseconds(50);

    /// <summary>
    /// Memory at either end that the copies of a size walk over, place by place, in bytes; at least one copy. 64 MiB is
    /// in no cache of the processor (cold), 1 MiB is (hot).
    /// </summary>
    public int RegionBytes { get; init; } = 64 << 20;

    /// <summary>How many copies of that size the region has places for.</summary>
    public int SlotsOf(int sizeBytes) => Math.Max(1, RegionBytes / sizeBytes);

    /// <exception cref="ArgumentException">Names every problem at once.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (SizesBytes.Count == 0)
        {
            problems.Add("give at least one size");
        }

        foreach (int size in SizesBytes)
        {
            if (size is < 1 or > SizeBytesMax)
            {
                problems.Add($"a copy has 1 B to {ByteSize.ToText(SizeBytesMax)}, not {size}");
            }
        }

        if (RegionBytes is < 1 or > RegionBytesMax)
        {
            problems.Add($"the region must have 1 B to {ByteSize.ToText(RegionBytesMax)}, not {RegionBytes}");
        }

        if (Depth is < 1 or > 256)
        {
            problems.Add($"the depth must be 1 to 256, not {Depth}");
        }

        if (Rounds is < 1 or > 10_000)
        {
            problems.Add($"there can be 1 to 10000 rounds, not {Rounds}");
        }

        if (Duration <= TimeSpan.Zero || Duration > TimeSpan.FromMinutes(1))
        {
            problems.Add($"a round lasts more than nothing and at most a minute, not {Duration}");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
