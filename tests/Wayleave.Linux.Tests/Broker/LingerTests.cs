using System.Net.Sockets;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>
/// Programs that send a TCP socket whose close waits for somebody who never reads: a descriptor that comes with a
/// message, one too many that the kernel throws away, and one within a fence.
/// </summary>
public sealed class LingerTests : BrokerTest
{
    private const int Size = 1 << 20;

    [Theory]
    [InlineData(1)]
    [InlineData(17)]
    public async Task A_program_that_keeps_its_thread_in_the_kernel_and_dies_leaves_nothing_but_that(int descriptors)
    {
        ulong before = UsedBytes();
        ForeignProgram program = await LingerAsync(descriptors);
        program.Kill(); // a child has the other end
        await UntilAsync("nobody has anything", () => Server.Store.Programs.Count == 0);
        Assert.Equal(before, UsedBytes());
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        other.OpenDevice("gpu0").Allocate("x", Size).Dispose();
        Assert.Equal(2, Server.ConnectionCount); // the thread is there
        program.KillAll();
        await UntilAsync("the thread has ended", () => Server.ConnectionCount == 1);
        Assert.Empty(Host.GetViolations());
    }

    [Fact]
    public async Task As_many_refused_connections_wait_to_be_closed_as_there_is_room_for()
    {
        const int Max = 2;
        string path = Path.Combine(Root, "refusing");
        using Socket listener = MessageSocket.Listen(path, 8);
        using CancellationTokenSource stopping = new();
        using RefusedSockets refused = new(Max, stopping.Token);
        ForeignProgram program = Start();
        for (int i = 0; i <= Max; i++) // one is being closed
        {
            refused.Add(await LingeringAsync(program, path, listener));
        }

        MessageSocket last = await LingeringAsync(program, path, listener);
        Task adding = Task.Run(() => refused.Add(last), Cancellation);
        await UntilAsync("it waits for room", () => refused.Count == Max + 2);
        Assert.False(adding.IsCompleted);
        program.Kill(); // with the other ends
        await adding.WaitAsync(Cancellation);
        await UntilAsync("they are closed", () => refused.Count == 0);
    }

    [Fact]
    public async Task Who_stops_waits_for_no_room()
    {
        string path = Path.Combine(Root, "refusing");
        using Socket listener = MessageSocket.Listen(path, 8);
        using CancellationTokenSource stopping = new();
        using RefusedSockets refused = new(1, stopping.Token);
        ForeignProgram program = Start();
        for (int i = 0; i < 2; i++)
        {
            refused.Add(await LingeringAsync(program, path, listener));
        }

        MessageSocket last = await LingeringAsync(program, path, listener);
        Task adding = Task.Run(() => refused.Add(last), Cancellation);
        await UntilAsync("it waits for room", () => refused.Count == 3);
        await stopping.CancelAsync();
        await adding.WaitAsync(Cancellation);
        program.Kill();
    }

    [Fact]
    public async Task Nobody_sends_descriptors_to_a_host_that_has_not_let_it_in()
    {
        string path = Path.Combine(Root, "refusing");
        using Socket listener = MessageSocket.Listen(path, 8, takesDescriptors: false);
        using MessageSocket stranger = MessageSocket.Connect(path);
        using EventFd any = new();
        Errno early = stranger.Send([1], [any.Descriptor]);
        Assert.SkipWhen(early == Errno.Success, "this kernel has no SO_PASSRIGHTS: Linux 6.16");
        Assert.Equal(Errno.EPERM, early);
        using MessageSocket accepted = new(await listener.AcceptAsync(Cancellation));
        Assert.Equal(Errno.EPERM, stranger.Send([1], [any.Descriptor]));
        accepted.TakeDescriptors();
        Assert.Equal(Errno.Success, stranger.Send([1], [any.Descriptor]));

        // The broker's own is such a listener: whom it does not let in sends it nothing to be closed.
        Server.ConnectionsMax = 0;
        for (int i = 0; i < 100; i++)
        {
            using MessageSocket refused = MessageSocket.Connect(Server.SocketPath);
            Assert.NotEqual(Errno.Success, refused.Send([1], [any.Descriptor]));
        }
    }

    [Fact]
    public async Task A_host_that_stops_waits_for_no_thread_that_a_program_keeps()
    {
        ForeignProgram program = await LingerAsync(1);
        Task stopping = Task.Run(Server.Dispose, Cancellation);
        await stopping.WaitAsync(Patience.Max, Cancellation);
        Assert.Equal(0, AccountOf(program.Id, BrokerAccount.Buffers));
        program.KillAll();
    }

    [Fact]
    public async Task What_is_sent_into_a_fence_is_thrown_away_and_the_fence_goes_on()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int timeline = await one.OkAsync("timeline");
        int fence = await one.OkAsync($"fence {timeline} 1");
        int taken = await PassAsync(one, fence, other);
        for (int i = 0; i < 1000; i++) // more than there would be room for
        {
            await other.OkAsync($"swallow {taken}");
        }

        await one.OkAsync($"advance {timeline} 1");
        Assert.Equal(1, await one.OkAsync($"wait {fence} 30000"));
        Assert.Equal(1, await other.OkAsync($"wait {taken} 30000"));
        await ExpectSettledAsync(one, other);
    }

    // A connection in which a socket lies whose close waits for the program.
    private static async Task<MessageSocket> LingeringAsync(ForeignProgram program, string path, Socket listener)
    {
        await program.OkAsync($"lingerto {path}");
        return new MessageSocket(await listener.AcceptAsync(Cancellation));
    }

    // The program has a buffer and is where its connection's thread closes the last copy of the socket.
    private async Task<ForeignProgram> LingerAsync(int descriptors)
    {
        ForeignProgram program = await StartAsync();
        await program.OkAsync($"allocate 1 {Size} 0");
        int nic = await program.OkAsync("open rdma0");
        int pair = await program.OkAsync($"pair {nic}");
        await program.OkAsync($"linger {pair} {descriptors}");
        await program.ForkAsync(); // has the other end
        return program;
    }
}
