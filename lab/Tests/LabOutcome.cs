namespace Wayleave.Lab.Tests;

/// <summary>How a test ended.</summary>
/// <param name="Name">The test.</param>
/// <param name="Status"><c>passed</c>, <c>failed</c> or <c>skipped</c>.</param>
/// <param name="Reason">Why it was skipped or failed, in one line; empty when it passed.</param>
/// <param name="Detail">What it printed, for who looks at a failure.</param>
/// <param name="Elapsed">All its boots.</param>
internal sealed record LabOutcome(string Name, string Status, string Reason, string Detail, TimeSpan Elapsed)
{
    internal const string Passed = "passed";
    internal const string Failed = "failed";
    internal const string Skipped = "skipped";
}
