using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Topology;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Perftest;

/// <summary>
/// A registered object of a GPU whose bytes the processor sees in one piece. Nobody moves it, so that they stay.
/// </summary>
internal sealed class PerftestMemory
{
    private readonly NicHandle _nic;
    private readonly DeviceObject _object;
    private readonly DmaPort _processor;

    private PerftestMemory(NicHandle nic, DeviceObject o, DmaPort processor, MemoryRegion region) =>
        (_nic, _object, _processor, Region) = (nic, o, processor, region);

    public MemoryRegion Region { get; }

    /// <summary>Makes an object on the first GPU of a host and registers it for a NIC.</summary>
    public static async Task<PerftestMemory> OpenAsync(
        WayleaveHost host, NicHandle nic, string name, long sizeBytes, AccessFlags access, ProtectionDomain domain)
    {
        DeviceObject o = await host.Objects.CreateAsync(
            host.Gpus[0].Name, name, (ulong)sizeBytes, StorageKind.Movable).ConfigureAwait(false);
        MemoryRegion region = await nic.RegisterAsync(
            domain,
            o.Buffer,
            new MemoryRegionRequest(0, o.SizeBytes, 0, access, ImporterKind.Dynamic)).ConfigureAwait(false);
        return new PerftestMemory(nic, o, new DmaPort(host.Fabric.Processor), region);
    }

    public Sge Part(long offset, int lengthBytes) =>
        new(Region.Iova + (ulong)offset, (uint)lengthBytes, Region.Key);

    public Span<byte> Bytes(long offset, int lengthBytes)
    {
        Span<byte> bytes = default;
        bool found = _object.Memory.Addresses.TryLocate((ulong)offset, out DeviceAddress start, out ulong contiguous)
            && contiguous >= (ulong)lengthBytes
            && _processor.TryWrite(start, lengthBytes, out bytes) == Errno.Success;
        return found && bytes.Length == lengthBytes
            ? bytes
            : throw new InvalidOperationException($"{lengthBytes} bytes at {offset} of {_object} are not in one piece");
    }

    /// <summary>Ends the registration; nobody uses it any more.</summary>
    public Task CloseAsync() => _nic.DeregisterAsync(Region);
}
