namespace Wayleave.Host.Programs;

/// <summary>How a program of libibverbs is run.</summary>
public sealed record VerbsRunOptions
{
    /// <summary>Its NICs, as <see cref="VerbsProgram.DevicesVariable"/> has them.</summary>
    public required string Devices { get; init; }

    /// <summary>Faults that its NICs inflict on themselves, as text that was parsed before; null for none.</summary>
    public string? Faults { get; init; }

    /// <summary>A file that gets a trace of it, for ui.perfetto.dev; it is replaced.</summary>
    public string? TracePath { get; init; }

    /// <summary>A file that gets a capture of its packets; it is replaced.</summary>
    public string? PcapPath { get; init; }

    /// <summary>Whether its counters are wanted afterwards.</summary>
    public bool Reports { get; init; }

    /// <summary>
    /// Whether it gets user and mount namespaces of its own, with the files in <c>/sys/class</c> and <c>/dev</c> by
    /// which some programs look for a device.
    /// </summary>
    public bool HasNamespace { get; init; }
}

/// <summary>How a program has ended.</summary>
/// <param name="ExitCode">Its own; 128 and the number of the signal that ended it.</param>
/// <param name="Reports">One for each device that was used, if they were asked for.</param>
public sealed record VerbsRunResult(int ExitCode, IReadOnlyList<Ports.Programs.ProgramReport> Reports);
