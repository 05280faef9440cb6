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

    /// <summary>How often the machine was started until its kernel did not crash by the emulator's fault.</summary>
    internal int Boots { get; init; } = 1;

    /// <summary>
    /// Whether the emulator brought the kernel down: in boot, or because a processor ran into the breakpoint that
    /// another had put there while it patched code (<c>text_poke</c>), and which was gone by then. The kernel finds no
    /// reason for it and gives up; nothing in the guest can bring that about.
    /// </summary>
    internal bool CrashedByEmulator =>
        CrashedInBoot || (ExitCode != 0 && Console.Contains(" int3: 0000 [#", StringComparison.Ordinal));

    /// <summary>Whether the kernel crashed before <c>init.sh</c> came to the command.</summary>
    internal bool CrashedInBoot =>
        ExitCode is null
        && Console.Contains("Kernel panic - not syncing", StringComparison.Ordinal)
        && !Console.Contains("lab: up after ", StringComparison.Ordinal);
}
