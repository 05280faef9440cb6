using System.Security.Cryptography;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Ethernet.Steering;
using Wayleave.Devices.Ethernet.Tcp;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Ethernet;
using Wayleave.Linux;

namespace Wayleave.Host.Benchmarks.Tcp;

/// <summary>
/// Memory of a GPU, bound to the last receive queue of a NIC, which RSS leaves alone. Disposed before the NIC.
/// </summary>
public sealed class BoundRegion : IDisposable
{
    private readonly HostedNic _nic;
    private readonly MappedMemory _vram;
    private readonly int _queue;

    private readonly GpuBuffer _buffer;
    private readonly DmaPort _dma;

    private BoundRegion(
        HostedNic nic, MappedMemory vram, PciFunction function, GpuBuffer buffer, MemoryBinding binding, int queue)
    {
        (_nic, _vram, _buffer, Binding, _queue) = (nic, vram, buffer, binding, queue);
        _dma = new DmaPort(function);
    }

    /// <summary>Ends with this object.</summary>
    public MemoryBinding Binding { get; }

    /// <summary>Makes the GPU and binds all of its memory.</summary>
    /// <exception cref="WayleaveException">What the NIC refused, and why.</exception>
    public static BoundRegion Create(HostContext host, PciFabric fabric, HostedNic nic, long bytes)
    {
        MappedMemory vram = MappedMemory.AllocateAnonymous(bytes, hugePages: true);
        vram.Memory.Span.Clear(); // so that no page is missing when the clock runs
        PciFunction function = new("0000:03:00.0", "gpu0");
        GpuBuffer? buffer;
        AcquireTicket ticket;
        GpuDevice gpu;
        using (host.Enter())
        {
            gpu = new GpuDevice(host, fabric, function, new GpuOptions(), [vram.Memory], []);
            gpu.TryCreate(new GpuBufferInfo("rx", (ulong)bytes, StorageKind.Movable), out buffer)
                .ThrowIfFailed("take memory of gpu0");
        }

        gpu.CopyEngine.Drive(int.MaxValue);
        using (host.Enter())
        {
            ticket = new AcquireTicket(host, "bind");
            buffer!.Shared.Reservation.TryLock(ticket);
        }

        int queue = nic.Device.Options.Channels - 1;
        MemoryBinding? binding = null;
        BindOutcome outcome = nic.Driver.WithToken(() =>
        {
            FlowSteering steering = nic.Device.Port.Steering;
            nic.Device.SetSplit(new HeaderSplit(HeaderSplitMode.On, 0)).ThrowIfFailed("switch header split on");
            steering.Change(0, RssChange.Equal(queue, steering.Main.Table.Length))
                .ThrowIfFailed("set the table of RSS");
            BindRequest request = new()
            {
                Queues = [queue],
                Kind = ImporterKind.PinnedRevocable,
                Provider = function,
            };
            return nic.Device.BindLocked(ticket, buffer.Shared, request, out binding);
        });
        using (host.Enter())
        {
            buffer.Shared.Reservation.Unlock(ticket);
        }

        return outcome.Errno == Errno.Success
            ? new BoundRegion(nic, vram, function, buffer, binding!, queue)
            : throw new WayleaveException(outcome.Errno, "bind the memory of gpu0", outcome.Explanation);
    }

    /// <summary>One connection is received here from its next segment on.</summary>
    public void Steer(DevmemConnection connection) => _nic.Driver.WithToken(() =>
    {
        TcpFlow flow = connection.Flow;
        FlowRule rule = FlowRule.ForConnection(flow.Remote, flow.RemotePort, flow.Local, flow.LocalPort, _queue);
        _nic.Device.Port.Steering.InsertRule(rule, out _).ThrowIfFailed("steer a connection");
    });

    /// <summary>Adds a piece that was received, as the GPU's own engine reads it.</summary>
    /// <exception cref="WayleaveException">Nothing answers there.</exception>
    public void AppendTo(IncrementalHash hash, in DevmemFragment fragment)
    {
        ulong offset = fragment.Offset;
        int left = (int)fragment.LengthBytes;
        while (left > 0)
        {
            ReadOnlySpan<byte> bytes = default;
            Errno errno = _buffer.Placement.LocalAddresses.TryLocate(
                offset, out DeviceAddress address, out ulong contiguous)
                ? _dma.TryRead(address, (int)Math.Min((ulong)left, contiguous), out bytes)
                : Errno.EFAULT;
            errno.ThrowIfFailed($"read {fragment} in memory of gpu0");
            hash.AppendData(bytes);
            offset += (ulong)bytes.Length;
            left -= bytes.Length;
        }
    }

    /// <summary>Unbinds, so that nothing is placed any more, and lets go of the memory.</summary>
    public void Dispose()
    {
        _nic.Driver.WithToken(() => _nic.Device.Unbind(Binding));
        ((IDisposable)_vram).Dispose();
    }
}
