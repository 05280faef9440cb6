using Wayleave.Client;
using Wayleave.Host.Broker;
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
    public async Task A_host_that_stops_waits_for_no_thread_that_a_program_keeps()
    {
        ForeignProgram program = await LingerAsync(1);
        Task stopping = Task.Run(Server.Dispose, Cancellation);
        await stopping.WaitAsync(TimeSpan.FromSeconds(30), Cancellation);
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
