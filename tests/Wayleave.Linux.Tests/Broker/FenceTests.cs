using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Host.Control;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Fences that cross processes as descriptors.</summary>
public sealed class FenceTests : BrokerTest
{
    private const int Size = 1 << 20;

    [Fact]
    public async Task A_fence_is_readable_in_every_process_that_was_given_it_and_says_how_the_work_ended()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int source = await one.OkAsync($"allocate 1 {Size} 0"), target = await one.OkAsync($"allocate 1 {Size} 0");
        await one.OkAsync($"map {source} {Size}");
        await one.OkAsync("poke 777 42");
        int fence = await one.OkAsync($"copy 1 {source} {target} {Size}");
        int copy = await PassAsync(one, fence, other);
        Assert.Equal(1, await other.OkAsync($"wait {copy} 30000"));
        Assert.Equal(1, await other.OkAsync($"wait {copy} 0")); // for good, whoever has looked
        Assert.Equal(0, await other.OkAsync($"status {copy}"));
        Assert.Equal(1, await one.OkAsync($"wait {fence} 30000"));
        Assert.Equal(0, await one.OkAsync($"status {fence}"));
        await one.OkAsync($"map {target} {Size}");
        Assert.Equal(42, await one.OkAsync("peek 777"));
    }

    [Fact]
    public async Task Work_of_one_program_waits_for_that_of_another_and_goes_on_when_its_producer_is_killed()
    {
        ForeignProgram producer = await StartAsync(), consumer = await StartAsync(), bystander = await StartAsync();
        int endless = await SpinAsync(producer);
        int taken = await PassAsync(producer, endless, consumer), seen = await PassAsync(producer, endless, bystander);
        int source = await consumer.OkAsync($"allocate 1 {Size} 0");
        int after = await consumer.OkAsync($"copy 1 {source} {source} 4096 {taken}");
        Assert.Equal(0, await consumer.OkAsync($"wait {after} 0"));
        Assert.Equal(0, await bystander.OkAsync($"wait {seen} 0"));

        producer.Kill();
        Assert.Equal(1, await bystander.OkAsync($"wait {seen} 30000"));
        Assert.Equal((int)Errno.ECANCELED, await bystander.OkAsync($"status {seen}"));
        Assert.Equal(1, await consumer.OkAsync($"wait {after} 30000"));
        Assert.Equal(0, await consumer.OkAsync($"status {after}"));
        await ExpectSettledAsync(consumer, bystander);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_waiter_hears_of_a_signal_that_comes_later_only_because_the_host_sends_it(bool signals)
    {
        Server.Store.Syncs.Signals = signals;
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientTimeline timeline = client.OpenTimeline("mine");
        using ClientFence fence = timeline.MakeFence(3);
        Assert.False(fence.TryGetResult(out _, out _));
        timeline.Advance(2);
        Assert.False(fence.Wait(TimeSpan.Zero));
        timeline.Advance(1);
        Assert.Equal(1, client.Describe(fence).Status);
        if (signals)
        {
            Assert.True(fence.Wait(Patience.Max));
            Assert.True(fence.TryGetResult(out Errno error, out TimeSpan at));
            Assert.Equal(Errno.Success, error);
            Assert.True(at > TimeSpan.Zero);
        }
        else
        {
            Assert.False(fence.Wait(TimeSpan.Zero));
        }

        await Task.CompletedTask;
    }

    [Fact]
    public void A_merge_signals_with_the_last_of_both_and_a_description_says_what_it_is_made_of()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientTimeline one = client.OpenTimeline("one"), other = client.OpenTimeline("other");
        using ClientFence first = one.MakeFence(1), second = other.MakeFence(1);
        using ClientFence both = client.Merge(first, second, "both");
        FenceStatus status = client.Describe(both);
        Assert.Equal(("both", 0, 2, false), (status.Name, status.Status, status.Count, status.IsForced));
        Assert.All(status.Parts, p => Assert.Equal(("sw_sync", 0), (p.Driver, p.Status)));
        one.Advance(1);
        Assert.False(both.Wait(TimeSpan.Zero));
        Assert.Equal(1, client.Describe(both).Parts.Count(p => p.Status == 1));
        other.Advance(1);
        Assert.True(both.Wait(Patience.Max));
        Assert.Equal(1, client.Describe(both).Status);

        // Of one that is over nothing is left in a merge, as in the kernel.
        using ClientFence pending = one.MakeFence(9);
        using ClientFence merged = client.Merge(both, pending);
        Assert.Equal(1, client.Describe(merged).Count);
        Assert.False(merged.Wait(TimeSpan.Zero));
    }

    [Fact]
    public void What_is_no_fence_of_this_host_is_refused_as_the_kernel_does()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientTimeline timeline = client.OpenTimeline("mine");
        using ClientFence fence = timeline.MakeFence(1);
        using HandlePair foreign = HandlePair.CreateSignal();
        using ClientFence stranger = ClientFence.FromDescriptor(foreign.Given);
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", 4096);
        using ClientFence handle = ClientFence.FromDescriptor(buffer.Export());
        Assert.Equal(Errno.EBADF, Refusal(() => client.Merge(stranger, fence)));
        Assert.Equal(Errno.ENOENT, Refusal(() => client.Merge(fence, stranger)));
        Assert.Equal(Errno.EBADF, Refusal(() => client.Describe(handle)));
        Assert.Equal(Errno.EINVAL, Refusal(() => client.Import(fence.Descriptor)));
        Assert.Equal(Errno.EINVAL, Refusal(() => gpu.Copy(buffer, 0, buffer, 0, 4096, stranger)));
        Assert.Equal(Errno.EINVAL, Refusal(() => buffer.ImportFence(stranger, FenceUse.Write)));
        Assert.Equal(Errno.EINVAL, Refusal(() => buffer.ExportFence(FenceUse.None)));
        Assert.Equal(Errno.EINVAL, Refusal(() => buffer.ExportFence((FenceUse)4)));
    }

    [Fact]
    public void No_work_and_no_buffer_waits_for_a_fence_that_a_program_signals_also_not_within_a_merge()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", 4096);
        using ClientTimeline timeline = client.OpenTimeline("mine");
        using ClientFence own = timeline.MakeFence(1);
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientFence spin = queue.Submit(Commands.Spin(ulong.MaxValue));
        using ClientFence merged = client.Merge(own, spin);
        foreach (ClientFence fence in new[] { own, merged })
        {
            Assert.Equal(Errno.EINVAL, Refusal(() => gpu.Copy(buffer, 0, buffer, 0, 4096, fence)));
            Assert.Equal(Errno.EINVAL, Refusal(() => queue.Submit(Commands.Spin(1), fence)));
            Assert.Equal(Errno.EINVAL, Refusal(() => buffer.ImportFence(fence, FenceUse.Write)));
        }
    }

    [Fact]
    public void The_fences_of_a_buffer_are_exported_as_they_are_then_and_an_imported_one_is_waited_for()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer buffer = gpu.Allocate("x", 4096), other = gpu.Allocate("y", 4096);
        using ClientFence idle = buffer.ExportFence(FenceUse.ReadWrite);
        Assert.True(idle.Wait(Patience.Max));
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientFence spin = queue.Submit(Commands.Spin(ulong.MaxValue));
        buffer.ImportFence(spin, FenceUse.Write);
        using ClientFence forReaders = buffer.ExportFence(FenceUse.Read);
        Assert.False(forReaders.Wait(TimeSpan.Zero));
        using ClientFence copy = gpu.Copy(buffer, 0, other, 0, 4096);
        Assert.False(copy.Wait(TimeSpan.Zero));
        Assert.True(idle.Wait(TimeSpan.Zero)); // a snapshot

        // A reader stands in nobody's way who reads.
        using ClientFence forOtherReaders = other.ExportFence(FenceUse.Read);
        Assert.False(forOtherReaders.Wait(TimeSpan.Zero)); // the copy writes it
    }

    [Fact]
    public async Task Dup_fork_and_passing_on_keep_one_fence_and_the_last_copy_releases_it_once()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int fence = await SpinAsync(one);
        int duplicate = await one.OkAsync($"dup {fence}");
        int child = await one.ForkAsync();
        int taken = await PassAsync(one, duplicate, other);
        await one.OkAsync($"drop {fence}");
        await one.OkAsync($"drop {duplicate}");
        one.KillChild(child);
        await other.OkAsync($"describe {taken}");
        Assert.Equal(1, DescriptorsOf(one.Id));
        await other.OkAsync($"drop {taken}");
        await UntilAsync("it is released", () => DescriptorsOf(one.Id) == 0);
    }

    [Fact]
    public async Task A_fence_outlives_the_connection_and_the_death_of_who_got_it_first()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        int fence = await one.OkAsync($"copy 1 {buffer} {buffer} {Size / 2}");
        Assert.Equal(1, await one.OkAsync($"wait {fence} 30000"));
        int taken = await PassAsync(one, fence, other);
        one.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {taken} 0"));
        Assert.Equal(0, await other.OkAsync($"status {taken}"));
        await other.OkAsync($"describe {taken}");
        await other.OkAsync($"drop {taken}");
        await ExpectSettledAsync(other);
    }

    [Fact]
    public async Task A_timeline_ends_with_its_program_and_so_do_its_fences()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int timeline = await one.OkAsync("timeline");
        int fence = await one.OkAsync($"fence {timeline} 5");
        await one.OkAsync($"advance {timeline} 4");
        int taken = await PassAsync(one, fence, other);
        Assert.Equal(0, await other.OkAsync($"wait {taken} 0"));
        one.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {taken} 30000"));
        Assert.Equal((int)Errno.ENOENT, await other.OkAsync($"status {taken}"));
        await other.OkAsync($"drop {taken}");
        await ExpectSettledAsync(other);
    }

    [Fact]
    public void A_timeline_keeps_no_more_fences_than_a_program_may_have()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientTimeline timeline = client.OpenTimeline("mine");
        Errno errno = Errno.Success;
        for (uint value = 1; errno == Errno.Success && value < 100_000; value++)
        {
            try
            {
                timeline.MakeFence(value).Dispose(); // nobody has it; the timeline still does
            }
            catch (BrokerException e)
            {
                errno = e.Errno;
            }
        }

        Assert.Equal(Errno.EDQUOT, errno);
        timeline.Advance(100_000);
        timeline.MakeFence(200_000).Dispose();
    }

    [Fact]
    public void A_deadline_is_a_hint_to_who_works_on_a_fence_and_the_earliest_counts()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using ClientTimeline timeline = client.OpenTimeline("t");
        using ClientFence one = timeline.MakeFence(1), two = timeline.MakeFence(2), merged = client.Merge(one, two);
        Fence Of(ClientFence fence) => Server.Store.Syncs.Find(fence.Descriptor)!.Fence;
        TimeSpan before = Host.Context.Now;
        other.SetDeadline(merged, TimeSpan.FromSeconds(100)); // whoever has it may
        client.SetDeadline(one, TimeSpan.FromSeconds(50));
        client.SetDeadline(one, TimeSpan.FromSeconds(70));
        TimeSpan after = Host.Context.Now;
        Assert.InRange(
            Of(one).Deadline!.Value, before + TimeSpan.FromSeconds(50), after + TimeSpan.FromSeconds(50));
        Assert.InRange(
            Of(two).Deadline!.Value, before + TimeSpan.FromSeconds(100), after + TimeSpan.FromSeconds(100));
        timeline.Advance(2);
        client.SetDeadline(merged, TimeSpan.Zero); // too late, and no error
        Assert.Equal(Errno.EINVAL, Refusal(() => client.SetDeadline(one, TimeSpan.FromDays(365 * 300))));
        Assert.Equal(Errno.EINVAL, Refusal(() => client.Ask(
            "test", BrokerOperation.SetDeadline, (ref BrokerWriter body) =>
            {
                body.WriteUInt64(1);
                body.WriteUInt64(1);
            }, null, one.Descriptor)));
    }

    [Fact]
    public async Task What_is_written_to_a_fence_or_a_handle_is_thrown_away_also_itself()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int fence = await SpinAsync(one);
        int taken = await PassAsync(one, fence, other);
        await other.OkAsync($"swallow {taken}"); // sends it by itself, so that it would keep itself alive
        await other.OkAsync($"drop {taken}");
        await one.OkAsync($"drop {fence}");
        await UntilAsync("it is released", () => DescriptorsOf(one.Id) == 0);

        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        int handle = await one.OkAsync($"export {buffer}");
        await one.RefusedAsync(Errno.EPIPE, $"swallow {handle}");
        await one.OkAsync($"drop {handle}");
        await UntilAsync("it is released", () => DescriptorsOf(one.Id) == 0);
    }

    [Fact]
    public async Task Fences_are_listed_with_the_processes_that_have_them()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int fence = await SpinAsync(one);
        await PassAsync(one, fence, other);
        SyncFileDocument found = Assert.Single(BufferReports.Describe(Host).SyncFiles);
        Assert.Equal((one.Id, "pending"), (found.Program, found.State));
        Assert.Equal(new[] { one.Id, other.Id }.Order(), found.Processes);
    }

    private static async Task<int> SpinAsync(ForeignProgram program)
    {
        int queue = await program.OkAsync("queue 1");
        return await program.OkAsync($"spin {queue}");
    }

    private static Errno Refusal(Action action) => Assert.Throws<BrokerException>(action).Errno;

    private static Errno Refusal<T>(Func<T> action) => Refusal(() => { action(); });
}
