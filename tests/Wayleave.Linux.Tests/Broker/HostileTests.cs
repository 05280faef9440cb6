using System.Net.Sockets;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Programs that would harm the host or others, and get no further than their own connection.</summary>
public sealed class HostileTests : BrokerTest
{
    private const int Size = 1 << 20;

    [Theory]
    [InlineData(2)]
    [InlineData(17)]
    [InlineData(253)]
    public async Task Descriptors_that_nobody_asked_for_are_closed_and_end_the_connection(int count)
    {
        ForeignProgram program = await StartAsync(), other = await StartAsync();
        int before = OpenDescriptors();
        await program.OkAsync($"flood {count}");
        string answer = await program.AskAsync("open gpu0");
        Assert.EndsWith(" gone", answer, StringComparison.Ordinal);
        await UntilAsync("they are closed", () => OpenDescriptors() < before);
        await other.OkAsync("open gpu0");
    }

    [Fact]
    public void Descriptors_of_other_kinds_stand_for_nothing_and_the_connection_goes_on()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("x", 4096);
        using ClientTimeline timeline = client.OpenTimeline("t");
        using ClientFence fence = timeline.MakeFence(1);
        using EventFd counter = new();
        using HandlePair pair = HandlePair.Create(), signal = HandlePair.CreateSignal();
        using DescriptorWatch watch = new();
        using Socket tcp = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        using FileStream file = File.OpenRead("/dev/zero"), self = File.OpenRead("/proc/self/status");
        FileDescriptor[] kinds =
        [
            counter.Descriptor, pair.Given, pair.Kept, signal.Given, signal.Kept, MemFd.Create("m", 4096),
            new((int)tcp.Handle, ownsHandle: false), new((int)file.SafeFileHandle.DangerousGetHandle(), false),
            new((int)self.SafeFileHandle.DangerousGetHandle(), false),
        ];
        foreach (FileDescriptor kind in kinds)
        {
            Assert.Equal(Errno.EINVAL, Refusal(() => client.Import(kind)));
            Assert.Equal(Errno.EINVAL, Refusal(() => client.ImportAndMap(kind, out _)));
            Assert.Equal(Errno.EINVAL, Refusal(() => client.ImportAndMap(kind, kind, out _)));
            Assert.Equal(Errno.EBADF, Refusal(() => client.Describe(ClientFence.FromDescriptor(kind))));
        }

        // And what stands for a fence is no buffer, nor the other way round.
        using FileDescriptor handle = buffer.Export();
        Assert.Equal(Errno.EINVAL, Refusal(() => other.Import(fence.Descriptor)));
        Assert.Equal(Errno.EBADF, Refusal(() => other.Describe(ClientFence.FromDescriptor(handle))));
        using ClientBuffer imported = other.Import(handle);
        Assert.Equal("x", imported.Name);
    }

    [Fact]
    public async Task A_child_that_has_the_connection_of_its_dead_parent_gets_nothing_by_it()
    {
        ForeignProgram program = await StartAsync();
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        int queue = await program.OkAsync("queue 1");
        int fence = await program.OkAsync($"spin {queue}");
        await program.OkAsync($"drop {fence}");
        await program.ForkAsync("fork keep");
        program.Kill();
        await UntilAsync("its account is closed", () => Server.Store.Programs.Count == 0);
        Assert.Equal(1, buffer - 1);
        Assert.Null(Find("c"));
    }

    [Fact]
    public void Who_says_nothing_or_half_of_it_keeps_nobody_waiting()
    {
        List<MessageSocket> silent = [];
        try
        {
            for (int i = 0; i < 12; i++)
            {
                MessageSocket socket = MessageSocket.Connect(Server.SocketPath);
                silent.Add(socket);
                if (i % 2 == 0)
                {
                    socket.Send([0x57, 0x4C, 0x42, 0x31, 200], []); // a datagram is whole: this is no message
                }
            }

            using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
            client.OpenDevice("gpu0").Allocate("x", 4096).Dispose();
        }
        finally
        {
            silent.ForEach(s => s.Dispose());
        }
    }

    [Fact]
    public void Who_says_no_hello_is_cut_off_and_who_has_may_be_silent()
    {
        using BrokerClient greeted = BrokerClient.Connect(Server.SocketPath, "silent");
        Server.Store.GreetingMax = TimeSpan.FromMilliseconds(20);
        using MessageSocket silent = MessageSocket.Connect(Server.SocketPath);
        Assert.Equal(Errno.Success, silent.Receive(new byte[100], out int length, out _));
        Assert.Equal(0, length);
        greeted.OpenDevice("gpu0");
    }

    [Fact]
    public async Task A_host_that_stops_does_not_wait_as_long_as_a_program_would()
    {
        ForeignProgram mapper = await StartAsync(), owner = await StartAsync();
        int buffer = await owner.OkAsync($"allocate 1 {Size} 0");
        int number = await mapper.OkAsync(
            $"import {await PassAsync(owner, await owner.OkAsync($"export {buffer}"), mapper)}");
        await mapper.OkAsync($"map {number} {Size}");
        Task<string> revoke = owner.AskAsync($"revoke {buffer} 3600000");
        await UntilAsync("it is under way", () => AccountOf(owner.Id, BrokerAccount.QuarantinedBytes) == Size);
        Server.Dispose();
        Assert.StartsWith("error ", await revoke, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_program_that_ends_while_it_waits_for_an_answer_leaves_nothing()
    {
        ForeignProgram mapper = await StartAsync(), owner = await StartAsync();
        int buffer = await owner.OkAsync($"allocate 1 {Size} 0");
        int handle = await owner.OkAsync($"export {buffer}");
        int number = await mapper.OkAsync($"import {await PassAsync(owner, handle, mapper)}");
        await mapper.OkAsync($"map {number} {Size}");
        Task<string> revoke = owner.AskAsync($"revoke {buffer} 100"); // waits, for somebody maps it
        owner.Kill();
        Assert.Equal("gone", await revoke);
        await UntilAsync("its connection is gone", () => AccountOf(owner.Id, BrokerAccount.Connections) == 0);
        await ExpectSettledLateAsync(mapper);
    }

    [Fact]
    public void A_closed_number_means_nothing_and_is_not_given_out_again()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        ClientBuffer first = gpu.Allocate("first", 4096);
        uint number = first.Number;
        first.Dispose();
        using ClientBuffer second = gpu.Allocate("second", 4096);
        Assert.NotEqual(number, second.Number);
        Assert.Equal(Errno.EBADF, Ask(client, BrokerOperation.Map, number));
        Assert.Equal(Errno.EBADF, Ask(client, BrokerOperation.Close, number));
        Assert.Equal(Errno.EBADF, Ask(client, BrokerOperation.Describe, 1)); // the device
        Assert.Equal(Errno.EBADF, Ask(client, BrokerOperation.Submit, second.Number, new byte[64]));
        Assert.Equal(Errno.EBADF, Ask(client, BrokerOperation.Unmap, second.Number));
    }

    private static Errno Refusal<T>(Func<T> action) => Assert.Throws<BrokerException>(() => { action(); }).Errno;

    private static Errno Ask(BrokerClient client, BrokerOperation operation, uint number, byte[]? more = null) =>
        Assert.Throws<BrokerException>(() => client.Ask("test", operation, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(number);
            body.WriteBytes(more ?? []);
        })).Errno;

    private async Task ExpectSettledLateAsync(ForeignProgram program)
    {
        program.KillAll();
        await UntilAsync("nobody has anything", () => Server.Store.Programs.Count == 0);
        Assert.Null(Find("c"));
    }

    private static int OpenDescriptors() => Directory.GetFiles("/proc/self/fd").Length;
}
