namespace Wayleave.Lab.Tests;

/// <summary>How tests are run.</summary>
internal sealed record TestRunnerOptions
{
    /// <summary>In place of each test's own limit for a boot.</summary>
    public TimeSpan? TimeLimit { get; init; }

    /// <summary>Keep the folder shared with the guest: its console, QEMU's command line, what the test wrote.</summary>
    public bool Keep { get; init; }

    /// <summary>Take what the kernel does as the new record, in place of comparing it.</summary>
    public bool Record { get; init; }
}
