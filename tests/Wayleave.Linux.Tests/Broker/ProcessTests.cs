using System.Net.Sockets;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Who a program is, and how many may connect.</summary>
public sealed class ProcessTests : BrokerTest
{
    private const int Size = 64 << 10;
    private const int OtherUser = 61001;

    protected override IReadOnlyList<uint> Users => [OtherUser];

    [Theory]
    [InlineData(true)]
    [InlineData(false)] // the test of the test: a number is believed
    public async Task A_process_that_has_the_number_of_a_dead_one_has_nothing_of_it(bool asks)
    {
        Server.Store.Programs.AsksProcess = asks;
        ForeignProgram dead = await StartAsync();
        int buffer = await dead.OkAsync($"allocate 1 {Size} 0");
        await dead.OkAsync($"map {buffer} {Size}");
        await dead.ForkAsync(); // keeps the mapping, and so the account
        dead.Kill();
        await UntilAsync("the host knows that it is dead", () => Server.Store.Programs.AllLocked[0].IsDead);

        ForeignProgram born = Start();
        string answer = await born.AskAsync($"born {dead.Id}");
        Assert.SkipWhen(
            answer.StartsWith($"error {(int)Errno.EPERM} ", StringComparison.Ordinal)
                || answer.StartsWith($"error {(int)Errno.ENOSYS} ", StringComparison.Ordinal),
            "this user may not choose the numbers of processes");
        Assert.Equal($"ok {dead.Id}", answer);
        born.Adopt(dead.Id);
        await born.OkAsync($"connect {Server.SocketPath}");
        await born.OkAsync("open gpu0");
        await born.RefusedAsync(Errno.EBADF, $"export {buffer}");
        BrokerProgram[] programs = [.. Server.Store.Programs.AllLocked.Where(p => p.ProcessId == dead.Id)];
        if (!asks)
        {
            Assert.Single(programs);
            born.KillAll();
            return;
        }

        Assert.Equal([true, false], programs.Select(p => p.IsDead));
        await born.OkAsync($"allocate 1 {2 * Size} 0");
        Assert.Equal([Size, 2L * Size], programs.Select(p => p.Ledger[BrokerAccount.Bytes]));

        // The end of the one is not that of the other, in either order.
        born.KillAll();
        await UntilAsync("the second is gone", () => Server.Store.Programs.Count == 1);
        Assert.Equal(Size, programs[0].Ledger[BrokerAccount.Bytes]);
        await ExpectSettledAsync(dead);
    }

    [Fact]
    public async Task Connections_of_a_user_and_in_all_have_limits_and_who_leaves_makes_room()
    {
        (Server.ConnectionsMax, Server.ConnectionsPerUserMax) = (3, 2);
        BrokerClient one = BrokerClient.Connect(Server.SocketPath, "one");
        using BrokerClient two = BrokerClient.Connect(Server.SocketPath, "two");
        Assert.Equal(Errno.ECONNRESET, Refusal());
        two.OpenDevice("gpu0");
        if (FileStatus.CurrentUserId == 0)
        {
            // Another user has the room that is left for it, and no more than that.
            File.SetUnixFileMode(Root, File.GetUnixFileMode(Root) | UnixFileMode.OtherExecute);
            ForeignProgram other = Start(), second = Start();
            await other.OkAsync($"become {OtherUser}");
            await other.OkAsync($"connect {Server.SocketPath}");
            await second.OkAsync($"become {OtherUser}");
            Assert.StartsWith("error", await second.AskAsync($"connect {Server.SocketPath}"), StringComparison.Ordinal);
            other.Kill();
        }

        one.Dispose();
        await UntilAsync("its thread has ended", () => Server.ConnectionCount == 1);
        using BrokerClient three = BrokerClient.Connect(Server.SocketPath, "three");
        Assert.Equal(Errno.ECONNRESET, Refusal());
        Server.ConnectionsPerUserMax = 10;
        using BrokerClient four = BrokerClient.Connect(Server.SocketPath, "four");
        Assert.Equal(Errno.ECONNRESET, Refusal());
        four.OpenDevice("gpu0");
    }

    [Fact]
    public async Task A_program_that_says_nothing_more_is_answered_and_let_go()
    {
        ForeignProgram program = await StartAsync();
        await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync("half");
        await UntilAsync("it has nothing", () => AccountOf(program.Id, BrokerAccount.Connections) == 0);
        Assert.Null(Find("c"));

        // As the last of what it asks: the answer comes, and then the end.
        using Socket socket = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(Server.SocketPath), Cancellation);
        socket.Send(Hello());
        socket.Shutdown(SocketShutdown.Send);
        byte[] answer = new byte[128];
        Assert.Equal(BrokerMessage.HeaderBytes + 4, await socket.ReceiveAsync(answer, Cancellation));
        Assert.Equal(0, await socket.ReceiveAsync(answer, Cancellation));
        await UntilAsync("that is let go too", () => Server.ConnectionCount == 0);
        Assert.Equal(0, AccountOf(Environment.ProcessId, BrokerAccount.Connections));
    }

    private static byte[] Hello()
    {
        BrokerWriter body = BrokerMessage.Begin(
            new byte[128], new BrokerHeader(BrokerOperation.Hello, IsAnswer: false, Errno.Success, 1));
        body.WriteUInt32(BrokerMessage.Version);
        body.WriteUInt32(BrokerMessage.Version);
        body.WriteName("half");
        return body.Finish().ToArray();
    }

    private Errno Refusal() =>
        Assert.Throws<BrokerException>(() => BrokerClient.Connect(Server.SocketPath, "refused")).Errno;
}
