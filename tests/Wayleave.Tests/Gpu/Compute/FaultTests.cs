using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>The ways in which a GPU uses memory of a process other than to wait for all fences.</summary>
public sealed class FaultTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Va = ComputeFixture.Va;
    private const ulong RingVa = 0x20_0000;

    private readonly ComputeFixture _f = new(new GpuOptions { FaultAheadPages = 1 });
    private readonly MemorySystem _memory;
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private GpuBuffer? _ring;

    public FaultTests()
    {
        using (_f.Host.Enter())
        {
            byte[] pages = new byte[16 * Page];
            _memory = new MemorySystem(_f.Host, swapPages: 16);
            _memory.AddMemory(pages, _f.Gpu.Fabric.AddWindow(pages, owner: null).Range.Start);
            _space = new AddressSpace(_memory, "process 1");
            MapOperation map = _space.Map(new RegionRequest { LengthBytes = 4 * Page });
            Assert.True(map.Proceed());
            _range = map.Addresses;
        }
    }

    private GpuFaults Faults => _f.Process.Faults;

    [Fact]
    public void A_queue_that_touches_what_is_not_there_faults_and_goes_on_from_the_same_block()
    {
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4 * Page));
        _f.Run();

        Assert.Equal((0UL, 1, false), (queue.Done, _f.Gpu.Locked(() => Faults.PendingCount), queue.IsLost));
        int served = Serve();

        Assert.Equal((1UL, 4), (queue.Done, served)); // nothing is ahead of it that is there already
        Assert.Equal(GpuEvictionState.Running, _f.Process.Eviction.State);
        Assert.Equal([7, 0, 0, 0], Read(_range.End - 4));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void Pages_behind_a_fault_that_are_there_anyway_come_into_reach_with_it()
    {
        Write(_range.Start, new byte[4 * Page]);
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4 * Page));

        Assert.Equal(2, Serve());
        Assert.Equal(1UL, queue.Done);
    }

    [Theory]
    [InlineData(GpuUserMemory.Fault)]
    [InlineData(GpuUserMemory.WaitForFences)]
    public void A_read_of_memory_that_nobody_has_touched_finds_zeroes_in_a_page_of_the_process(GpuUserMemory mode)
    {
        Assert.Equal([0, 0, 0, 0], Read(_range.Start)); // the processor is shown the page of zeroes
        using (_f.Host.Enter())
        {
            Assert.Equal(
                Errno.Success,
                _f.Process.TryOpenUserPointer(_space, _range, GpuAccess.Read, out uint handle, mode));
            Assert.Equal(
                Errno.Success, _f.Process.Memory.TryMap(Va, handle, 0, _range.LengthBytes, GpuAccess.Read));
        }

        GpuBuffer target = _f.Map(0x40_0000);
        _f.Gpu.Bytes(target).Fill(9);
        UserQueue queue = StartQueue(
            new GpuCommand { Opcode = GpuOpcode.Copy, A = Va, Target = 0x40_0000, Count = Page });
        Serve();
        Assert.Equal((1UL, false), (queue.Done, queue.IsLost));
        Assert.Equal(0u, _f.Values<uint>(target)[0]);
        Assert.Equal([0, 0, 0, 0], Read(_range.Start));
    }

    [Fact]
    public void The_notifier_of_a_queue_that_may_fault_stops_no_queue_and_waits_for_no_fence()
    {
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 2 * Page), Fill(8, 2 * Page));
        while (queue.Done == 0)
        {
            _f.Engine.Drive(1);
            _f.Gpu.Locked(() => Faults.ServeAll());
        }

        _f.Gpu.Locked(() =>
        {
            Assert.True(_memory.Reclaim(16).Proceed());
            Assert.Equal(2, _memory.Stats.Reclaimed);
            GpuEviction eviction = _f.Process.Eviction;
            Assert.Equal((GpuEvictionState.Running, 0L), (eviction.State, eviction.EvictionCount));
        });
        Serve();
        Assert.Equal((2UL, false), (queue.Done, queue.IsLost));
        Assert.Equal([8, 0, 0, 0], Read(_range.Start));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_queue_that_faults_where_the_process_has_nothing_is_lost_and_another_one_goes_on()
    {
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4 * Page));
        SubmitOperation other = _f.Paged(new GpuCommand { Opcode = GpuOpcode.Nop });
        _f.Gpu.Locked(() => Assert.True(_space.Unmap(_range).Proceed()));

        Serve();

        Assert.Equal((true, Errno.EFAULT), (queue.IsLost, queue.Error));
        Assert.Equal(Errno.Success, other.Fence!.Error);
    }

    [Fact]
    public void A_write_where_the_process_may_only_read_is_EPERM_and_the_queue_is_lost()
    {
        _f.Gpu.Locked(() => Assert.True(_space.Protect(_range, SpaceProtection.Read).Proceed()));
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4));
        Serve();
        Assert.Equal((true, Errno.EPERM), (queue.IsLost, queue.Error));
    }

    [Fact]
    public void An_invalidation_in_the_middle_of_a_fault_makes_it_look_again()
    {
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4));
        _f.Run();
        using (_f.Host.Enter())
        {
            Assert.True(Faults.TryTake(out GpuFault? fault));
            MirrorUpdateOperation update = Assert.IsType<MirrorUpdateOperation>(fault!.Start());
            while (update.Next != "take the device's lock")
            {
                update.Step();
            }

            Assert.True(_space.Discard(_range).Proceed());
            Assert.True(update.Proceed());
            Assert.Equal(2, update.Tries);
            fault.End(update);
        }

        _f.Run();
        Assert.Equal(1UL, queue.Done);
        Assert.Equal([7, 0, 0, 0], Read(_range.Start));
    }

    [Fact]
    public void A_job_with_a_fence_cannot_name_memory_that_may_fault()
    {
        uint handle = Open(GpuUserMemory.Fault);
        SubmitOperation named = _f.Parsed(
            new GpuCommand { Opcode = GpuOpcode.Fill, TargetHandle = handle, Value = 1, Count = 4 });
        Assert.Equal((SubmitState.Refused, Errno.EINVAL), (named.State, named.Error));
        Assert.Contains("may fault", named.Problem, StringComparison.Ordinal);

        SubmitOperation addressed = _f.Paged(Fill(1, 4));
        _f.Run();
        Assert.Equal(Errno.EFAULT, addressed.Fence!.Error);
    }

    [Fact]
    public void A_process_that_closes_with_a_fault_under_way_leaves_nothing()
    {
        Open(GpuUserMemory.Fault);
        UserQueue queue = StartQueue(Fill(7, 4 * Page));
        _f.Run();
        GpuFault? fault = null;
        _f.Gpu.Locked(() =>
        {
            Assert.True(Faults.TryTake(out fault));
            _f.Process.Close();
        });
        _f.Run();
        _f.Gpu.Locked(() =>
        {
            SpaceOperation? operation = fault!.Start();
            Assert.Null(operation);
            fault.End(operation);
        });
        _f.Run();
        _f.Gpu.Locked(() => Assert.True(_space.Exit().Proceed()));
        Assert.True(queue.IsLost);
        Assert.Equal((_memory.PageCount, 0), (_memory.FreePages, _f.Gpu.Locked(() => _space.SubscriptionCount)));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void Memory_that_a_GPU_has_pinned_is_passed_over_by_reclaim_and_let_go_with_the_handle()
    {
        uint handle = Open(GpuUserMemory.Pinned);
        Assert.Equal(Errno.Success, _f.Do(GpuCommandMode.Paged, Fill(7, 4 * Page)));
        _f.Gpu.Locked(() =>
        {
            Assert.Equal(4, _space.Pins.Pages);
            Assert.True(_memory.Reclaim(16).Proceed());
            Assert.Equal(0, _memory.Stats.Reclaimed);
            _f.Process.Memory.TryUnmap(Va);
            Assert.Equal(Errno.Success, _f.Process.TryClose(handle));
            Assert.Equal(0, _space.Pins.Pages);
            Assert.True(_memory.Reclaim(16).Proceed());
            Assert.Equal(4, _memory.Stats.Reclaimed);
        });
        Assert.Equal([7, 0, 0, 0], Read(_range.Start));
    }

    [Fact]
    public void A_pin_over_the_limit_refuses_the_submission_and_charges_nothing()
    {
        AddressSpace poor = _f.Gpu.Locked(() => new AddressSpace(_memory, "poor", new PinLimits((long)Page)));
        using (_f.Host.Enter())
        {
            MapOperation map = poor.Map(new RegionRequest { LengthBytes = 2 * Page });
            Assert.True(map.Proceed());
            Assert.Equal(
                Errno.Success,
                _f.Process.TryOpenUserPointer(
                    poor, map.Addresses, GpuAccess.ReadWrite, out uint handle, GpuUserMemory.Pinned));
            Assert.Equal(
                Errno.Success, _f.Process.Memory.TryMap(Va, handle, 0, 2 * Page, GpuAccess.ReadWrite));
        }

        Assert.Equal(Errno.ENOMEM, _f.Do(GpuCommandMode.Paged, Fill(7, 4)));
        Assert.Equal(0, _f.Gpu.Locked(() => poor.Pins.Pages));
    }

    [Fact]
    public void A_local_drain_waits_for_the_job_that_has_begun_and_not_for_one_that_waits_for_another_device()
    {
        Open(GpuUserMemory.DrainLocally);
        Fence other = _f.Gpu.Locked(_f.Gpu.Work.CreateFence); // of another device, signalled below
        SubmitOperation first = _f.Paged(Fill(7, 4 * Page));
        SubmitOperation second = _f.Submit(GpuCommandMode.Paged, [Fill(8, 4)], [other]);
        _f.Engine.Drive(2);
        ReclaimOperation reclaim = _f.Gpu.Locked(() => _memory.Reclaim(16));
        _f.Gpu.Locked(() => Assert.False(reclaim.Proceed()));
        _f.Run();
        Assert.True(first.Fence!.HasEnded);
        _f.Gpu.Locked(() =>
        {
            Assert.True(reclaim.Proceed());
            Assert.Equal(4, reclaim.ReclaimedCount);
            Assert.False(second.Fence!.IsSignaled);
            Assert.Empty(_f.Host.Checker.Violations);
            other.Signal();
        });
        _f.Run();

        Assert.Equal(Errno.Success, second.Fence!.Error);
        Assert.Equal([8, 0, 0, 0], Read(_range.Start));
        Assert.Equal([7, 0, 0, 0], Read(_range.Start + 4));

        // The fence was published, and then memory was needed: what dma-fence.c forbids, whether it hangs or not.
        Assert.Contains(
            _f.Host.Checker.Violations,
            v => v.Message.Contains("inside fence signalling", StringComparison.Ordinal));
    }

    [Fact]
    public void A_job_whose_pages_are_gone_when_it_begins_ends_with_EFAULT()
    {
        Open(GpuUserMemory.DrainLocally);
        Fence other = _f.Gpu.Locked(_f.Gpu.Work.CreateFence);
        SubmitOperation job = _f.Submit(GpuCommandMode.Paged, [Fill(8, 4)], [other]);
        _f.Gpu.Locked(() =>
        {
            Assert.True(_space.Unmap(_range).Proceed());
            other.Signal();
        });
        _f.Run();
        Assert.Equal(Errno.EFAULT, job.Fence!.Error);
        Assert.True(_f.Queue.IsLost);
    }

    private uint Open(GpuUserMemory mode) => _f.Gpu.Locked(() =>
    {
        Assert.Equal(
            Errno.Success,
            _f.Process.TryOpenUserPointer(_space, _range, GpuAccess.ReadWrite, out uint handle, mode));
        Assert.Equal(
            Errno.Success, _f.Process.Memory.TryMap(Va, handle, 0, _range.LengthBytes, GpuAccess.ReadWrite));
        return handle;
    });

    // Everything until nobody has anything to do.
    private int Serve()
    {
        int served = 0, now;
        do
        {
            _f.Run();
            now = _f.Gpu.Locked(() => Faults.ServeAll());
            served += now;
        }
        while (now > 0);
        return served;
    }

    private UserQueue StartQueue(params GpuCommand[] commands)
    {
        _ring = _f.Map(RingVa);
        for (int i = 0; i < commands.Length; i++)
        {
            commands[i].Write(_f.Gpu.Bytes(_ring)[(i * GpuCommand.SizeBytes)..]);
        }

        UserQueue queue = _f.Gpu.Locked(() =>
        {
            _f.Process.TryCreateUserQueue("aql", RingVa, 64, out UserQueue? made);
            _f.Process.Eviction.Start();
            return made!;
        });
        queue.RingDoorbell((ulong)commands.Length);
        return queue;
    }

    private byte[] Read(ulong address)
    {
        byte[] bytes = new byte[4];
        _f.Gpu.Locked(() => Assert.True(_space.Read(address, bytes).Proceed()));
        return bytes;
    }

    private void Write(ulong address, byte[] bytes) =>
        _f.Gpu.Locked(() => Assert.True(_space.Write(address, bytes).Proceed()));

    private static GpuCommand Fill(uint value, ulong count) =>
        new() { Opcode = GpuOpcode.Fill, Target = Va, Value = value, Count = count };
}
