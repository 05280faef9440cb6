using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>Pages of a process that migrate to a GPU when its queues fault on them.</summary>
public sealed class ProcessMemoryTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Va = ComputeFixture.Va;
    private const ulong RingVa = 0x20_0000;

    private readonly ComputeFixture _f;
    private readonly MemorySystem _memory;
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly GpuProcessMemory _vram;
    private readonly GpuBuffer _ring;
    private readonly UserQueue _queue;
    private ulong _written;

    public ProcessMemoryTests()
        : this(vramPages: 4)
    {
    }

    private ProcessMemoryTests(ulong vramPages, int ringSlots = 256)
    {
        _f = new ComputeFixture(new GpuOptions { FaultAheadPages = 1, CopyRingSlots = ringSlots });
        using (_f.Host.Enter())
        {
            byte[] pages = new byte[16 * Page];
            _memory = new MemorySystem(_f.Host, swapPages: 16);
            _memory.AddMemory(pages, _f.Gpu.Fabric.AddWindow(pages, owner: null).Range.Start);
            _space = new AddressSpace(_memory, "process 1");
            MapOperation map = _space.Map(new RegionRequest { LengthBytes = 4 * Page });
            Assert.True(map.Proceed());
            _range = map.Addresses;
            Assert.Equal(
                Errno.Success,
                GpuProcessMemory.TryCreate(_f.Gpu.Gpu, _memory, vramPages * Page, out GpuProcessMemory? made));
            _vram = made!;
            Assert.Equal(Errno.Success, _f.Process.TryOpenUserPointer(
                _space, _range, GpuAccess.ReadWrite, out uint handle, GpuUserMemory.Fault));
            Assert.Equal(
                Errno.Success, _f.Process.Memory.TryMap(Va, handle, 0, _range.LengthBytes, GpuAccess.ReadWrite));
        }

        _ring = _f.Map(RingVa);
        _queue = _f.Gpu.Locked(() =>
        {
            _f.Process.TryCreateUserQueue("aql", RingVa, 64, out UserQueue? made);
            _f.Process.Eviction.Start();
            return made!;
        });
    }

    private int InVram => _vram.Pages.PageCount - _vram.Pages.FreePages;

    [Fact]
    public void Pages_go_to_the_GPU_when_it_faults_and_home_when_the_process_touches_them()
    {
        Write(_range.Start, 0x11, 2 * (int)Page); // two pages there, two that nobody has touched
        Run(Copy(from: 0, to: 2 * Page, Page), Fill(3 * Page, 7, Page));
        Assert.Equal((4, 0L), (InVram, _vram.ProcessorCopies)); // one of them came along
        Assert.Equal(0x11, Read(2 * Page));
        Assert.Equal(0x07, Read(3 * Page));
        Assert.Equal(0, Read((3 * Page) + 1));
        Assert.Equal((0x11, 0x11), (Read(0), Read(Page)));
        Assert.Equal((0, 0), (InVram, _f.Host.Checker.ViolationCount));

        // And back again, as often as it takes.
        Run(Fill(0, 9, 4 * Page));
        Assert.Equal(4, InVram);
        Assert.Equal(9, Read(Page));
        _f.Gpu.Locked(() => Assert.True(_space.Exit().Proceed()));
        Assert.Equal((0, _memory.PageCount), (InVram, _memory.FreePages));
    }

    [Fact]
    public void Pages_for_which_there_is_no_room_stay_and_are_reached_where_they_are()
    {
        ProcessMemoryTests t = new(vramPages: 2);
        t.Run(Fill(0, 5, 4 * Page));
        Assert.Equal(2, t.InVram);
        Assert.Equal((5, 5), (t.Read(0), t.Read(3 * Page)));
    }

    [Fact]
    public void When_the_copy_engines_ring_is_full_the_processor_copies()
    {
        ProcessMemoryTests t = new(vramPages: 4, ringSlots: 1);
        t.Write(t._range.Start, 0x22, (int)Page);
        GpuBuffer blocked = t._f.Gpu.Create("blocked", 1);
        Fence gate = t._f.Gpu.Locked(() => new Timeline(t._f.Host, "gate").CreateFence());
        CopyJob waiting = new()
        {
            Name = "waits",
            Target = blocked.Placement.Addresses,
            Fence = t._f.Gpu.Locked(() => new Timeline(t._f.Host, "waits").CreateFence()),
            Waits = [gate],
        };
        Assert.Equal(Errno.Success, t._f.Gpu.Locked(() => t._f.Gpu.Gpu.CopyEngine.TrySubmit(waiting)));

        t.Run(Copy(from: 0, to: 2 * Page, Page));

        Assert.Equal(0x22, t.Read(2 * Page));
        Assert.True(t._vram.ProcessorCopies >= 2);
        t._f.Gpu.Locked(() => gate.Signal());
        t._f.Run();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Another_device_gets_a_page_home_or_reaches_it_where_it_is(bool isDirect)
    {
        Run(Fill(0, 0x33, Page));
        int before = InVram;
        Assert.True(before > 0);
        Client client = new();
        MirrorPage seen = default;
        IntervalNotifier? notifier = null;
        MirrorUpdateOperation update = _f.Gpu.Locked(() =>
        {
            Assert.Equal(Errno.Success, _space.Subscribe(_range, client, out notifier));
            MirrorRange look = new(_space, notifier!, new AddressRange(_range.Start, Page))
            {
                DefaultRequest = MirrorBits.Fault,
                AllowsPeerToPeer = isDirect,
                Client = _f.Gpu.Nic,
                NeedsAddresses = true,
            };
            return look.Update(r => seen = r.Pages[0]);
        });
        Finish(update);
        Assert.Equal(Errno.Success, update.Errno);
        Assert.Equal(isDirect, (seen.Bits & MirrorBits.PeerToPeer) != 0);
        Assert.Equal(isDirect ? before : before - 1, InVram);
        DeviceAddress address = isDirect ? seen.Address : seen.Frame!.Address;
        Assert.Equal(
            Errno.Success,
            new DmaPort(_f.Gpu.Nic).TryRead(address, (int)Page, out ReadOnlySpan<byte> bytes));
        Assert.Equal(0x33, bytes[0]);

        // The process wants it: whoever reached it is told first.
        int told = client.Told;
        Assert.Equal(0x33, Read(0));
        Assert.Equal(isDirect, client.Told > told);
        _f.Gpu.Locked(() => notifier!.Remove());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_queue_of_another_GPU_gets_a_page_home_or_reaches_it_where_it_is(bool isDirect)
    {
        Run(Fill(0, 0x44, 4 * Page));
        Assert.Equal(4, InVram);
        byte[] vram = new byte[4 * Page];
        GpuDevice other;
        GpuProcess process;
        UserQueue queue;
        GpuBuffer? local, ring;
        using (_f.Host.Enter())
        {
            PciFunction function = new("0000:03:00.0", "gpu1");
            GpuOptions options = new() { ReachesPrivatePages = isDirect, FaultAheadPages = 0 };
            other = new GpuDevice(_f.Host, _f.Gpu.Fabric, function, options, [vram], [new byte[Page]]);
            process = other.OpenProcess("process 1");
            Assert.Equal(Errno.Success, process.TryOpenUserPointer(
                _space, _range, GpuAccess.ReadWrite, out uint handle, GpuUserMemory.Fault));
            Assert.Equal(Errno.Success, process.Memory.TryMap(Va, handle, 0, Page, GpuAccess.ReadWrite));
            Assert.Equal(
                Errno.Success, other.TryCreate(new GpuBufferInfo("local", Page, StorageKind.Movable), out local));
            Assert.Equal(
                Errno.Success, other.TryCreate(new GpuBufferInfo("ring", Page, StorageKind.Movable), out ring));
        }

        other.CopyEngine.Drive(int.MaxValue);
        ulong at = ring!.Placement.Addresses.Entries[0].Start.Value - local!.Placement.Addresses.Entries[0].Start.Value;
        new GpuCommand { Opcode = GpuOpcode.Copy, A = Va, Target = 2 * Va, Count = Page }.Write(vram.AsSpan((int)at));
        using (_f.Host.Enter())
        {
            Map(process, local, 2 * Va);
            Map(process, ring, 3 * Va);
            Assert.Equal(Errno.Success, process.TryCreateUserQueue("aql", 3 * Va, 64, out UserQueue? made));
            queue = made!;
            process.Eviction.Start();
        }

        queue.RingDoorbell(1);
        for (int round = 0; round < 1000 && queue.Done == 0 && !queue.IsLost; round++)
        {
            other.ComputeEngine.Drive(int.MaxValue);
            _f.Run();
            _f.Gpu.Locked(() => process.Faults.ServeAll());
        }

        Assert.Equal((1UL, false), (queue.Done, queue.IsLost));
        Assert.Equal(isDirect ? 4 : 3, InVram);
        Assert.Equal(0x44, vram[0]);

        // The processor takes it home under the other GPU's mapping.
        Write(_range.Start, 0x55, (int)Page);
        Assert.Equal(3, InVram);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    private static void Map(GpuProcess process, GpuBuffer buffer, ulong address)
    {
        Assert.Equal(Errno.Success, process.TryOpen(buffer.Shared, GpuAccess.ReadWrite, out uint handle));
        Assert.Equal(Errno.Success, process.Memory.TryMap(address, handle, 0, Page, GpuAccess.ReadWrite));
    }

    [Fact]
    public void A_device_that_is_gone_takes_its_pages_along()
    {
        Run(Fill(0, 1, Page));
        Assert.True(_f.Gpu.Gpu.CopyEngine.TryEnter());
        _f.Gpu.Locked(_f.Gpu.Gpu.CopyEngine.HandleDriverEnded);
        AccessOperation load = _f.Gpu.Locked(() => _space.Read(_range.Start, new byte[1]));
        Finish(load);
        Assert.Equal(Errno.EFAULT, load.Errno);
    }

    [Fact]
    public void Memory_is_set_aside_once_in_one_piece()
    {
        GpuFixture f = new(vramPages: 4);
        using (f.Host.Enter())
        {
            MemorySystem memory = new(f.Host);
            Assert.Equal(Errno.EINVAL, GpuProcessMemory.TryCreate(f.Gpu, memory, 0, out _));
            Assert.Equal(Errno.EINVAL, GpuProcessMemory.TryCreate(f.Gpu, memory, 100, out _));
            Assert.Equal(Errno.ENOSPC, GpuProcessMemory.TryCreate(f.Gpu, memory, 5 * Page, out _));
            Assert.Equal(4 * Page, f.Gpu.Stats.VramFreeBytes);
            Assert.Equal(Errno.Success, GpuProcessMemory.TryCreate(f.Gpu, memory, 3 * Page, out _));
            Assert.Equal(Errno.EEXIST, GpuProcessMemory.TryCreate(f.Gpu, memory, Page, out _));
            Assert.Equal(Page, f.Gpu.Stats.VramFreeBytes);
        }
    }

    private static GpuCommand Fill(ulong offset, uint value, ulong count) =>
        new() { Opcode = GpuOpcode.Fill, Target = Va + offset, Value = value, Count = count };

    private static GpuCommand Copy(ulong from, ulong to, ulong count) =>
        new() { Opcode = GpuOpcode.Copy, A = Va + from, Target = Va + to, Count = count };

    private void Run(params GpuCommand[] commands)
    {
        foreach (GpuCommand command in commands)
        {
            command.Write(_f.Gpu.Bytes(_ring)[(int)(_written++ * GpuCommand.SizeBytes)..]);
        }

        _queue.RingDoorbell(_written);
        for (int round = 0; round < 1000 && _queue.Done < _written && !_queue.IsLost; round++)
        {
            _f.Run();
            _f.Gpu.Locked(() => _f.Process.Faults.ServeAll());
        }

        Assert.Equal((_written, false), (_queue.Done, _queue.IsLost));
    }

    private void Finish(SpaceOperation operation)
    {
        for (int round = 0; round < 1000 && !_f.Gpu.Locked(operation.Proceed); round++)
        {
            _f.Run();
        }

        Assert.True(operation.IsCompleted, operation.ToString());
    }

    private byte Read(ulong offset)
    {
        byte[] bytes = new byte[1];
        AccessOperation load = _f.Gpu.Locked(() => _space.Read(_range.Start + offset, bytes));
        Finish(load);
        Assert.Equal(Errno.Success, load.Errno);
        return bytes[0];
    }

    private void Write(ulong address, byte value, int count)
    {
        byte[] bytes = new byte[count];
        Array.Fill(bytes, value);
        Finish(_f.Gpu.Locked(() => _space.Write(address, bytes)));
    }

    private sealed class Client : IMirror
    {
        public string Name => "client";

        public int Told { get; private set; }

        public InvalidateAnswer Invalidate(IntervalNotifier notifier, in InvalidateRange range, ulong sequence)
        {
            notifier.SetSequence(sequence);
            Told++;
            return InvalidateAnswer.Done;
        }
    }
}
