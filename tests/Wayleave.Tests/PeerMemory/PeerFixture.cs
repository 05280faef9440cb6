using Wayleave.Core;
using Wayleave.Core.PeerMemory;
using Wayleave.Core.Topology;
using Wayleave.Simulation;
using Wayleave.Tests.Buffers;
using Wayleave.Tests.Topology;
using Xunit;

namespace Wayleave.Tests.PeerMemory;

/// <summary>
/// A switch with the devices a and b; a has 16 pages of memory in BAR 2 and I/O ports in BAR 4. The host lock is held
/// all the time.
/// </summary>
internal ref struct PeerFixture : IDisposable
{
    public const ulong Page = PeerPool.PageBytes;
    public const int MemoryBar = 2;
    public const int PortBar = 4;

    private readonly HostContext.Scope _scope;

    public PeerFixture()
        : this(Trees.Switch(Trees.Unlisted))
    {
    }

    public PeerFixture(Tree tree)
    {
        Tree = tree;
        Host = new HostContext(Clock, Trace);
        Fabric = new PciFabric(Tree.Topology);
        _scope = Host.Enter();
        Fabric.Plug(Tree["b"]);
        PciBar bar = Fabric.AddBar(Tree["a"], MemoryBar, PciBarKind.Memory, 16 * Page);
        Fabric.AddBar(Tree["a"], PortBar, PciBarKind.IoPort, 16 * Page);
        Fabric.AddWindow(Memory, bar, 0);
    }

    public Tree Tree { get; }

    public VirtualClock Clock { get; } = new();

    public TraceLog Trace { get; } = new();

    public HostContext Host { get; }

    public PciFabric Fabric { get; }

    public byte[] Memory { get; } = new byte[16 * Page];

    public readonly PciFunction A => Tree["a"];

    public readonly PciFunction B => Tree["b"];

    public readonly int Violations =>
        Trace.Events.Count(e => e.Name.StartsWith("violation.", StringComparison.Ordinal));

    public readonly Errno TryAdd(int bar, ulong size, ulong offset, out PeerPool? pool) =>
        PeerDevice.TryAddResource(Host, Tree.Topology, A, bar, size, offset, out pool);

    public readonly PeerPool Add(ulong size, ulong offset)
    {
        Assert.Equal(Errno.Success, TryAdd(MemoryBar, size, offset, out PeerPool? pool));
        return pool!;
    }

    public readonly PeerUserMapping Mmap(PeerPool pool, ulong length, string holder = "process 1")
    {
        Errno errno = pool.TryMmap(
            holder, Fabric.Processor, length, isShared: true, offset: 0, out PeerUserMapping? mapping);
        Assert.Equal(Errno.Success, errno);
        return mapping!;
    }

    public static PeerAllocation Allocate(PeerPool pool, ulong size)
    {
        Assert.Equal(Errno.Success, pool.TryAllocate(size, "test", out PeerAllocation? allocation));
        return allocation!;
    }

    public readonly void Dispose() => _scope.Dispose();
}
