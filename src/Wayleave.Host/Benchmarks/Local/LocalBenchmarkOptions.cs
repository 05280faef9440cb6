namespace Wayleave.Host.Benchmarks.Local;

/// <summary>What <c>wayleave bench local</c> runs with.</summary>
public sealed record LocalBenchmarkOptions
{
    private const int SizeBytesMax = 1 << 30;

    /// <summary>Of the buffer that is handed over and copied.</summary>
    public int SizeBytes { get; init; } = 1 << 20;

    /// <summary>Operations that count; a tenth as many go before.</summary>
    public int Iterations { get; init; } = 2000;

    /// <summary>
    /// Whether the importer stays on one processor, and the host with the program that exports on another, where there
    /// are two.
    /// </summary>
    public bool Pins { get; init; }

    /// <summary>Throws when the values do not work together, naming every problem at once.</summary>
    /// <exception cref="ArgumentException">One or more values are out of range.</exception>
    public void Validate()
    {
        List<string> problems = [];
        if (SizeBytes is < 4096 or > SizeBytesMax || SizeBytes % 4096 != 0)
        {
            problems.Add($"the size is whole pages of 4 KiB up to 1 GiB, not {SizeBytes} bytes");
        }

        if (Iterations is < 1 or > 1_000_000)
        {
            problems.Add($"there are 1 to 1000000 iterations, not {Iterations}");
        }

        if (problems.Count > 0)
        {
            throw new ArgumentException(string.Join("; ", problems));
        }
    }
}
