using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;

namespace Wayleave.Host.Objects;

/// <summary>A buffer object of a GPU; it may move between VRAM and system memory.</summary>
/// <param name="buffer">Whole pages.</param>
/// <param name="sizeBytes">Of the object; not more than the buffer.</param>
public sealed class GpuObjectMemory(GpuBuffer buffer, ulong sizeBytes) : ObjectMemory
{
    public GpuBuffer Buffer { get; } = buffer;

    /// <inheritdoc/>
    public override SharedBuffer Shared => Buffer.Shared;

    /// <inheritdoc/>
    public override ulong SizeBytes => sizeBytes;

    /// <inheritdoc/>
    public override ObjectPlace Place => Buffer.Placement.Domain switch
    {
        GpuDomain.Vram => ObjectPlace.Vram,
        GpuDomain.HiddenVram => ObjectPlace.HiddenVram,
        _ => ObjectPlace.System,
    };

    /// <inheritdoc/>
    public override DmaAddressList Addresses => Buffer.Placement.Addresses;

    /// <inheritdoc/>
    public override RevokeOperation? Freeing => Buffer.Freeing;

    /// <inheritdoc/>
    public override QuarantineEntry? Held => Buffer.Held;

    /// <inheritdoc/>
    public override RevokeOperation Free(RevokePolicy policy) => Buffer.Device.Free(Buffer, policy);
}
