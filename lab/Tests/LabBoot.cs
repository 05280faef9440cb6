namespace Wayleave.Lab.Tests;

/// <summary>One machine that a test runs on.</summary>
internal sealed record LabBoot
{
    /// <summary><c>LAB_BOOT</c> in the guest.</summary>
    public string Name { get; init; } = "default";

    /// <summary>A CPU model of QEMU's.</summary>
    public string Cpu { get; init; } = "max";

    /// <summary>QEMU's <c>-machine</c>.</summary>
    public string Machine { get; init; } = "q35";

    /// <summary>Added to the kernel's command line.</summary>
    public string KernelArguments { get; init; } = "";

    /// <summary>QEMU's <c>-device</c>, before those of the test.</summary>
    public IReadOnlyList<string> Devices { get; init; } = [];
}
