namespace Wayleave.Host.Benchmarks.Memory;

/// <summary>What a benchmark of address spaces runs with.</summary>
public sealed record MemoryBenchmarkOptions
{
    private const long SizeBytesMax = 1L << 30;

    public MemoryBenchmarkTest Test { get; init; }

    /// <summary>Of memory that is worked on, in whole pages of 4 KiB.</summary>
    public long SizeBytes { get; init; }

    /// <summary>Operations that count; a tenth as many go before.</summary>
    public int Iterations { get; init; }

    /// <summary>What is usual: 16 MiB of faults, migrations of 2 MiB, registrations of 1 GiB.</summary>
    public static MemoryBenchmarkOptions DefaultsOf(MemoryBenchmarkTest test) => test switch
    {
        MemoryBenchmarkTest.Fault => new() { Test = test, SizeBytes = 16 << 20, Iterations = 20 },
        MemoryBenchmarkTest.Migrate => new() { Test = test, SizeBytes = 2 << 20, Iterations = 200 },
        MemoryBenchmarkTest.FenceHop => new() { Test = test, SizeBytes = 4096, Iterations = 500 },
        _ => new() { Test = test, SizeBytes = 1 << 30, Iterations = 11 },
    };

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
