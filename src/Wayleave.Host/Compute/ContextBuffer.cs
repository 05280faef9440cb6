using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Compute;

/// <summary>An object that a client's commands may use.</summary>
/// <param name="Handle">By which commands name it where they are parsed.</param>
/// <param name="Address">Where it is mapped, where a page table decides; 0 otherwise.</param>
/// <param name="SizeBytes">What commands reach of it.</param>
/// <param name="Access">How.</param>
/// <param name="Target">Null for the context's own results.</param>
/// <param name="Buffer">What the handle holds on to until it is closed.</param>
public sealed record ContextBuffer(
    uint Handle, ulong Address, ulong SizeBytes, GpuAccess Access, DeviceObject? Target, SharedBuffer Buffer);
