using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>A host that is asked to stop, and programs at work: nothing new, and what was begun goes on.</summary>
public sealed class DrainTests : BrokerTest
{
    private const int Size = 64 << 10;

    [Fact]
    public async Task A_host_that_drains_begins_nothing_for_programs_and_waits_for_what_engines_do()
    {
        ForeignProgram worker = await StartAsync();
        int endless = await worker.OkAsync($"spin {await worker.OkAsync("queue 1")}");
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0"), nic = client.OpenDevice("rdma0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        using ClientQueue queue = gpu.OpenQueue("q");
        using ClientTimeline timeline = client.OpenTimeline("t");
        using ClientFence own = timeline.MakeFence(1);
        using ClientRing ring = gpu.OpenRing();
        uint slot = ring.Attach(buffer);
        Assert.Equal(1, Server.Running);
        Task<bool> drained = Server.DrainAsync(Patience.Max);

        Action[] refused =
        [
            () => BrokerClient.Connect(Server.SocketPath, "late").Dispose(),
            () => gpu.Allocate("y", Size).Dispose(),
            () => gpu.Copy(buffer, 0, buffer, Size / 2, Size / 2).Dispose(),
            () => gpu.OpenQueue("r").Dispose(),
            () => queue.Submit(Commands.Spin(1)).Dispose(),
            () => gpu.OpenRing().Dispose(),
            () => nic.Register(buffer, 0, Size, ClientRegionAccess.RemoteRead).Dispose(),
            () => nic.CreateQueuePair().Dispose(),
        ];
        Assert.All(refused, r => Assert.Equal(Errno.ESHUTDOWN, Assert.Throws<BrokerException>(r).Errno));
        ring.TrySubmit(new RingCommand(RingOperation.Copy, false, 7, slot, slot, 0, Size / 2, Size / 2));
        Assert.True(ring.Wait(out RingCompletion completion, Patience.Max));
        Assert.Equal((7UL, Errno.ESHUTDOWN), (completion.Tag, completion.Errno));

        // What programs have goes on, and passes on.
        using (FileDescriptor handle = buffer.Export())
        using (ClientBuffer again = client.Import(handle))
        using (ClientMapping mapping = again.Map())
        {
            mapping.Memory.Span[0] = 1;
        }

        timeline.Advance(1);
        Assert.True(own.Wait(Patience.Max));
        Assert.False(drained.IsCompleted);
        await worker.OkAsync($"drop {endless}");
        worker.Kill(); // its job ends with it
        Assert.True(await drained);
        Assert.Equal(0, Server.Running);
    }

    [Fact]
    public async Task Requests_that_were_posted_are_waited_for_with_their_completions_and_new_ones_are_refused()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0"), nic = client.OpenDevice("rdma0");
        using ClientBuffer buffer = gpu.Allocate("x", Size);
        using ClientRegion region = nic.Register(
            buffer, 0, Size, ClientRegionAccess.LocalWrite | ClientRegionAccess.RemoteWrite);
        using ClientQueuePair one = nic.CreateQueuePair(), two = nic.CreateQueuePair();
        one.Connect(two.Local);
        two.Connect(one.Local);
        ClientPiece piece = new(0, Size / 2, region.Key), other = new(Size / 2, Size / 2, region.Key);
        one.Post(new ClientWorkRequest(ClientWorkOpcode.Send, 1), piece); // nobody receives it yet
        Assert.Equal(1, Server.Running);
        Task<bool> drained = Server.DrainAsync(Patience.Max);

        ClientWorkRequest write = new(ClientWorkOpcode.Write, 2, 0, region.Key);
        Assert.Equal(Errno.ESHUTDOWN, Assert.Throws<BrokerException>(() => one.Post(write, piece)).Errno);
        Assert.Empty(one.TakeCompletions(TimeSpan.Zero));
        two.PostReceive(3, other);
        ClientCompletion received = Assert.Single(two.TakeCompletions(Patience.Max));
        Assert.Equal((3UL, ClientWorkStatus.Success), (received.Id, received.Status));
        Assert.False(drained.IsCompleted); // the sender has not heard of it
        ClientCompletion sent = Assert.Single(one.TakeCompletions(Patience.Max));
        Assert.Equal((1UL, ClientWorkStatus.Success), (sent.Id, sent.Status));
        Assert.True(await drained);
        Assert.Equal(0, Server.Running);
    }

    [Fact]
    public async Task A_program_that_dies_with_what_it_posted_holds_up_nobody()
    {
        ForeignProgram program = await StartAsync();
        int nic = await program.OkAsync("open rdma0");
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        string key = (await program.AskAsync($"register {nic} {buffer} {Size}")).Split(' ')[2];
        await program.OkAsync($"pair {nic}");
        await program.OkAsync($"pair {nic}");
        await program.OkAsync("join");
        await program.OkAsync($"write 0 0 {key} {key} {Size / 2}"); // whose completion it never takes
        Task<bool> drained = Server.DrainAsync(Patience.Max);
        Assert.False(drained.IsCompleted);
        program.Kill();
        Assert.True(await drained);
    }

    [Fact]
    public async Task A_host_waits_no_longer_than_it_may()
    {
        ForeignProgram worker = await StartAsync();
        await worker.OkAsync($"spin {await worker.OkAsync("queue 1")}");
        Assert.False(await Server.DrainAsync(TimeSpan.FromMilliseconds(20)));
        Assert.Equal(1, Server.Running);
    }
}
