namespace Wayleave.Scenarios.Corpus;

/// <summary>How a system of <see cref="FenceInNotifier"/> is built: what the argument of 2020 is about.</summary>
internal sealed record NotifierDesign
{
    /// <summary>The completion path of device A takes a lock that a reclaimer may hold.</summary>
    public bool CompletionTakesLock { get; init; } = true;

    /// <summary>
    /// Device B's accesses can be stopped and repeated, so that its notifier takes the mapping away and does not wait
    /// for the job. Such a job has no fence that others may wait for.
    /// </summary>
    public bool HasRestartableFaults { get; init; }

    /// <summary>The processor waits for A's result before it hands the next job to B.</summary>
    public bool StallsBeforeHandOver { get; init; }

    /// <summary>What B reads is pinned: reclaim passes it over.</summary>
    public bool PinsEverything { get; init; }

    /// <summary>The host's checker looks at each wait before it begins.</summary>
    public bool HasChecker { get; init; }

    /// <summary>A mapping that is taken away is waited for until the access under way has ended.</summary>
    public bool DrainsMapping { get; init; } = true;
}
