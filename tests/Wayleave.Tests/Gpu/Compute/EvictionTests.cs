using System.Buffers.Binary;
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

/// <summary>
/// Queues that a program writes itself, and the fence that stops them when somebody wants the memory.
/// </summary>
public class EvictionTests
{
    private const ulong Page = ComputeFixture.Page;
    private const ulong Ring = ComputeFixture.Va;
    private const ulong Data = Ring + Page;

    private readonly ComputeFixture _f = new();
    private readonly GpuBuffer _ring;
    private readonly GpuBuffer _data;
    private readonly UserQueue _queue;
    private ulong _written;

    public EvictionTests()
    {
        (_ring, _data) = (_f.Map(Ring), _f.Map(Data, pages: 2));
        _queue = _f.Gpu.Locked(() =>
        {
            Assert.Equal(Errno.Success, _f.Process.TryCreateUserQueue("aql", Ring, 64, out UserQueue? queue));
            return queue!;
        });
    }

    private GpuEviction Eviction => _f.Process.Eviction;

    [Fact]
    public void A_user_queue_runs_what_the_program_wrote_without_a_fence_for_it()
    {
        Start();
        Write(
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page },
            new GpuCommand { Opcode = GpuOpcode.Release, Target = Data, Value = 99 });
        _f.Run();
        Assert.Equal((2UL, 99u, 7u), (_queue.Done, _f.Values<uint>(_data)[0], _f.Values<uint>(_data)[1]));
        for (int round = 0; round < 3; round++)
        {
            Write([.. Enumerable.Repeat(new GpuCommand { Opcode = GpuOpcode.Nop }, 60)]); // it wraps
            _f.Run();
        }

        Assert.Equal(182UL, _queue.Done);
    }

    [Fact]
    public void EXP_21_An_eviction_fence_stays_pending_for_an_hour_if_nobody_waits_and_no_poll_sees_it()
    {
        Start();
        Fence fence = Eviction.Fence!;
        _f.Gpu.Clock.Advance(TimeSpan.FromHours(1));
        _f.Gpu.Locked(() =>
        {
            Eviction.HandleTimeout(_f.Host.Now);
            _f.Engine.Hangs.HandleTimeout(_f.Host.Now);
            Assert.False(fence.CheckSignaled());
            Assert.Equal(PollEvents.In | PollEvents.Out, _data.Shared.Poll(PollEvents.In | PollEvents.Out));
            Assert.Equal([fence], _data.Shared.Reservation.GetPendingFences(ReservationUsage.Bookkeep));
            Assert.Null(Eviction.NextDeadline);
        });
        Write(new GpuCommand { Opcode = GpuOpcode.Release, Target = Data, Value = 1 });
        _f.Run();
        Assert.Equal(1u, _f.Values<uint>(_data)[0]);
    }

    [Fact]
    public void EXP_22_Who_waits_for_BOOKKEEP_stops_the_queues_and_a_tenth_of_a_second_later_they_run_with_a_new_fence()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page });
        _f.Engine.Drive(2); // inside
        Fence first = Eviction.Fence!;
        FenceWait wait = _f.Gpu.Locked(() => FenceWait.Start(
            _f.Host, null, _data.Shared.Reservation, ReservationUsage.Bookkeep, FenceWait.NoTimeout));
        Assert.Equal((GpuEvictionState.Stopping, false), (Eviction.State, wait.IsCompleted));
        _f.Engine.Drive(1); // bounded: one step
        Assert.Equal((GpuEvictionState.Evicted, FenceWaitState.Signaled), (Eviction.State, wait.State));
        Assert.Equal((true, false, Errno.Success), (first.HasEnded, first.IsForced, first.Error));
        long written = _f.Engine.Port.BytesWritten(PeerRoute.SameDevice);
        _f.Run();
        Assert.Equal(written, _f.Engine.Port.BytesWritten(PeerRoute.SameDevice)); // nothing runs

        Assert.Equal(_f.Host.Now + TimeSpan.FromMilliseconds(100), Eviction.NextDeadline);
        Elapse(TimeSpan.FromMilliseconds(100));
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
        Assert.NotSame(first, Eviction.Fence);
        Assert.False(Eviction.Fence!.IsSignaled);
        _f.Run();
        Assert.Equal((1UL, 7u), (_queue.Done, _f.Values<uint>(_data)[2047])); // it went on where it was
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void EXP_23_A_second_eviction_within_ten_milliseconds_of_the_restore_is_put_off()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Wait();
        Assert.Equal((GpuEvictionState.Evicted, 1L), (Eviction.State, Eviction.EvictionCount));
        Elapse(TimeSpan.FromMilliseconds(100));
        _f.Gpu.Clock.Advance(TimeSpan.FromMilliseconds(4));
        FenceWait second = Wait();
        Assert.Equal((GpuEvictionState.Scheduled, false), (Eviction.State, second.IsCompleted));
        Write(new GpuCommand { Opcode = GpuOpcode.Release, Target = Data, Value = 5 });
        _f.Run();
        Assert.Equal(5u, _f.Values<uint>(_data)[0]); // it runs meanwhile
        Elapse(TimeSpan.FromMilliseconds(5));
        Assert.False(second.IsCompleted);
        Elapse(TimeSpan.FromMilliseconds(1));
        Assert.Equal((true, 2L), (second.IsCompleted, Eviction.EvictionCount));
    }

    [Fact]
    public void A_move_stops_the_queues_and_they_go_on_at_the_new_place()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page });
        _f.Engine.Drive(3);
        MoveOperation move = _f.Gpu.Evict(_data);
        _f.Run();
        Assert.Equal((MoveState.Moved, GpuEvictionState.Evicted), (move.State, Eviction.State));
        Elapse(TimeSpan.FromMilliseconds(100));
        _f.Run();
        Assert.Equal(GpuDomain.System, _data.Placement.Domain);
        Assert.Equal((7u, 7u), (_f.Values<uint>(_data)[0], _f.Values<uint>(_data)[2047]));
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_revoke_retires_and_the_queues_go_on_without_the_buffer()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        RevokeOperation revoke = _f.Gpu.Free(_data);
        _f.Run();
        Assert.Equal((RevokeState.Retired, RetirementGrade.Retired), (revoke.State, revoke.Proof!.Grade));
        Elapse(TimeSpan.FromMilliseconds(100));
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
        Write(new GpuCommand { Opcode = GpuOpcode.Release, Target = Data, Value = 5 });
        _f.Run();
        Assert.True(_queue.IsLost); // nothing is there any more
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_queue_that_waits_for_memory_lets_others_run_and_can_be_evicted_while_it_waits()
    {
        UserQueue second = _f.Gpu.Locked(() =>
        {
            _f.Process.TryCreateUserQueue("second", Ring + (32 * GpuCommand.SizeBytes), 32, out UserQueue? queue);
            return queue!;
        });
        Start();
        Write(
            new GpuCommand { Opcode = GpuOpcode.Acquire, A = Data, Value = 3 },
            new GpuCommand { Opcode = GpuOpcode.Release, Target = Data + 8, Value = 4 });
        _f.Run();
        Assert.Equal(0UL, _queue.Done);
        _f.Gpu.Clock.Advance(TimeSpan.FromHours(1));
        Assert.True(Wait().IsCompleted);
        Elapse(TimeSpan.FromMilliseconds(100));
        new GpuCommand { Opcode = GpuOpcode.Release, Target = Data, Value = 3 }.Write(
            _f.Gpu.Bytes(_ring)[(32 * GpuCommand.SizeBytes)..]);
        second.RingDoorbell(1);
        _f.Run();
        Assert.Equal((1UL, 2UL, 4u), (second.Done, _queue.Done, _f.Values<uint>(_data)[2]));
    }

    [Fact]
    public void Garbage_or_an_address_that_is_not_mapped_stops_that_queue_alone()
    {
        UserQueue good = _f.Gpu.Locked(() =>
        {
            _f.Process.TryCreateUserQueue("good", Ring + (32 * GpuCommand.SizeBytes), 32, out UserQueue? queue);
            return queue!;
        });
        Start();
        BinaryPrimitives.WriteUInt16LittleEndian(_f.Gpu.Bytes(_ring), 4711);
        _queue.RingDoorbell(ulong.MaxValue);
        good.RingDoorbell(1);
        _f.Run();
        Assert.Equal((true, false, 1UL), (_queue.IsLost, good.IsLost, good.Done));
        _f.Gpu.Locked(() =>
        {
            Assert.Equal(Errno.EINVAL, _f.Process.TryCreateUserQueue("odd", Ring + 4, 64, out _));
            Assert.Equal(Errno.EINVAL, _f.Process.TryCreateUserQueue("three", Ring, 3, out _));
            _f.Process.TryCreateUserQueue("nowhere", 1UL << 40, 64, out UserQueue? nowhere);
            nowhere!.RingDoorbell(1);
        });
        _f.Run();
        Assert.True(((UserQueue)_f.Process.Queues[^1]).IsLost);
    }

    [Fact]
    public void Jobs_with_fences_and_user_queues_share_the_engine_and_both_end()
    {
        Start();
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page });
        SubmitOperation job = _f.Paged(
            new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data + Page, Value = 8, Count = Page });
        _f.Run();
        Assert.Equal((1UL, Errno.Success), (_queue.Done, job.Fence!.Error));
        Assert.Equal(7u, _f.Values<uint>(_data)[0]);
    }

    [Fact]
    public void A_process_that_ends_stops_its_queues_and_lets_go_of_everything()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page });
        _f.Engine.Drive(2);
        _f.Gpu.Locked(_f.Process.Close);
        _f.Run();
        Assert.Equal((GpuEvictionState.Stopped, true), (Eviction.State, Eviction.Fence!.HasEnded));
        Assert.Empty(_data.Shared.Attachments);
        Assert.Empty(_ring.Shared.Attachments);
        Assert.Null(Eviction.NextDeadline);
        Assert.Equal(RevokeState.Retired, _f.Gpu.Free(_data).State);
        Assert.Equal(0, _f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void An_engine_that_does_not_leave_a_queue_gets_the_fence_forced_and_the_memory_waits()
    {
        Start();
        _f.Gpu.Clock.Advance(TimeSpan.FromSeconds(1));
        Write(new GpuCommand { Opcode = GpuOpcode.Fill, Target = Data, Value = 7, Count = 2 * Page });
        _f.Engine.Drive(2);
        Assert.True(_f.Engine.TryEnter()); // and does not come back
        RevokeOperation revoke = _f.Gpu.Free(_data);
        for (int i = 0; i < 2; i++)
        {
            _f.Gpu.Clock.Advance(TimeSpan.FromMinutes(1));
            _f.Gpu.Locked(() => _f.Engine.Hangs.HandleTimeout(_f.Host.Now));
        }

        Assert.Equal((true, false), (Eviction.Fence!.IsForced, Eviction.Fence.HasEnded));
        Assert.NotEqual(RevokeState.Retired, revoke.State);
        Assert.True(_f.Engine.Step());
        _f.Engine.Exit();
        _f.Run();
        Assert.Equal(RevokeState.Retired, revoke.State);
    }

    private void Start()
    {
        _f.Gpu.Locked(Eviction.Start);
        Assert.Equal(GpuEvictionState.Running, Eviction.State);
    }

    private void Write(params ReadOnlySpan<GpuCommand> commands)
    {
        foreach (GpuCommand command in commands)
        {
            command.Write(_f.Gpu.Bytes(_ring)[(int)(_written++ % 64 * GpuCommand.SizeBytes)..]);
        }

        _queue.RingDoorbell(_written);
    }

    private FenceWait Wait() => _f.Gpu.Locked(() => FenceWait.Start(
        _f.Host, null, _data.Shared.Reservation, ReservationUsage.Bookkeep, FenceWait.NoTimeout));

    private void Elapse(TimeSpan time)
    {
        _f.Gpu.Clock.Advance(time);
        _f.Gpu.Locked(() => Eviction.HandleTimeout(_f.Host.Now));
    }
}
