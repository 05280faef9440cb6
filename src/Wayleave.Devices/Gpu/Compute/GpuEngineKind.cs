namespace Wayleave.Devices.Gpu.Compute;

/// <summary>Which engine of a GPU runs the commands of a queue.</summary>
public enum GpuEngineKind
{
    /// <summary>Knows every command.</summary>
    Compute,

    /// <summary>
    /// Moves bytes beside the compute engine (SDMA, <c>KFD_IOC_QUEUE_TYPE_SDMA</c>): Nop, Fill, Copy, Release, and
    /// Acquire in a ring of the program's own. Anything else is garbage to it.
    /// </summary>
    Copy,
}

/// <summary>What the engines know.</summary>
internal static class GpuEngineKinds
{
    /// <summary>Whether an engine knows a command.</summary>
    public static bool Knows(this GpuEngineKind engine, GpuOpcode opcode) => engine == GpuEngineKind.Compute
        || opcode is GpuOpcode.Nop or GpuOpcode.Fill or GpuOpcode.Copy or GpuOpcode.Release or GpuOpcode.Acquire;
}
