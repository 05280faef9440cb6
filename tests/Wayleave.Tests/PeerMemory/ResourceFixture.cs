using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// A GPU with eight pages of VRAM, which it lends, and two NICs below the same switch. Takes the host lock itself.
/// </summary>
internal sealed class ResourceFixture
{
    public const ulong Page = 0x1000;

    public ResourceFixture(GpuOptions? options = null)
    {
        Host = new HostContext(Clock, Trace);
        using (Host.Enter())
        {
            Fabric.Plug(Nic);
            Fabric.Plug(Other);
            Gpu = new GpuDevice(Host, Fabric, Function, options ?? new GpuOptions(), [Vram], [new byte[Page]]);
        }
    }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; } = new();

    public PciFunction Function { get; } = new("0000:01:00.0", "gpu0");

    public PciFunction Nic { get; } = new("0000:02:00.0", "nic0");

    public PciFunction Other { get; } = new("0000:03:00.0", "nic1");

    public byte[] Vram { get; } = new byte[8 * Page];

    public GpuDevice Gpu { get; }

    public PeerDevice Device => Function.PeerDevice!;

    public GpuStats Stats => Locked(() => Gpu.Stats);

    public int Violations =>
        Trace.Events.Count(e => e.Name.StartsWith("violation.", StringComparison.Ordinal));

    public T Locked<T>(Func<T> action)
    {
        using (Host.Enter())
        {
            return action();
        }
    }

    public void Locked(Action action)
    {
        using (Host.Enter())
        {
            action();
        }
    }

    /// <summary>A resource whose memory is cleared.</summary>
    public PeerHandle Add(string name, ulong pages, string holder = "process 1")
    {
        PeerHandle handle = Locked(() =>
        {
            Assert.Equal(
                Errno.Success, PeerResource.TryAdd(Host, Device, name, pages * Page, holder, out PeerHandle? made));
            return made!;
        });
        Gpu.CopyEngine.Drive(int.MaxValue);
        return handle;
    }

    public PeerChunk Allocate(PeerImport import, ulong pages = 1) => Locked(() =>
    {
        Assert.Equal(Errno.Success, import.TryAllocate(pages * Page, out PeerChunk? chunk));
        return chunk!;
    });

    /// <summary>A device that has imported and mapped the resource.</summary>
    public (PeerUser User, PeerImport Import) Use(PeerHandle handle, PciFunction device)
    {
        PeerUser user = new(Host, device);
        PeerImport import = user.Import(handle);
        user.Map();
        return (user, import);
    }

    public RevokeOperation Remove(PeerHandle handle) => Locked(() =>
    {
        Assert.Equal(Errno.Success, handle.TryRemove(new RevokePolicy(), out RevokeOperation? removal));
        return removal!;
    });

    /// <summary>Somebody else's buffer: as many pages of VRAM as there are.</summary>
    public GpuBuffer? TakeVram(ulong pages)
    {
        GpuBuffer? buffer = Locked(() =>
        {
            Gpu.TryCreate(
                new GpuBufferInfo("new owner", pages * Page, Core.Buffers.StorageKind.Static), out GpuBuffer? made);
            return made;
        });
        Gpu.CopyEngine.Drive(int.MaxValue);
        return buffer;
    }
}
