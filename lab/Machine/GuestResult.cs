namespace Wayleave.Lab.Machine;

/// <summary>How a run in the guest ended.</summary>
/// <param name="ExitCode">
/// The command's; <see cref="ExitCodes.TimedOut"/>; or null when the machine died without saying.
/// </param>
/// <param name="Output">What the command printed on its standard output.</param>
/// <param name="Error">What it printed on its standard error, QEMU's own complaints among it.</param>
/// <param name="Console">What the kernel printed.</param>
/// <param name="Elapsed">From the start of the emulator to its end.</param>
internal sealed record GuestResult(int? ExitCode, string Output, string Error, string Console, TimeSpan Elapsed)
{
    internal bool TimedOut => ExitCode == ExitCodes.TimedOut;

    /// <summary>How often the machine was started until its command ran.</summary>
    internal int Boots { get; init; } = 1;

    /// <summary>Whether the kernel crashed before <c>init.sh</c> came to the command.</summary>
    internal bool CrashedInBoot =>
        ExitCode is null
        && Console.Contains("Kernel panic - not syncing", StringComparison.Ordinal)
        && !Console.Contains("lab: up after ", StringComparison.Ordinal);
}
