using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>Fences in and out, moves and revokes under jobs, preemption, hangs, and processes that end.</summary>
public class ComputeEngineTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Va = ComputeFixture.Va;

    private readonly ComputeFixture _f = new();

    [Fact]
    public void A_job_waits_for_its_in_fences_of_any_device_and_its_own_fence_is_last()
    {
        GpuBuffer buffer = _f.Map(Va);
        Fence other = _f.Gpu.Locked(_f.Gpu.Work.CreateFence);
        SubmitOperation operation = _f.Submit(GpuCommandMode.Paged, [Fill(Page)], [other]);
        _f.Run();
        Assert.False(operation.Fence!.IsSignaled);
        Assert.Equal(0u, _f.Values<uint>(buffer)[0]);
        _f.Gpu.Locked(() => other.Signal());
        _f.Run();
        Assert.Equal((true, 1u), (operation.Fence.HasEnded, _f.Values<uint>(buffer)[0]));
    }

    [Fact]
    public void Jobs_that_are_parsed_wait_for_who_writes_and_others_wait_for_them()
    {
        (GpuBuffer buffer, uint handle) = _f.Create("shared");
        (GpuProcess other, ComputeQueue others) = _f.Open("process 2");
        uint theirs = _f.Open(buffer, GpuAccess.Read, other);
        (GpuBuffer result, uint target) = _f.Create("result", process: other);
        GpuCommand fill = Fill(Page) with { TargetHandle = handle, Target = 0 };
        GpuCommand copy = new()
        {
            Opcode = GpuOpcode.Copy,
            AHandle = theirs,
            TargetHandle = target,
            Count = Page,
        };
        SubmitOperation write = _f.Parsed(fill);
        SubmitOperation read = _f.Submit(GpuCommandMode.Parsed, [copy], queue: others);
        _f.Gpu.Locked(() =>
        {
            Assert.Same(write.Fence, buffer.Shared.Reservation.FirstUnsignaled(ReservationUsage.Write));
            Assert.Equal(2, buffer.Shared.Reservation.GetPendingFences(ReservationUsage.Read).Count);
        });
        _f.Run();
        Assert.True(read.Fence!.HasEnded);
        Assert.Equal(1u, _f.Values<uint>(result)[1023]);
    }

    [Fact]
    public void Jobs_that_go_by_page_table_are_seen_by_memory_management_alone()
    {
        GpuBuffer buffer = _f.Map(Va);
        SubmitOperation operation = _f.Paged(Fill(Page));
        _f.Gpu.Locked(() =>
        {
            Assert.True(buffer.Shared.Reservation.TestSignaled(ReservationUsage.Read));
            Assert.Same(operation.Fence, buffer.Shared.Reservation.FirstUnsignaled(ReservationUsage.Bookkeep));
        });
        _f.Run();
    }

    [Fact]
    public void A_move_waits_for_the_jobs_and_the_next_job_finds_the_new_place()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 2);
        SubmitOperation first = _f.Paged(Fill(2 * Page));
        _f.Engine.Drive(2);
        MoveOperation move = _f.Gpu.Evict(buffer);
        Assert.Equal(0, _f.Gpu.Run()); // the copy has to wait
        SubmitOperation second = _f.Paged(Fill(Page) with { Value = 2 });
        Assert.Equal(SubmitState.Waiting, second.State); // until nobody uses the old place
        _f.Run();
        Assert.Equal((MoveState.Moved, GpuDomain.System), (move.State, buffer.Placement.Domain));
        Assert.Equal((Errno.Success, Errno.Success), (first.Fence!.Error, second.Fence!.Error));
        Assert.Equal((2u, 1u), (_f.Values<uint>(buffer)[1023], _f.Values<uint>(buffer)[1024]));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_revoke_stops_the_jobs_at_the_next_block_and_retires_when_they_have()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 2);
        SubmitOperation running = _f.Paged(Fill(2 * Page)), queued = _f.Paged(Fill(Page));
        _f.Engine.Drive(2);
        RevokeOperation revoke = _f.Gpu.Free(buffer);
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        long written = _f.Engine.Port.BytesWritten(PeerRoute.SameDevice);
        _f.Run();
        Assert.Equal(written, _f.Engine.Port.BytesWritten(PeerRoute.SameDevice));
        Assert.Equal((Errno.ECANCELED, Errno.ECANCELED), (running.Fence!.Error, queued.Fence!.Error));
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);

        // What still has its address there faults at the touch, and nobody else.
        SubmitOperation later = _f.Paged(Fill(Page)), harmless = _f.Paged(new GpuCommand { Opcode = GpuOpcode.Nop });
        _f.Run();
        Assert.Equal(Errno.EFAULT, later.Fence!.Error);
        Assert.Equal(Errno.ECANCELED, harmless.Fence!.Error); // in the queue that was lost with it
    }

    [Fact]
    public void A_job_waits_for_another_GPU_to_clear_its_buffer_and_then_reaches_it_over_the_bus()
    {
        byte[] vram = new byte[4 * Page];
        GpuBuffer? theirs = null;
        GpuDevice second = _f.Gpu.Locked(() =>
        {
            PciFunction function = new("0000:05:00.0", "gpu1");
            GpuOptions options = new() { CopyBlockBytes = 0x400 };
            GpuDevice made = new(_f.Host, _f.Gpu.Fabric, function, options, [vram], [new byte[4 * Page]]);
            made.TryCreate(new GpuBufferInfo("theirs", Page, StorageKind.Movable), out theirs);
            return made;
        });
        uint handle = _f.Open(theirs!);
        SubmitOperation operation = _f.Parsed(Fill(Page) with { TargetHandle = handle, Target = 0 });
        _f.Run();
        Assert.False(operation.Fence!.IsSignaled); // the other engine has not cleared it
        second.CopyEngine.Drive(int.MaxValue);
        _f.Run();
        Assert.Equal(Errno.Success, operation.Fence.Error);
        Assert.Equal(1, vram[0]);
        Assert.Equal((long)Page, _f.Engine.Port.BytesWritten(PeerRoute.BusAddress));
        Assert.Equal(0, _f.Engine.Port.BytesWritten(PeerRoute.Staging));

        MoveOperation move = _f.Gpu.Locked(() => second.Evict(theirs!));
        SubmitOperation next = _f.Parsed(Fill(Page) with { TargetHandle = handle, Target = 0, Value = 2 });
        second.CopyEngine.Drive(int.MaxValue);
        _f.Run();
        Assert.Equal((MoveState.Moved, Errno.Success), (move.State, next.Fence!.Error));
        Assert.Equal(1, vram[0]);
    }

    [Fact]
    public void A_job_of_a_high_queue_takes_the_engine_from_a_low_one_and_the_low_one_still_ends()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 4);
        (ComputeQueue low, ComputeQueue high) = _f.Gpu.Locked(() =>
            (_f.Process.CreateQueue("low", GpuPriority.Low), _f.Process.CreateQueue("high", GpuPriority.High)));
        SubmitOperation slow = _f.Submit(GpuCommandMode.Paged, [Fill(4 * Page)], queue: low);
        _f.Engine.Drive(3);
        SubmitOperation urgent = _f.Submit(GpuCommandMode.Paged, [Fill(1024) with { Value = 9 }], queue: high);
        _f.Engine.Drive(1);
        Assert.Equal((true, false), (urgent.Fence!.IsSignaled, slow.Fence!.IsSignaled));
        Assert.Equal(1, _f.Gpu.Locked(() => _f.Engine.PreemptionCount));
        _f.Run();
        Assert.Equal((Errno.Success, 1u), (slow.Fence.Error, _f.Values<uint>(buffer)[4095]));
    }

    [Fact]
    public void Queues_that_are_busy_all_the_time_all_get_on()
    {
        _f.Map(Va, pages: 4);
        ComputeQueue[] queues = _f.Gpu.Locked(() => new[]
        {
            _f.Process.CreateQueue("low", GpuPriority.Low), _f.Process.CreateQueue("high", GpuPriority.High),
        });
        SubmitOperation low = _f.Submit(GpuCommandMode.Paged, [Fill(4 * Page)], queue: queues[0]);
        int highJobs = 0;
        for (; !low.Fence!.IsSignaled && highJobs < 1000; highJobs++)
        {
            _f.Submit(GpuCommandMode.Paged, [Fill(4 * Page)], queue: queues[1]);
            _f.Engine.Drive(16);
        }

        Assert.InRange(highJobs, 2, 100);
        _f.Run();
    }

    [Fact]
    public void A_job_that_takes_too_long_is_ended_its_queue_is_lost_and_the_others_go_on()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 2);
        (_, ComputeQueue others) = _f.Open("process 2");
        SubmitOperation late = _f.Paged(Fill(2 * Page)), behind = _f.Paged(Fill(Page));
        SubmitOperation other = _f.Submit(GpuCommandMode.Paged, [default], queue: others);
        _f.Engine.Drive(2);
        _f.Gpu.Clock.Advance(TimeSpan.FromMinutes(1));
        _f.Gpu.Locked(() => _f.Engine.Hangs.HandleTimeout(_f.Host.Now));
        _f.Run();
        Assert.Equal(
            (Errno.ETIME, false, true), (late.Fence!.Error, late.Fence.IsForced, late.Fence.HasEnded));
        Assert.Equal((Errno.ECANCELED, Errno.Success), (behind.Fence!.Error, other.Fence!.Error));
        Assert.True(Assert.Single(_f.Engine.Hangs.Hangs).WasStopped);
        Assert.Equal(RevokeState.Retired, _f.Gpu.Free(buffer).State);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void The_time_of_a_job_that_was_preempted_counts_only_while_it_has_the_engine()
    {
        _f.Map(Va, pages: 4);
        ComputeQueue second = _f.Gpu.Locked(() => _f.Process.CreateQueue("second"));
        SubmitOperation a = _f.Paged(Fill(4 * Page), Fill(4 * Page));
        SubmitOperation b = _f.Submit(GpuCommandMode.Paged, [Fill(4 * Page), Fill(4 * Page)], queue: second);
        _f.Engine.Drive(16); // a's quantum
        for (int i = 0; i < 3; i++)
        {
            _f.Engine.Drive(1);
            _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(3)); // b is slow, not a
            _f.Gpu.Locked(() => _f.Engine.Hangs.HandleTimeout(_f.Host.Now));
        }

        _f.Run();
        Assert.Equal((Errno.Success, Errno.Success), (a.Fence!.Error, b.Fence!.Error));
    }

    [Fact]
    public void An_engine_whose_holder_hangs_gives_up_what_was_submitted_and_the_memory_waits_for_it()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 2);
        SubmitOperation running = _f.Paged(Fill(2 * Page)), queued = _f.Paged(Fill(Page));
        _f.Engine.Drive(2);
        Assert.True(_f.Engine.TryEnter());
        RevokeOperation revoke = _f.Gpu.Free(buffer);
        _f.Gpu.Clock.Advance(TimeSpan.FromMinutes(1));
        _f.Gpu.Locked(() => _f.Engine.Hangs.HandleTimeout(_f.Host.Now));
        _f.Gpu.Clock.Advance(TimeSpan.FromMinutes(1));
        _f.Gpu.Locked(() => _f.Engine.Hangs.HandleTimeout(_f.Host.Now));
        Assert.Equal((true, true), (running.Fence!.IsForced, queued.Fence!.IsForced));
        Assert.True(_f.Gpu.Locked(() => buffer.Shared.Reservation.TestSignaled(ReservationUsage.Bookkeep)));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        Assert.True(_f.Engine.Step());
        _f.Engine.Exit();
        _f.Run();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    [Fact]
    public void A_process_that_ends_with_jobs_leaves_nothing_behind()
    {
        GpuBuffer buffer = _f.Map(Va, pages: 2);
        SubmitOperation running = _f.Paged(Fill(2 * Page)), queued = _f.Paged(Fill(Page));
        _f.Engine.Drive(1);
        _f.Gpu.Locked(_f.Process.Close);
        Assert.Single(buffer.Shared.Attachments);
        _f.Run();
        Assert.Equal((Errno.ECANCELED, Errno.ECANCELED), (running.Fence!.Error, queued.Fence!.Error));
        Assert.Empty(buffer.Shared.Attachments);
        Assert.False(_f.Engine.HasReadyJob);
        Assert.Equal(Errno.ENODEV, _f.Gpu.Locked(() => _f.Process.TryOpen(buffer.Shared, GpuAccess.Read, out _)));
        _f.Gpu.Locked(_f.Process.Close);
        Assert.Equal(RevokeState.Retired, _f.Gpu.Free(buffer).State);
    }

    [Fact]
    public void A_full_queue_refuses_and_an_engine_without_a_driver_ends_its_jobs()
    {
        ComputeFixture f = new(new GpuOptions { ComputeQueueSlots = 2 });
        f.Map(Va);
        SubmitOperation first = f.Paged(Fill(Page));
        f.Paged(Fill(Page));
        Assert.Equal(Errno.EAGAIN, f.Paged(Fill(Page)).Error);
        f.Engine.Drive(1);
        Assert.True(f.Engine.TryEnter());
        f.Gpu.Locked(f.Engine.HandleDriverEnded);
        Assert.Equal((true, Errno.ETIME), (first.Fence!.HasEnded, first.Fence.Error));
        Assert.Equal(Errno.ENODEV, f.Paged(Fill(Page)).Error);
    }

    private static GpuCommand Fill(ulong count) =>
        new() { Opcode = GpuOpcode.Fill, Target = Va, Value = 1, Count = count };
}
