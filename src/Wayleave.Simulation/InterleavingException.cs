namespace Wayleave.Simulation;

/// <summary>
/// A run that went wrong, or a search that does not end. The message holds the steps in order and the line that replays
/// them; the inner exception is what the step, the invariant or the end check threw.
/// </summary>
public sealed class InterleavingException : Exception
{
    public InterleavingException() { }

    public InterleavingException(string message) : base(message) { }

    public InterleavingException(string message, Exception inner) : base(message, inner) { }

    internal InterleavingException(FailedRun failure) : base(failure.ToString(), failure.Cause) => Failure = failure;

    /// <summary>The run, or null when there was no single one.</summary>
    public FailedRun? Failure { get; }

    /// <summary>
    /// What <see cref="Explorer.Replay"/> takes to make the same run again; empty when there was no single run.
    /// </summary>
    public string Trail => Failure?.Trail ?? "";
}
