using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Buffers;

public class PollTests
{
    private const PollEvents Both = PollEvents.In | PollEvents.Out;

    [Fact]
    public void DBUF_33_An_idle_buffer_is_ready_for_both_one_that_is_read_for_in_one_that_is_written_for_neither()
    {
        using BufferFixture f = new();
        Assert.Equal(Both, f.Buffer.Poll(Both));
        Assert.Equal(PollEvents.None, f.Buffer.Poll(PollEvents.None));
        Fence read = f.AddFence(ReservationUsage.Read);
        Assert.Equal(PollEvents.In, f.Buffer.Poll(Both));
        Fence write = f.AddFence(ReservationUsage.Write, new Timeline(f.Host, "writer"));
        Assert.Equal(PollEvents.None, f.Buffer.Poll(Both));
        read.Signal();
        Assert.Equal(PollEvents.None, f.Buffer.Poll(Both));
        write.Signal();
        Assert.Equal(Both, f.Buffer.Poll(Both));
    }

    [Fact]
    public void DBUF_34_A_BOOKKEEP_fence_keeps_nobody_from_reading_or_writing()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Bookkeep);
        Assert.Equal(Both, f.Buffer.Poll(Both));
    }

    [Fact]
    public void A_KERNEL_fence_keeps_everybody_waiting()
    {
        using BufferFixture f = new();
        f.AddFence(ReservationUsage.Kernel);
        Assert.Equal(PollEvents.None, f.Buffer.Poll(Both));
    }

    [Fact]
    public void DBUF_35_A_poller_wakes_at_each_fence_asks_again_and_sleeps_until_the_last()
    {
        Poller poller = new();
        BufferFixture f = new();
        HostContext host = f.Host;
        SharedBuffer buffer = f.Buffer;
        Fence first = f.AddFence(ReservationUsage.Write, new Timeline(host, "a"));
        Fence second = f.AddFence(ReservationUsage.Write, new Timeline(host, "b"));
        Assert.Equal(PollEvents.None, buffer.Poll(PollEvents.In, poller.Wake));
        f.Dispose();
        Signal(host, first);
        Assert.Equal(1, poller.Wakes);
        using (host.Enter())
        {
            Assert.Equal(PollEvents.None, buffer.Poll(PollEvents.In, poller.Wake));
        }

        Signal(host, second);
        Assert.Equal(2, poller.Wakes);
        using (host.Enter())
        {
            Assert.Equal(PollEvents.In, buffer.Poll(PollEvents.In, poller.Wake));
        }
    }

    [Fact]
    public void DBUF_36_Two_pollers_of_one_direction_are_both_woken_by_the_one_callback()
    {
        Poller first = new(), second = new(), writer = new();
        BufferFixture f = new();
        HostContext host = f.Host;
        Fence fence = f.AddFence(ReservationUsage.Write);
        Fence read = f.AddFence(ReservationUsage.Read, new Timeline(host, "reader"));
        f.Buffer.Poll(PollEvents.In, first.Wake);
        f.Buffer.Poll(PollEvents.In, second.Wake);
        Assert.Equal(2, f.Buffer.ReferenceCount); // one callback, one reference
        f.Dispose();
        Signal(host, read); // nobody asked for it
        Assert.Equal((0, 0), (first.Wakes, second.Wakes));
        Signal(host, fence);
        Assert.Equal((1, 1, 0), (first.Wakes, second.Wakes, writer.Wakes));
    }

    [Fact]
    public void DBUF_37_An_armed_poll_keeps_the_buffer_until_its_fence_has_signalled()
    {
        Poller poller = new();
        BufferFixture f = new();
        HostContext host = f.Host;
        HandleTable table = new(host);
        table.TryInstall(f.Buffer, out int handle);
        Fence fence = f.AddFence(ReservationUsage.Read);
        f.Buffer.Poll(PollEvents.Out, poller.Wake);
        table.Close(handle);
        Assert.DoesNotContain("release", f.Exporter.Calls);
        TestExporter exporter = f.Exporter;
        f.Dispose();
        Signal(host, fence);
        Assert.Contains("release", exporter.Calls);
        Assert.Equal(1, poller.Wakes);
    }

    [Fact]
    public void A_poll_that_was_taken_back_does_not_wake()
    {
        Poller poller = new();
        BufferFixture f = new();
        HostContext host = f.Host;
        Fence fence = f.AddFence(ReservationUsage.Write);
        f.Buffer.Poll(Both, poller.Wake);
        Assert.True(f.Buffer.TryCancelPoll(poller.Wake));
        Assert.False(f.Buffer.TryCancelPoll(poller.Wake));
        f.Dispose();
        Signal(host, fence);
        Assert.Equal(0, poller.Wakes);
    }

    [Fact]
    public void A_poller_that_is_told_ready_finds_no_pending_fence_in_any_order() =>
        Assert.True(Explorer.Exhaustive(c => Build(CoreDefences.None)).Runs > 50);

    [Fact]
    public void A_poll_that_reports_early_is_caught()
    {
        InterleavingException found = Assert.Throws<InterleavingException>(
            () => Explorer.Exhaustive(c => Build(CoreDefences.PollLooksAtFences)));
        Assert.Contains("still written", found.Message, StringComparison.Ordinal);
    }

    // Two writers end in any order under two pollers; whoever is told that it may read finds nobody writing.
    private static Scenario Build(CoreDefences without)
    {
        BufferFixture f = new(StorageKind.Movable, without);
        HostContext host = f.Host;
        SharedBuffer buffer = f.Buffer;
        Fence[] fences =
        [
            f.AddFence(ReservationUsage.Write, new Timeline(host, "a")),
            f.AddFence(ReservationUsage.Write, new Timeline(host, "b")),
        ];
        f.Dispose();
        return new Scenario(
            [
                new Actor("a", Write(host, fences[0])),
                new Actor("b", Write(host, fences[1])),
                new Actor("reader", Read(host, buffer, fences)),
                new Actor("second reader", Read(host, buffer, fences)),
            ],
            () => { });
    }

    private static IEnumerable<Step> Write(HostContext host, Fence fence)
    {
        yield return "signal";
        Signal(host, fence);
    }

    private static IEnumerable<Step> Read(HostContext host, SharedBuffer buffer, Fence[] writers)
    {
        Poller poller = new();
        while (true)
        {
            int wakes = poller.Wakes;
            yield return "poll";
            PollEvents ready;
            using (host.Enter())
            {
                ready = buffer.Poll(PollEvents.In, poller.Wake);
            }

            if (ready == PollEvents.In)
            {
                break;
            }

            yield return new("sleep", () => poller.Wakes > wakes);
        }

        if (writers.Any(w => !w.IsSignaled))
        {
            throw new InvalidOperationException("ready, and still written");
        }
    }

    private static void Signal(HostContext host, Fence fence)
    {
        using (host.Enter())
        {
            fence.Signal();
        }
    }

    private sealed class Poller
    {
        public int Wakes { get; private set; }

        public void Wake() => Wakes++;
    }
}
