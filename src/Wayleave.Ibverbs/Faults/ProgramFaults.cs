using Wayleave.Devices.Rdma;
using Wayleave.Ports.Programs;

namespace Wayleave.Ibverbs.Faults;

/// <summary>The faults that the devices of this process are made with.</summary>
internal static class ProgramFaults
{
    /// <summary>Null without the variable; what cannot be read is said once, and is none.</summary>
    public static FaultOptions? AtStart { get; } = Read();

    private static FaultOptions? Read()
    {
        if (Environment.GetEnvironmentVariable(ProgramVariables.Faults) is not { Length: > 0 } text)
        {
            return null;
        }

        if (FaultOptions.TryParse(text, out FaultOptions faults, out string problem))
        {
            return faults;
        }

        Console.Error.WriteLine($"{ProgramVariables.Faults}: {problem}");
        return null;
    }
}
