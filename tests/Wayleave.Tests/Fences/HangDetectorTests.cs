using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Tests.Buffers;
using Xunit;

namespace Wayleave.Tests.Fences;

public class HangDetectorTests : FenceScenario
{
    private static readonly TimeSpan s_timeout = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan s_grace = TimeSpan.FromSeconds(1);

    [Fact]
    public void An_engine_in_time_is_left_alone()
    {
        using (Host.Enter())
        {
            (HangDetector detector, Engine engine, Fence fence) = Watch(Host, EngineStop.Stopped);
            Assert.Equal(s_timeout, detector.NextDeadline);
            fence.Signal();
            Assert.Equal((0, null), (detector.WatchedCount, detector.NextDeadline));
            detector.HandleTimeout(s_timeout);
            Assert.Equal((0, 0), (engine.Stops, detector.Hangs.Count));
        }
    }

    [Fact]
    public void An_engine_that_stands_still_lets_its_fences_end_with_ETIME()
    {
        using (Host.Enter())
        {
            (HangDetector detector, Engine engine, Fence fence) = Watch(Host, EngineStop.Stopped);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal(
                (true, true, false, Errno.ETIME), (fence.IsSignaled, fence.HasEnded, fence.IsForced, fence.Error));
            Assert.Equal((1, 0), (engine.Stops, detector.WatchedCount));
            Assert.True(Assert.Single(detector.Hangs).WasStopped);
        }
    }

    [Fact]
    public void An_engine_of_which_nobody_knows_gets_its_fence_forced()
    {
        using (Host.Enter())
        {
            (HangDetector detector, _, Fence fence) = Watch(Host, EngineStop.Unknown);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, false, true), (fence.IsSignaled, fence.HasEnded, fence.IsForced));
            Assert.False(Assert.Single(detector.Hangs).WasStopped);
            Assert.Equal((1, null), (detector.WatchedCount, detector.NextDeadline));
        }
    }

    [Fact]
    public void An_engine_that_takes_its_time_to_stop_is_given_up_after_the_grace_and_may_still_come_back()
    {
        using (Host.Enter())
        {
            (HangDetector detector, Engine engine, Fence fence) = Watch(Host, EngineStop.Stopping);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.False(fence.IsSignaled);
            Assert.Equal(s_timeout + s_grace, detector.NextDeadline);
            Clock.Advance(s_grace);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, false, 1), (fence.IsForced, fence.HasEnded, engine.Stops));
            detector.HandleStopped(engine);
            Assert.Equal((true, true, Errno.ETIME), (fence.IsForced, fence.HasEnded, fence.Error));
            Assert.Equal(0, detector.WatchedCount);
            Assert.Single(detector.Hangs);
        }
    }

    [Fact]
    public void An_engine_that_stops_within_the_grace_leaves_evidence()
    {
        using (Host.Enter())
        {
            (HangDetector detector, Engine engine, Fence fence) = Watch(Host, EngineStop.Stopping);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            detector.HandleStopped(engine);
            Assert.Equal((true, false, Errno.ETIME), (fence.HasEnded, fence.IsForced, fence.Error));
        }
    }

    [Fact]
    public void A_fence_of_two_engines_ends_when_the_last_of_them_stands_still()
    {
        using (Host.Enter())
        {
            HangDetector detector = new(Host, s_timeout, s_grace);
            Engine one = new(EngineStop.Stopping), other = new(EngineStop.Stopping);
            Fence fence = new Timeline(Host, "both").CreateFence();
            detector.Add(fence, [one, other]);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((1, 1), (one.Stops, other.Stops));
            detector.HandleStopped(one);
            Assert.False(fence.IsSignaled);
            detector.HandleStopped(other);
            Assert.Equal((true, false, Errno.ETIME), (fence.HasEnded, fence.IsForced, fence.Error));
            Assert.Equal(0, detector.WatchedCount);
        }
    }

    [Fact]
    public void An_engine_that_has_left_a_fence_is_not_told_and_one_that_was_told_for_another_gives_the_rest_its_grace()
    {
        using (Host.Enter())
        {
            HangDetector detector = new(Host, s_timeout, s_grace);
            Engine one = new(EngineStop.Stopping), other = new(EngineStop.Stopping), gone = new(EngineStop.Stopping);
            Timeline both = new(Host, "both"), alone = new(Host, "alone");
            Fence own = alone.CreateFence(), shared = both.CreateFence();
            detector.Add(own, one);
            detector.Add(shared, [one, other, gone], extra: s_grace);
            detector.HandleLeft(shared, gone);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now); // for its own fence
            Assert.Equal((1, 0), (one.Stops, other.Stops));
            Clock.Advance(s_grace);
            detector.HandleTimeout(Host.Now); // gives one up; the other is only told now
            Assert.Equal((true, false, 1, 0), (own.IsForced, shared.IsSignaled, other.Stops, gone.Stops));
            Clock.Advance(s_grace);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, false), (shared.IsForced, shared.HasEnded));
            Assert.True(detector.HasLost(other));
            Assert.False(detector.HasLost(gone));
            detector.HandleStopped(one);
            Assert.False(shared.HasEnded);
            detector.HandleStopped(other);
            Assert.True(shared.HasEnded);
        }
    }

    [Fact]
    public void The_earlier_fences_of_a_queue_go_with_the_late_one_and_the_later_ones_with_the_engine()
    {
        using (Host.Enter())
        {
            Timeline ring = new(Host, "ring");
            Engine engine = new(EngineStop.Unknown);
            HangDetector detector = new(Host, s_timeout, s_grace);
            Fence unwatched = ring.CreateFence(), late = ring.CreateFence(), later = ring.CreateFence();
            detector.Add(late, engine);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(Host.Now);
            Assert.Equal((true, true, false), (unwatched.IsForced, late.IsForced, later.IsSignaled));
            detector.Add(later, engine);
            detector.HandleStopped(engine);
            Assert.Equal((true, true), (late.HasEnded, later.HasEnded));
        }
    }

    [Fact]
    public void Memory_of_a_hung_engine_is_given_out_once_it_stands_still_and_not_before() =>
        Assert.Equal((RevokeState.Quarantined, RevokeState.Retired), RevokeUnderHang(CoreDefences.All));

    [Fact]
    public void Fences_that_end_although_their_engine_may_run_are_caught() =>
        Assert.Equal(
            RevokeState.Retired, RevokeUnderHang(CoreDefences.All & ~CoreDefences.StopBeforeEnd).AfterTimeout);

    [Fact]
    public void A_forced_fence_that_counts_as_evidence_is_caught() =>
        Assert.Equal(
            RevokeState.Retired, RevokeUnderHang(CoreDefences.All & ~CoreDefences.ForcedIsNoEvidence).AfterTimeout);

    // An engine works on a buffer, hangs, and nobody knows whether it still writes; the owner takes the memory back.
    private (RevokeState AfterTimeout, RevokeState AfterStop) RevokeUnderHang(CoreDefences defences)
    {
        HostContext host = new(Clock) { Defences = defences };
        using (host.Enter())
        {
            (HangDetector detector, Engine engine, Fence fence) = Watch(host, EngineStop.Unknown);
            ExportInfo info = new(new TestExporter(StorageKind.Movable), "lent", 0x1000);
            SharedBuffer.TryExport(host, info, out SharedBuffer? buffer);
            AcquireTicket ticket = new(host, "submit");
            buffer!.Reservation.TryLock(ticket);
            buffer.Reservation.ReserveFences(ticket, 1);
            buffer.Reservation.AddFence(ticket, fence, ReservationUsage.Write);
            buffer.Reservation.Unlock(ticket);
            RevokeOperation revoke = RevokeOperation.Start(buffer, new RevokePolicy());
            Assert.Equal(RevokeState.Draining, revoke.State);
            Clock.Advance(s_timeout);
            detector.HandleTimeout(host.Now);
            RevokeState afterTimeout = revoke.State;
            detector.HandleStopped(engine);
            return (afterTimeout, revoke.State);
        }
    }

    private static (HangDetector Detector, Engine Engine, Fence Fence) Watch(HostContext host, EngineStop answer)
    {
        HangDetector detector = new(host, s_timeout, s_grace);
        Engine engine = new(answer);
        Fence fence = new Timeline(host, "ring").CreateFence();
        detector.Add(fence, engine);
        return (detector, engine, fence);
    }

    private sealed class Engine(EngineStop answer) : IStoppableEngine
    {
        public int Stops { get; private set; }

        public string Name => "gpu0 copy engine";

        public EngineStop Stop()
        {
            Stops++;
            return answer;
        }
    }
}
