using System.Buffers;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu;

public class CopyEngineHangTests
{
    // What a copy of one page is given.
    private static readonly TimeSpan s_timeout =
        new GpuOptions().CopyTimeout + TimeSpan.FromSeconds((double)GpuFixture.Page / (64 << 20));

    private static readonly TimeSpan s_grace = new GpuOptions().CopyStopGrace;

    [Fact]
    public void A_job_is_watched_from_its_first_block_and_not_while_it_waits()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Evict(buffer);
        Assert.Null(Due(f));
        Assert.Equal(1, f.Gpu.CopyEngine.Drive(1));
        Assert.Equal(s_timeout, Due(f));
        f.Run();
        Assert.Null(Due(f));
    }

    [Fact]
    public void A_late_job_is_ended_between_two_blocks_by_who_has_the_token_and_that_is_evidence()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(), other = f.Create("other");
        MoveOperation late = f.Evict(buffer), next = f.Evict(other);
        f.Gpu.CopyEngine.Drive(1);
        f.Clock.Advance(s_timeout);
        Watch(f);
        Assert.False(late.Fence!.IsSignaled);
        long written = f.Gpu.CopyEngine.Port.BytesWritten(Core.Topology.PeerRoute.HostMemory);
        f.Gpu.CopyEngine.Drive(1);
        Assert.Equal(
            (true, false, Errno.ETIME), (late.Fence.HasEnded, late.Fence.IsForced, late.Fence.Error));
        Assert.Equal((MoveState.Failed, Errno.ETIME), (late.State, late.Error));
        Assert.Equal(written, f.Gpu.CopyEngine.Port.BytesWritten(Core.Topology.PeerRoute.HostMemory));
        Assert.True(Assert.Single(f.Gpu.CopyEngine.Hangs.Hangs).WasStopped);
        f.Run();
        Assert.Equal(MoveState.Moved, next.State);
        Assert.Equal(RevokeState.Retired, f.Free(buffer).State);
    }

    [Fact]
    public void An_engine_that_hangs_in_a_block_gets_its_fence_forced_and_the_memory_waits_for_it()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        MoveOperation late = f.Evict(buffer);
        f.Gpu.CopyEngine.Drive(1);
        Assert.True(f.Gpu.CopyEngine.TryEnter()); // the holder is in a block and does not come back
        f.Clock.Advance(s_timeout);
        Watch(f);
        f.Clock.Advance(s_grace);
        Watch(f);
        Assert.Equal((true, false, Errno.ETIME), (late.Fence!.IsForced, late.Fence.HasEnded, late.Fence.Error));
        RevokeOperation revoke = f.Free(buffer);
        Assert.Equal((RevokeState.Quarantined, true), (revoke.State, Taken(f) > 0));
        Assert.True(f.Gpu.CopyEngine.Step()); // it comes back
        f.Gpu.CopyEngine.Exit();
        Assert.Equal((true, RevokeState.Retired, 0UL), (late.Fence.HasEnded, revoke.State, Taken(f)));
    }

    [Fact]
    public void Jobs_that_a_lost_engine_never_started_are_given_up_with_it_and_end_when_it_is_back()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(), other = f.Create("other");
        MoveOperation late = f.Evict(buffer), queued = f.Evict(other);
        f.Gpu.CopyEngine.Drive(1);
        Assert.True(f.Gpu.CopyEngine.TryEnter());
        f.Clock.Advance(s_timeout);
        Watch(f);
        Assert.False(queued.Fence!.IsSignaled);
        f.Clock.Advance(s_grace);
        Watch(f);
        Assert.Equal((true, true, false), (late.Fence!.IsForced, queued.Fence.IsForced, queued.Fence.HasEnded));
        Assert.Equal(Errno.EAGAIN, f.TryCreate("more", 1, out _)); // whose clear nobody could promise to signal
        long written = f.Gpu.CopyEngine.Port.BytesWritten(PeerRoute.HostMemory);
        Assert.True(f.Gpu.CopyEngine.Step());
        f.Gpu.CopyEngine.Exit();
        f.Run();
        Assert.Equal((true, true), (late.Fence.HasEnded, queued.Fence.HasEnded));
        Assert.Equal((MoveState.Failed, Errno.ECANCELED), (queued.State, queued.Error)); // as its buffer was lost
        Assert.Equal(written, f.Gpu.CopyEngine.Port.BytesWritten(PeerRoute.HostMemory));
        Assert.Equal(Errno.Success, f.TryCreate("more", 1, out _));
        Assert.Equal(0, f.Host.Checker.ViolationCount);
    }

    [Fact]
    public void A_job_that_was_given_up_does_not_come_later_over_what_others_wrote()
    {
        GpuFixture f = new();
        GpuBuffer hung = f.Create("hung"), mine = f.Create("mine");
        f.Evict(hung);
        CopyJob fill = f.Locked(() =>
        {
            CopyJob job = new()
            {
                Name = "fill",
                Target = mine.Placement.LocalAddresses,
                Fence = f.Work.CreateFence(),
                Pattern = 0x11,
            };
            Assert.Equal(Errno.Success, f.Gpu.CopyEngine.TrySubmit(job));
            return job;
        });
        f.Gpu.CopyEngine.Drive(1);
        Assert.True(f.Gpu.CopyEngine.TryEnter()); // in a block, and does not come back for now
        for (int i = 0; i < 2; i++)
        {
            f.Clock.Advance(s_timeout);
            Watch(f);
        }

        Assert.True(fill.Fence.IsForced);
        f.Bytes(mine).Fill(0x77);
        Assert.True(f.Gpu.CopyEngine.Step());
        f.Gpu.CopyEngine.Exit();
        f.Run();
        Assert.Equal((true, Errno.ETIME, 0UL), (fill.Fence.HasEnded, fill.Fence.Error, fill.DoneBytes));
        Assert.True(f.Bytes(mine).IndexOfAnyExcept((byte)0x77) < 0);
    }

    [Fact]
    public void Jobs_of_an_engine_whose_driver_has_ended_end_with_an_error_and_that_is_evidence()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(), other = f.Create("other"), third = f.Create("third");
        MoveOperation first = f.Evict(buffer), second = f.Evict(other);
        f.Gpu.CopyEngine.Drive(1);
        Assert.Throws<InvalidOperationException>(() => f.Locked(f.Gpu.CopyEngine.HandleDriverEnded));
        Assert.True(f.Gpu.CopyEngine.TryEnter()); // the thread that has it is gone
        f.Locked(f.Gpu.CopyEngine.HandleDriverEnded);
        Assert.Equal((Errno.ETIME, Errno.EIO), (first.Fence!.Error, second.Fence!.Error));
        Assert.Equal(
            (true, true, false, false),
            (first.Fence.HasEnded, second.Fence.HasEnded, first.Fence.IsForced, second.Fence.IsForced));
        Assert.Equal(0, f.Gpu.CopyEngine.QueuedCount);
        Assert.Equal(RevokeState.Retired, f.Free(buffer).State);
        Assert.Equal(Errno.ENODEV, f.TryCreate("more", 1, out _));
        Assert.Equal(Errno.ENODEV, f.Evict(third).Error);
    }

    [Fact]
    public void A_stop_that_comes_when_the_job_has_just_ended_harms_nobody()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create(), other = f.Create("other");
        MoveOperation first = f.Evict(buffer);
        f.Gpu.CopyEngine.Drive(1);
        f.Clock.Advance(s_timeout);
        f.Locked(() =>
        {
            f.Gpu.CopyEngine.Hangs.HandleTimeout(f.Host.Now);
            first.Fence!.Signal();
        });
        MoveOperation second = f.Evict(other);
        f.Run();
        Assert.Equal(MoveState.Moved, second.State);
        Assert.Empty(f.Gpu.CopyEngine.Hangs.Hangs);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_stop_that_comes_while_the_late_job_does_its_last_block_does_not_end_the_next(bool isLost)
    {
        HookedMemory vram = new(4 * (int)GpuFixture.Page);
        VirtualClock clock = new();
        HostContext host = new(clock);
        GpuDevice gpu;
        GpuBuffer? first, second;
        using (host.Enter())
        {
            gpu = new GpuDevice(
                host, new PciFabric(), new PciFunction("0000:01:00.0", "gpu0"), new GpuOptions(), [vram.Memory], []);
            GpuBufferInfo info = new("first", GpuFixture.Page, StorageKind.Movable);
            Assert.Equal(Errno.Success, gpu.TryCreate(info, out first));
            Assert.Equal(Errno.Success, gpu.TryCreate(info with { Name = "second" }, out second));
        }

        vram.OnSpan = () =>
        {
            vram.OnSpan = null; // in the block of the first
            clock.Advance(s_timeout);
            using (host.Enter())
            {
                gpu.CopyEngine.Hangs.HandleTimeout(host.Now); // the thread that watches
            }

            if (isLost)
            {
                clock.Advance(s_grace);
                using (host.Enter())
                {
                    gpu.CopyEngine.Hangs.HandleTimeout(host.Now);
                    Assert.True(gpu.CopyEngine.Hangs.HasLost(gpu.CopyEngine));
                }
            }
        };
        vram.Bytes.AsSpan().Fill(0x5A);
        Assert.Equal(isLost ? 1 : 2, Math.Min(2, gpu.CopyEngine.Drive(isLost ? 1 : int.MaxValue)));
        Assert.Null(vram.OnSpan);
        Assert.Equal(isLost, second!.IsFreed);
        Assert.Equal(isLost, vram.Bytes.AsSpan((int)GpuFixture.Page, (int)GpuFixture.Page).Contains((byte)0x5A));
        Assert.Equal(0x5A, vram.Bytes[2 * GpuFixture.Page]);
        using (host.Enter())
        {
            Assert.False(gpu.CopyEngine.Hangs.HasLost(gpu.CopyEngine));
            Assert.Equal(isLost, first!.IsFreed);
            Assert.Equal(isLost ? 1 : 0, gpu.CopyEngine.Hangs.Hangs.Count);
        }
    }

    [Fact]
    public void A_job_that_waits_for_itself_is_refused()
    {
        GpuFixture f = new();
        GpuBuffer buffer = f.Create();
        f.Locked(() =>
        {
            Fence fence = f.Work.CreateFence();
            CopyJob job = new() { Name = "self", Target = buffer.Placement.Addresses, Waits = [fence], Fence = fence };
            Assert.Equal(Errno.EDEADLK, f.Gpu.CopyEngine.TrySubmit(job));
            Assert.Equal(0, f.Gpu.CopyEngine.QueuedCount);
        });
    }

    // Somebody else does something while the engine is in a block.
    private sealed class HookedMemory(int length) : MemoryManager<byte>
    {
        public byte[] Bytes { get; } = new byte[length];

        public Action? OnSpan { get; set; }

        public override Span<byte> GetSpan()
        {
            OnSpan?.Invoke();
            return Bytes;
        }

        public override MemoryHandle Pin(int elementIndex = 0) => default;

        public override void Unpin()
        {
        }

        protected override void Dispose(bool disposing)
        {
        }
    }

    private static ulong Taken(GpuFixture f) => f.Stats.VramQuarantinedBytes + f.Stats.SystemQuarantinedBytes;

    private static TimeSpan? Due(GpuFixture f) =>
        f.Locked(() => f.Gpu.CopyEngine.Hangs.NextDeadline);

    private static void Watch(GpuFixture f) => f.Locked(() => f.Gpu.CopyEngine.Hangs.HandleTimeout(f.Host.Now));
}
