namespace Wayleave.Lab.Machine;

/// <summary>The machine that a command runs in.</summary>
internal sealed record GuestOptions
{
    /// <summary>A CPU model of QEMU's. What it says of itself counts: P2PDMA asks for its maker and family.</summary>
    public string Cpu { get; init; } = "max";

    /// <summary>QEMU's <c>-machine</c>.</summary>
    public string Machine { get; init; } = "q35";

    public int Processors { get; init; } = 2;

    public int MemoryMiB { get; init; } = 2048;

    /// <summary>Added to the kernel's command line.</summary>
    public string KernelArguments { get; init; } = "";

    /// <summary>QEMU's <c>-device</c>, in this order; <c>{images}</c> stands for the folder of the images.</summary>
    public IReadOnlyList<string> Devices { get; init; } = [];

    /// <summary>Empty disk images to make: name to MiB. They are QEMU drives by that name.</summary>
    public IReadOnlyDictionary<string, int> Images { get; init; } = new Dictionary<string, int>();

    /// <summary>
    /// Whether the machine has a network card whose other end is the TAP device <c>lab0</c> of the host; see
    /// <see cref="HostNetwork"/>.
    /// </summary>
    public bool HasNetwork { get; init; }

    /// <summary>The machine is stopped when it takes longer.</summary>
    public TimeSpan TimeLimit { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>For the command in the guest, beside PATH, HOME and what starts with DOTNET_ or LAB_.</summary>
    public IReadOnlyDictionary<string, string> Environment { get; init; } = new Dictionary<string, string>();
}
