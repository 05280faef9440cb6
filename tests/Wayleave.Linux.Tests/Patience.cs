namespace Wayleave.Linux.Tests;

/// <summary>
/// How long a test waits for what must come. A test that passes never waits so long, however busy the machine is: a
/// program that hangs becomes a failed test and not a hung run.
/// </summary>
internal static class Patience
{
    /// <summary>Three minutes; for <c>Timeout</c> of a whole test, see <see cref="TestMs"/>.</summary>
    public static TimeSpan Max { get; } = TimeSpan.FromMinutes(3);

    /// <summary>Longer than <see cref="Max"/>, so that what a test waited for is named before it is ended.</summary>
    public const int TestMs = 240_000;
}
