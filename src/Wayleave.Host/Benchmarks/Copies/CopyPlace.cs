using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>
/// A row and column of the matrix: whose memory it is and who lends it. Host lock held by the caller.
/// </summary>
internal abstract class CopyPlace(string name, PciFunction? function, GpuDevice? engine)
{
    protected const string BufferName = "bench-copy";

    /// <summary>As the host's configuration calls it, or <c>host</c>.</summary>
    public string Name => name;

    /// <summary>Null for host memory.</summary>
    public PciFunction? Function => function;

    /// <summary>The GPU whose memory it is; null for those who do not copy.</summary>
    public GpuDevice? Engine => engine;

    /// <summary>Lends memory for copies by an engine.</summary>
    public abstract Errno TryLend(GpuDevice engine, ulong sizeBytes, out SharedBuffer? buffer);

    /// <summary>Takes back what was lent; everybody has let go.</summary>
    public abstract RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy);

    /// <summary>Where the processor finds what was lent.</summary>
    public abstract DmaAddressList PhysicalOf(SharedBuffer buffer);
}

/// <summary>VRAM that peers reach.</summary>
internal sealed class GpuPlace(GpuDevice gpu) : CopyPlace(gpu.Function.Name, gpu.Function, gpu)
{
    public override Errno TryLend(GpuDevice engine, ulong sizeBytes, out SharedBuffer? buffer) =>
        Owner.TryLend(BufferName, sizeBytes, out buffer);

    public override RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy) =>
        Owner.TakeBack(buffer, policy);

    public override DmaAddressList PhysicalOf(SharedBuffer buffer) => ((GpuBuffer)buffer.Exporter).Placement.Addresses;

    private IPeerMemoryOwner Owner => Engine!;
}

/// <summary>System memory: that of the GPU whose engine copies.</summary>
internal sealed class HostPlace() : CopyPlace("host", function: null, engine: null)
{
    public override Errno TryLend(GpuDevice engine, ulong sizeBytes, out SharedBuffer? buffer)
    {
        GpuBufferInfo info = new(BufferName, sizeBytes, StorageKind.Revocable, GpuDomain.System);
        Errno errno = engine.TryCreate(info, out GpuBuffer? made);
        buffer = made?.Shared;
        return errno;
    }

    public override RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy)
    {
        GpuBuffer lent = (GpuBuffer)buffer.Exporter;
        return lent.Device.Free(lent, policy);
    }

    public override DmaAddressList PhysicalOf(SharedBuffer buffer) => ((GpuBuffer)buffer.Exporter).Placement.Addresses;
}

/// <summary>A controller memory buffer, or any other memory that a pool hands out.</summary>
internal sealed class PoolPlace(PciFunction function, PeerPool pool, PeerPoolLender lender)
    : CopyPlace(function.Name, function, engine: null)
{
    public override Errno TryLend(GpuDevice engine, ulong sizeBytes, out SharedBuffer? buffer) =>
        lender.TryLend($"{BufferName}-{pool.Allocations.Count}", sizeBytes, out buffer);

    public override RevokeOperation TakeBack(SharedBuffer buffer, RevokePolicy policy) =>
        lender.TakeBack(buffer, policy);

    public override DmaAddressList PhysicalOf(SharedBuffer buffer) =>
        pool.Allocations.First(a => a.Holder == buffer.Name).Addresses;
}
