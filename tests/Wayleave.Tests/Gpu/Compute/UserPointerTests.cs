using Wayleave.Core;
using Wayleave.Core.AddressSpaces;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>Memory of a process, reached by its GPU where it is, and taken away by the process's notifiers.</summary>
public class UserPointerTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Va = ComputeFixture.Va;
    private const ulong RingVa = 0x20_0000;

    private readonly ComputeFixture _f = new();
    private readonly MemorySystem _memory;
    private readonly AddressSpace _space;
    private readonly AddressRange _range;
    private readonly uint _handle;

    public UserPointerTests()
    {
        using (_f.Host.Enter())
        {
            byte[] pages = new byte[16 * Page];
            _memory = new MemorySystem(_f.Host, swapPages: 16);
            _memory.AddMemory(pages, _f.Gpu.Fabric.AddWindow(pages, owner: null).Range.Start);
            _space = new AddressSpace(_memory, "process 1");
            _range = Map(2);
            Assert.Equal(
                Errno.Success,
                _f.Process.TryOpenUserPointer(_space, _range, GpuAccess.ReadWrite, out _handle));
            Assert.Equal(
                Errno.Success, _f.Process.Memory.TryMap(Va, _handle, 0, 2 * Page, GpuAccess.ReadWrite));
        }
    }

    private GpuEviction Eviction => _f.Process.Eviction;

    [Fact]
    public void EXP_20_An_export_of_memory_of_the_process_itself_is_EPERM_and_one_of_a_buffer_is_the_buffer()
    {
        (GpuBuffer buffer, uint handle) = _f.Create("buffer");
        _f.Gpu.Locked(() =>
        {
            Assert.Equal(Errno.EPERM, _f.Process.TryExport(_handle, out SharedBuffer? none));
            Assert.Null(none);
            Assert.Equal(Errno.Success, _f.Process.TryExport(handle, out SharedBuffer? shared));
            Assert.Same(buffer.Shared, shared);
            shared!.Put();
            Assert.Equal(Errno.ENOENT, _f.Process.TryExport(99, out _));
            Assert.Equal(
                Errno.EINVAL,
                _f.Process.TryOpenUserPointer(
                    _space, new AddressRange(_range.Start + 1, Page), GpuAccess.Read, out _));
        });
    }

    [Fact]
    public void A_job_writes_where_the_process_reads_and_faults_in_what_was_never_touched()
    {
        Assert.Equal(Errno.Success, _f.Do(GpuCommandMode.Paged, Fill(7, 2 * Page)));
        Assert.Equal([7, 0, 0, 0], Read(_range.Start + (2 * Page) - 4));
        Write(_range.Start, [1, 2, 3, 4]);
        GpuBuffer result = _f.Map(Va + (4 * Page));
        Assert.Equal(Errno.Success, _f.Do(GpuCommandMode.Paged, new GpuCommand
        {
            Opcode = GpuOpcode.Copy,
            A = Va,
            Target = Va + (4 * Page),
            Count = 4,
        }));
        Assert.Equal(0x04030201u, _f.Values<uint>(result)[0]);
    }

    [Fact]
    public void EXP_24_The_notifier_of_jobs_with_fences_blocks_until_they_have_ended()
    {
        SubmitOperation job = _f.Paged(Fill(7, 2 * Page));
        _f.Engine.Drive(2);
        ReclaimOperation reclaim = _f.Gpu.Locked(() => _memory.Reclaim(16));
        _f.Gpu.Locked(() => Assert.False(reclaim.Proceed()));
        Assert.False(job.Fence!.IsSignaled);
        _f.Run();
        Assert.Equal(Errno.Success, job.Fence.Error);
        _f.Gpu.Locked(() => Assert.True(reclaim.Proceed()));
        SubmitOperation next = _f.Paged(Fill(8, 4));
        _f.Run();
        Assert.Equal(Errno.Success, next.Fence!.Error); // it was faulted in again
        Assert.Equal([8, 0, 0, 0], Read(_range.Start));
        Assert.Equal([7, 0, 0, 0], Read(_range.Start + 4));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void EXP_24_The_notifier_of_user_queues_stops_them_and_waits_for_no_job()
    {
        UserQueue queue = StartQueue(Fill(7, 2 * Page));
        _f.Engine.Drive(2); // inside
        ChangeOperation unmap;
        using (_f.Host.Enter())
        {
            unmap = _space.Unmap(new AddressRange(_range.Start + Page, Page));
            Assert.False(unmap.Proceed()); // for one block
        }

        _f.Engine.Drive(1);
        _f.Gpu.Locked(() => Assert.True(unmap.Proceed()));
        Assert.Equal((0UL, GpuEvictionState.Evicted), (queue.Done, Eviction.State)); // the job has not ended
        Assert.Equal(_f.Host.Now + TimeSpan.FromMilliseconds(1), Eviction.NextDeadline);
        Elapse();
        _f.Run();
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
        Assert.True(queue.IsLost); // what it names is gone
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void EXP_24_An_idle_queue_is_stopped_at_once_and_goes_on_with_the_pages_that_are_there_then()
    {
        UserQueue queue = StartQueue();
        using (_f.Host.Enter())
        {
            Assert.True(_memory.Reclaim(16).Proceed());
            Assert.Equal(GpuEvictionState.Evicted, Eviction.State);
        }

        Elapse();
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
        Fill(9, 4).Write(_f.Gpu.Bytes(_ring!));
        queue.RingDoorbell(1);
        _f.Run();
        Assert.Equal([9, 0, 0, 0], Read(_range.Start));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void EXP_25_A_restore_that_races_new_invalidations_converges_and_only_valid_pages_are_used(ulong seed)
    {
        UserQueue queue = StartQueue();
        SplitMix64 random = new(seed);
        ulong written = 0;
        List<ReclaimOperation> reclaims = [];
        void Proceed() => _f.Gpu.Locked(() => reclaims.RemoveAll(r => r.Proceed()));
        for (int round = 0; round < 200; round++)
        {
            switch (random.NextUInt64() % 4)
            {
                case 0:
                    _f.Gpu.Locked(() => reclaims.Add(_memory.Reclaim(16)));
                    break;
                case 1:
                    Elapse();
                    break;
                case 2:
                    Fill((uint)round, 2 * Page).Write(_f.Gpu.Bytes(_ring!)[(int)(written % 64 * 64)..]);
                    queue.RingDoorbell(++written);
                    break;
                default:
                    _f.Engine.Drive((int)(random.NextUInt64() % 9));
                    break;
            }

            Proceed();
            RequireOnlyMappedPages();
        }

        for (int i = 0; i < 10; i++)
        {
            Elapse();
            _f.Run();
            Proceed();
        }

        Assert.Empty(reclaims);
        Assert.Equal((GpuEvictionState.Running, written, false), (Eviction.State, queue.Done, queue.IsLost));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_process_that_may_not_write_there_or_has_nothing_there_is_refused()
    {
        AddressRange readOnly = _f.Gpu.Locked(() => Map(1, SpaceProtection.Read));
        Errno Try(AddressRange range)
        {
            (GpuProcess process, ComputeQueue queue) = _f.Open("other");
            _f.Gpu.Locked(() =>
            {
                process.TryOpenUserPointer(_space, range, GpuAccess.ReadWrite, out uint handle);
                process.Memory.TryMap(Va, handle, 0, Page, GpuAccess.ReadWrite);
            });
            SubmitOperation operation = _f.Submit(GpuCommandMode.Paged, [Fill(1, 4)], queue: queue);
            _f.Run();
            return operation.Error;
        }

        Assert.Equal(Errno.EPERM, Try(readOnly));
        Assert.Equal(Errno.EFAULT, Try(new AddressRange(0x1000, Page)));
    }

    [Fact]
    public void A_handle_that_is_closed_leaves_no_subscription()
    {
        _f.Do(GpuCommandMode.Paged, Fill(7, 4));
        int before = _f.Gpu.Locked(() => _space.SubscriptionCount);
        _f.Gpu.Locked(() =>
        {
            _f.Process.Memory.TryUnmap(Va);
            Assert.Equal(Errno.Success, _f.Process.TryClose(_handle));
            Assert.Equal(before - 1, _space.SubscriptionCount);
        });
    }

    private GpuBuffer? _ring;

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
            Eviction.Start();
            return made!;
        });
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
        queue.RingDoorbell((ulong)commands.Length);
        return queue;
    }

    // While the queues run, every page that they reach is the process's at this moment.
    private void RequireOnlyMappedPages() => _f.Gpu.Locked(() =>
    {
        if (Eviction.State == GpuEvictionState.Running)
        {
            byte[] one = new byte[1];
            Assert.True(_space.TryReadNow(_range.Start, one) && _space.TryReadNow(_range.Start + Page, one));
        }
    });

    private void Elapse()
    {
        _f.Gpu.Clock.Advance(TimeSpan.FromMilliseconds(1));
        _f.Gpu.Locked(() => Eviction.HandleTimeout(_f.Host.Now));
    }

    private AddressRange Map(int pages, SpaceProtection protection = SpaceProtection.ReadWrite)
    {
        MapOperation operation = _space.Map(
            new RegionRequest { LengthBytes = (ulong)pages * Page, Protection = protection });
        Assert.True(operation.Proceed());
        return operation.Addresses;
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
