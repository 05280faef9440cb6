namespace Wayleave.Scenarios.TakeBack;

/// <summary>What a workload has come to so far.</summary>
internal sealed class TakeBackCounts
{
    /// <summary>Actors that have not finished.</summary>
    public int Running { get; set; }

    /// <summary>Pairs of jobs of which the second has ended well.</summary>
    public int Jobs { get; set; }

    public int FailedJobs { get; set; }

    /// <summary>Submissions that were refused and made again.</summary>
    public int Refused { get; set; }

    /// <summary>Times that the first GPU's driver could not tell the program.</summary>
    public int FailedReports { get; set; }

    /// <summary>Times that the processor waited for one device before it handed work to the next.</summary>
    public int Stalls { get; set; }

    public long WrittenBytes { get; set; }

    public int FailedMessages { get; set; }

    public int Reconnects { get; set; }

    public int Registrations { get; set; }

    public long AskedPages { get; set; }

    public long TakenPages { get; set; }

    public int AskedBuffers { get; set; }

    public int TakenBuffers { get; set; }

    /// <summary>Of each time that pages came back: from the wish until the last was there.</summary>
    public List<TimeSpan> PageLatencies { get; } = [];

    /// <summary>Of each time that the buffer came back.</summary>
    public List<TimeSpan> BufferLatencies { get; } = [];
}
