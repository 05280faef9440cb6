using Wayleave.Core.Buffers;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>Memory that was taken for copies. Host lock held by the caller of the functions.</summary>
/// <param name="Shared">What engines attach to.</param>
/// <param name="Addresses">Where the processor finds it.</param>
/// <param name="Free">Gives it back, when everybody has let go.</param>
internal sealed record CopyMemory(
    SharedBuffer Shared, Func<DmaAddressList> Addresses, Func<RevokePolicy, RevokeOperation> Free);

/// <summary>A row and column of the matrix: whose memory it is, and who hands it out.</summary>
internal abstract class CopyPlace(string name, PciFunction? function, GpuDevice? engine)
{
    protected const string BufferName = "bench-copy";

    /// <summary>As the host's configuration calls it, or <c>host</c>.</summary>
    public string Name => name;

    /// <summary>Null for host memory.</summary>
    public PciFunction? Function => function;

    /// <summary>The GPU whose memory it is; null for those who do not copy.</summary>
    public GpuDevice? Engine => engine;

    /// <summary>Takes memory for copies by an engine. Host lock not held.</summary>
    /// <exception cref="WayleaveException">No room.</exception>
    public abstract Task<CopyMemory> TakeAsync(GpuDevice engine, ulong sizeBytes, string operation);
}

/// <summary>
/// The memory of a GPU, an accelerator, a function that VFIO has, or a drive with a memory buffer.
/// </summary>
internal sealed class DevicePlace(IObjectDevice device)
    : CopyPlace(device.Name, device.Function, (device as GpuHandle)?.Device)
{
    public override async Task<CopyMemory> TakeAsync(GpuDevice engine, ulong sizeBytes, string operation)
    {
        // Nobody moves it meanwhile: the processor copies there too, and has no fence.
        StorageKind storage = device.CanStore(StorageKind.Revocable) ? StorageKind.Revocable : device.DefaultStorage;
        ObjectMemory memory = await device
            .TakeAsync(new ObjectRequest(BufferName, sizeBytes, storage), operation, CancellationToken.None)
            .ConfigureAwait(false);
        return new CopyMemory(memory.Shared, () => memory.Addresses, memory.Free);
    }
}

/// <summary>System memory: that of the GPU whose engine copies.</summary>
internal sealed class HostPlace() : CopyPlace("host", function: null, engine: null)
{
    public override Task<CopyMemory> TakeAsync(GpuDevice engine, ulong sizeBytes, string operation)
    {
        using (engine.Host.Enter())
        {
            GpuBufferInfo info = new(BufferName, sizeBytes, StorageKind.Revocable, GpuDomain.System);
            engine.TryCreate(info, out GpuBuffer? buffer).ThrowIfFailed(operation);
            return Task.FromResult(new CopyMemory(
                buffer!.Shared, () => buffer.Placement.Addresses, policy => engine.Free(buffer, policy)));
        }
    }
}
