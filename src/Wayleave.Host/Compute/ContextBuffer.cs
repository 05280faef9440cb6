using Wayleave.Core.AddressSpaces;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Compute;

/// <summary>An object, or memory of its own, that a client's commands may use.</summary>
/// <param name="Handle">By which commands name it where they are parsed.</param>
/// <param name="Address">Where it is mapped, where a page table decides; 0 otherwise.</param>
/// <param name="SizeBytes">What commands reach of it.</param>
/// <param name="Access">How.</param>
/// <param name="Target">The object; null for the context's own results and memory, and for what others have.</param>
/// <param name="Memory">
/// Where its own memory is in its address space; null for a buffer, and for memory of another context.
/// </param>
public sealed record ContextBuffer(
    uint Handle, ulong Address, ulong SizeBytes, GpuAccess Access, DeviceObject? Target, AddressRange? Memory = null);
