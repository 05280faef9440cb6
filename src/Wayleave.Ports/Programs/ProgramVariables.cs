namespace Wayleave.Ports.Programs;

/// <summary>
/// The environment variables by which <c>wayleave run</c> talks to the library inside a program of libibverbs. Whoever
/// starts such a program by hand sets them too.
/// </summary>
public static class ProgramVariables
{
    /// <summary><c>wl0@127.0.7.2,wl1@::1</c>; without it one device at an address made of the process number.</summary>
    public const string Devices = "WAYLEAVE_DEVICES";

    /// <summary>What <see cref="Wayleave.Devices.Rdma.FaultOptions.TryParse"/> takes.</summary>
    public const string Faults = "WAYLEAVE_FAULTS";

    /// <summary>A capture file that has its header already: every process adds its frames.</summary>
    public const string Pcap = "WAYLEAVE_PCAP";

    /// <summary>A trace file whose JSON array is begun: every process adds its events, each with a comma.</summary>
    public const string Trace = "WAYLEAVE_TRACE";

    /// <summary>
    /// A folder in which every device of every process keeps its counters (<see cref="ReportPage"/>).
    /// </summary>
    public const string Report = "WAYLEAVE_REPORT";
}
