namespace Wayleave.Host.Configuration;

/// <summary>What sizes device memory may have.</summary>
internal static class MemorySize
{
    public static void Check(
        List<ConfigProblem> problems, string path, long bytes, long granuleBytes, long minimumBytes)
    {
        if (bytes < minimumBytes || bytes > GpuConfig.MemoryBytesMax)
        {
            string allowed = $"{ByteSize.ToText(minimumBytes)} to {ByteSize.ToText(GpuConfig.MemoryBytesMax)}";
            problems.Add(new ConfigProblem(path, $"{bytes} is out of range; allowed are {allowed}"));
        }
        else if (bytes % granuleBytes != 0)
        {
            problems.Add(new ConfigProblem(path, $"{bytes} is not a multiple of {ByteSize.ToText(granuleBytes)}"));
        }
    }

    /// <summary>
    /// What a BAR shows: a power of two, whole granules, and less than all or there is no need to say it.
    /// </summary>
    public static void CheckVisible(
        List<ConfigProblem> problems, string path, long? visibleBytes, long memoryBytes, long granuleBytes)
    {
        if (visibleBytes is { } bytes && (bytes < granuleBytes || bytes > memoryBytes || !long.IsPow2(bytes)))
        {
            string allowed = $"a power of two of {ByteSize.ToText(granuleBytes)} to the {ByteSize.ToText(memoryBytes)}"
                + " that there are";
            problems.Add(new ConfigProblem(path, $"{bytes} is not what a BAR can show; give {allowed}"));
        }
    }
}
