using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Ethernet;

/// <summary>A GPU buffer that is bound, without the NIC around it: what chunks, queues and tokens need.</summary>
internal sealed class PoolFixture
{
    public const int Page = 4096;

    public PoolFixture(int pages = 8, ImporterKind kind = ImporterKind.PinnedRevocable, NicDefences? defences = null)
    {
        byte[] vram = new byte[4 << 20], system = new byte[4 << 20];
        defences ??= NicDefences.All;
        using (Host.Enter())
        {
            Fabric.Plug(Nic);
            GpuOptions options = new() { CopyBlockBytes = Page };
            Gpu = new GpuDevice(Host, Fabric, new PciFunction("0000:01:00.0", "gpu0"), options, [vram], [system]);
            GpuBufferInfo info = new("rx", (ulong)(pages * Page), StorageKind.Movable);
            Assert.Equal(Errno.Success, Gpu.TryCreate(info, out GpuBuffer? made));
            Buffer = made!;
        }

        Gpu.CopyEngine.Drive(int.MaxValue);
        using (Host.Enter())
        {
            Memory = new BoundMemory(Host, "nic0 binding 7", 7, kind, null, defences, () => Revokes++);
        }

        if (Bind().Wait is not null)
        {
            // To a static importer the GPU shows system memory, and moves the buffer there first.
            Gpu.CopyEngine.Drive(int.MaxValue);
            Assert.Equal(Errno.Success, Bind().Errno);
        }

        Binding = new MemoryBinding(Host, 7, Memory, Buffer.Shared, new BindRequest(), defences);
        Queue = new DevmemReceiveQueue(defences);
    }

    public HostContext Host { get; } = new(new VirtualClock());

    public PciFabric Fabric { get; } = new();

    public PciFunction Nic { get; } = new("0000:02:00.0", "nic0");

    public GpuDevice Gpu { get; }

    public GpuBuffer Buffer { get; }

    public BoundMemory Memory { get; }

    public MemoryBinding Binding { get; }

    public ChunkPool Pool => Binding.Pool;

    public DevmemReceiveQueue Queue { get; }

    public int Revokes { get; private set; }

    public ChunkPool HostPool { get; } = new(ChunkPoolKind.Host, new byte[8 * Page], Page);

    public ChunkPool FallbackPool { get; } = new(ChunkPoolKind.Fallback, new byte[8 * Page], Page);

    private BindOutcome Bind()
    {
        using (Host.Enter())
        {
            AcquireTicket ticket = new(Host, "bind");
            Assert.Equal(LockOutcomeKind.Acquired, Buffer.Shared.Reservation.TryLock(ticket).Kind);
            BindOutcome outcome = Memory.BindLocked(ticket, Buffer.Shared, Nic, DmaDirection.FromDevice);
            Buffer.Shared.Reservation.Unlock(ticket);
            return outcome;
        }
    }

    /// <summary>Appends a chunk of its own, the reference with it.</summary>
    public PayloadFragment Append(ChunkPool pool, int lengthBytes = Page, int offset = 0, byte fill = 0)
    {
        Assert.True(pool.TryAllocate(out int chunk));
        PayloadFragment fragment = new(pool, chunk, offset, lengthBytes);
        if (!fragment.IsDevice)
        {
            pool.Bytes(chunk, offset, lengthBytes).Fill(fill);
        }

        Queue.Append(fragment);
        return fragment;
    }

    public DevmemFragment[] Read(
        int fragmentsMax = 16, int lengthMax = 1 << 20, ReceiveFlags flags = ReceiveFlags.Devmem, int linear = 1 << 16)
    {
        DevmemFragment[] fragments = new DevmemFragment[fragmentsMax];
        Assert.Equal(
            Errno.Success, Queue.Receive(flags, lengthMax, new byte[linear], fragments, out ReceiveResult result));
        return fragments[..result.Fragments];
    }

    public int Return(params TokenRange[] ranges)
    {
        Assert.Equal(Errno.Success, Queue.DontNeed(ranges, out int freed));
        return freed;
    }
}
