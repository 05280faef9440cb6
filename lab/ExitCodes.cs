namespace Wayleave.Lab;

/// <summary>
/// How <c>lab/run</c> ends. A command of the user's own (after <c>--</c>) ends with its own code instead.
/// </summary>
internal static class ExitCodes
{
    /// <summary>Every test passed.</summary>
    internal const int Done = 0;

    /// <summary>A test failed, or the machine died without saying how its command ended.</summary>
    internal const int Failed = 1;

    /// <summary>The command line is wrong.</summary>
    internal const int Usage = 2;

    /// <summary>It cannot run here: no network, no emulator, no space; or every test was skipped.</summary>
    internal const int NotSupported = 3;

    /// <summary>What a test in the guest returns to be skipped; the last line it printed is the reason.</summary>
    internal const int Skip = 77;

    /// <summary>The time limit passed and the machine was stopped, as timeout(1) says it.</summary>
    internal const int TimedOut = 124;

    /// <summary>Interrupted from the keyboard.</summary>
    internal const int Interrupted = 130;
}
