using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;
using Wayleave.Devices.Gpu;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Gpu.Compute;

/// <summary>Jobs in turns on two engines, each behind the fence of the one before.</summary>
public class FenceHopTests
{
    private readonly ComputeFixture _f = new();
    private readonly ComputeQueue[] _queues;
    private readonly Timeline _start;

    public FenceHopTests() =>
        (_queues, _start) = _f.Gpu.Locked(() => (
            new[] { _f.Queue, _f.Process.CreateQueue("copies", engine: GpuEngineKind.Copy) },
            new Timeline(_f.Host, "start")));

    [Theory]
    [InlineData(GpuPriority.Normal)]
    [InlineData(GpuPriority.High)]
    public void Each_hop_rings_for_the_engine_that_goes_on_and_for_no_other(GpuPriority priority)
    {
        ComputeQueue other = _f.Gpu.Locked(
            () => _f.Process.CreateQueue("other", priority, GpuEngineKind.Copy));
        (Fence first, Fence last) = Submit(hops: 8, [_queues[0], other]);
        Settle();
        _f.Gpu.Locked(() => first.Signal());
        for (int hop = 0; hop < 8; hop++)
        {
            Assert.Equal(
                (hop % 2 == 0, hop % 2 != 0), (_queues[0].Engine.HasDoorbell, _queues[1].Engine.HasDoorbell));
            Assert.Equal(1, _queues[hop % 2].Engine.Drive(int.MaxValue));
        }

        Assert.True(last.HasEnded);
        Assert.Equal(0, _f.Engine.Hangs.WatchedCount);
    }

    [Fact]
    public void A_job_that_waits_for_several_fences_rings_once_when_the_last_has_signalled()
    {
        Fence[] waits = _f.Gpu.Locked(() => new[] { _start.CreateFence(), _start.CreateFence(), _start.CreateFence() });
        SubmitOperation job = _f.Submit(GpuCommandMode.Paged, [default], waits);
        Settle();
        foreach (Fence wait in waits)
        {
            Assert.False(_f.Engine.HasDoorbell);
            _f.Gpu.Locked(() => wait.Signal());
        }

        Assert.True(_f.Engine.HasDoorbell);
        Assert.Equal(1, _f.Engine.Drive(int.MaxValue));
        Assert.True(job.Fence!.HasEnded);
    }

    [Fact]
    public void A_hop_allocates_nothing()
    {
        HostContext host = new(new VirtualClock()); // without a log of what happens, which grows
        long allocated = -1;
        using (host.Enter())
        {
            PciFunction function = new("0000:01:00.0", "gpu0");
            GpuDevice gpu = new(host, new PciFabric(), function, new GpuOptions(), [new byte[4096]], [new byte[4096]]);
            GpuProcess process = gpu.OpenProcess("process");
            _queues[0] = process.CreateQueue("jobs");
            _queues[1] = process.CreateQueue("copies", engine: GpuEngineKind.Copy);
        }

        for (int round = 0; round < 3; round++) // the first ones make lists
        {
            Fence first, last;
            using (host.Enter())
            {
                first = last = new Timeline(host, "start").CreateFence();
                for (int hop = 0; hop < 16; hop++)
                {
                    last = SubmitOperation.Start(
                        _queues[hop % 2],
                        new GpuSubmission(GpuCommandMode.Paged, new byte[GpuCommand.SizeBytes], [last])).Fence!;
                }
            }

            Settle();
            using (host.Enter())
            {
                first.Signal();
            }

            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int hop = 0; hop < 16; hop++)
            {
                _queues[hop % 2].Engine.Drive(int.MaxValue);
            }

            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(last.HasEnded);
        }

        Assert.Equal(0, allocated);
    }

    private (Fence First, Fence Last) Submit(int hops, ComputeQueue[] queues)
    {
        Fence first = _f.Gpu.Locked(_start.CreateFence);
        Fence last = first;
        for (int hop = 0; hop < hops; hop++)
        {
            SubmitOperation job = _f.Submit(GpuCommandMode.Paged, [default], [last], queues[hop % 2]);
            Assert.Equal(Errno.Success, job.Error);
            last = job.Fence!;
        }

        return (first, last);
    }

    private void Settle()
    {
        foreach (ComputeQueue queue in _queues)
        {
            Assert.Equal(0, queue.Engine.Drive(int.MaxValue));
        }
    }
}
