namespace Wayleave.Host.Perftest;

/// <summary>
/// The result of one size as perftest's sides tell it each other (<c>struct bw_report_data</c>). What the passive side
/// of a run in one direction says of itself means nothing.
/// </summary>
/// <param name="SizeBytes">Of a message.</param>
/// <param name="Operations">As the tool counts them: of each queue pair, or of all, by its version.</param>
/// <param name="PeakMebibytesPerS">The best part of the run.</param>
/// <param name="MebibytesPerS">All of it.</param>
/// <param name="MillionMessagesPerS">All of it.</param>
public readonly record struct PerftestReport(
    long SizeBytes, long Operations, double PeakMebibytesPerS, double MebibytesPerS, double MillionMessagesPerS);

/// <summary>Times of one size, in seconds; half a round trip for WRITE and SEND, a whole operation else.</summary>
public sealed record PerftestTimes(
    double MinS, double MaxS, double TypicalS, double AverageS, double DeviationS, double P99S, double P999S);

/// <summary>What the received bytes are.</summary>
public enum PerftestBytes
{
    /// <summary>This side received none that could be looked at.</summary>
    None,

    /// <summary>All are those that a peer of our own kind sends.</summary>
    Equal,

    /// <summary>They arrived, and only the peer knows what they should be; the result has their SHA-256.</summary>
    Foreign,
}

/// <summary>What one side of a run says at its end.</summary>
public sealed record PerftestResult
{
    public required string PeerVersion { get; init; }

    /// <summary>Of both sides.</summary>
    public required int MtuBytes { get; init; }

    /// <summary>
    /// One for each size; a passive side has what the peer told it, which is one, or nothing after latency.
    /// </summary>
    public required IReadOnlyList<PerftestReport> Reports { get; init; }

    /// <summary>What the peer says, where both sides are active.</summary>
    public required IReadOnlyList<PerftestReport> PeerReports { get; init; }

    /// <summary>Latency: one for each size.</summary>
    public required IReadOnlyList<PerftestTimes> Times { get; init; }

    public required PerftestBytes Bytes { get; init; }

    /// <summary>
    /// Of what the queue pairs received, one after the other, as lower-case digits; null where nothing can be looked
    /// at.
    /// </summary>
    public string? ReceivedSha256 { get; init; }

    /// <summary>Of what the queue pairs send, or let the peer read; null where that is nothing.</summary>
    public string? SentSha256 { get; init; }

    /// <summary>Atomics: how often the peer, or this side, was seen to have added. Null for others.</summary>
    public long? Additions { get; init; }
}
