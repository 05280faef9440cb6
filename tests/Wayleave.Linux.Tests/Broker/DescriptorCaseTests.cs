using System.Text.Json;
using Wayleave.Client;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Cases of dma-bufs on descriptors that programs of their own have: of buffers and of fences.</summary>
public sealed class DescriptorCaseTests : BrokerTest
{
    private const int Size = 64 << 10;
    private const int Patience = 30_000;

    [Fact]
    public async Task DBUF_03_The_last_descriptor_that_closes_releases_the_buffer_once()
    {
        ulong before = UsedBytes();
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0"), descriptor = await one.OkAsync($"export {buffer}");
        await one.OkAsync($"close {buffer}");
        Assert.Equal(before + Size, UsedBytes());
        await one.OkAsync($"drop {descriptor}");
        await UntilAsync("the memory is back", () => UsedBytes() == before);

        // A second release would give away what is another's by now.
        await other.OkAsync($"allocate 1 {Size} 0");
        one.Kill();
        await UntilAsync("its death is known", () => Server.Store.Programs.Count == 1);
        Assert.Equal(before + Size, UsedBytes());
    }

    [Fact]
    public async Task DBUF_04_A_buffer_lives_as_long_as_one_of_two_duplicates_in_whatever_process()
    {
        ulong before = UsedBytes();
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0"), descriptor = await one.OkAsync($"export {buffer}");
        int duplicate = await one.OkAsync($"dup {descriptor}"), passed = await PassAsync(one, descriptor, other);
        await one.OkAsync($"close {buffer}");
        await one.OkAsync($"drop {descriptor}");
        await one.OkAsync($"drop {duplicate}");
        await UntilAsync("one is left", () => Find("c")!.Holders!.Descriptors.SequenceEqual([other.Id]));
        Assert.Equal(before + Size, UsedBytes());
        await other.OkAsync($"drop {passed}");
        await UntilAsync("the memory is back", () => UsedBytes() == before);
    }

    [Fact]
    public async Task DBUF_05_A_number_that_is_not_open_is_EBADF_and_a_pipe_EINVAL()
    {
        ForeignProgram one = await StartAsync();
        await one.RefusedAsync(Errno.EINVAL, "import 0"); // its standard input
        await one.RefusedAsync(Errno.EBADF, "import 999");
    }

    [Fact]
    public async Task DBUF_20_Storage_that_must_be_revocable_refuses_who_cannot_be_made_to_stop_when_it_asks()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 1");
        int passed = await PassAsync(one, await one.OkAsync($"export {buffer}"), other);
        int number = await other.OkAsync($"import {passed}");
        await other.RefusedAsync(Errno.EOPNOTSUPP, $"map {number} {Size}");
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "pinner");
        using ClientBuffer revocable = client.OpenDevice("gpu0").Allocate("x", Size, ClientStorage.Revocable);
        ClientDevice nic = client.OpenDevice("rdma0");
        Assert.Equal(
            Errno.EOPNOTSUPP,
            Assert.Throws<BrokerException>(() => nic.Register(
                revocable, 0, Size, ClientRegionAccess.RemoteRead, ClientRegionKind.Pinned)).Errno);
    }

    [Fact]
    public async Task DBUF_22_A_revoke_does_not_complete_while_another_process_maps_the_buffer()
    {
        using BrokerClient owner = BrokerClient.Connect(Server.SocketPath, "owner");
        using BrokerClient looker = BrokerClient.Connect(Server.SocketPath, "looker");
        using ClientBuffer buffer = owner.OpenDevice("gpu0").Allocate("lent", Size);
        using FileDescriptor descriptor = buffer.Export();
        using ClientBuffer seen = looker.Import(descriptor);
        ForeignProgram mapper = await StartAsync();
        int number = await mapper.OkAsync($"import {await GiveAsync(mapper, descriptor)}");
        await mapper.OkAsync($"map {number} {Size}");
        Task<string> revoke = Task.Run(() => buffer.Revoke(TimeSpan.FromMilliseconds(Patience)), Cancellation);
        await UntilAsync("it is revoked", () => seen.Describe().IsRevoked);
        Assert.False(revoke.IsCompleted);
        await mapper.OkAsync($"unmap {number}");
        using JsonDocument proof = JsonDocument.Parse(await revoke);
        Assert.Equal("Retired", proof.RootElement.GetProperty("grade").GetString());
    }

    [Fact]
    public async Task DBUF_38_A_file_for_a_reader_does_not_wait_for_readers_and_one_for_a_writer_does()
    {
        (ForeignProgram producer, int fence, ForeignProgram one, int buffer, ForeignProgram other, int seen) =
            await MeetAsync();
        int target = await one.OkAsync($"allocate 1 {Size} 0");
        await one.OkAsync($"copy 1 {buffer} {target} 4096 {fence}");
        int forReader = await other.OkAsync($"sync-out {seen} 1");
        int forWriter = await other.OkAsync($"sync-out {seen} 2");
        Assert.Equal(1, await other.OkAsync($"wait {forReader} {Patience}"));
        Assert.Equal(0, await other.OkAsync($"wait {forWriter} 0"));
        producer.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {forWriter} {Patience}"));
        Assert.Equal(1, await other.OkAsync($"wait {forReader} 0"));
    }

    [Fact]
    public async Task DBUF_40_What_was_imported_for_reading_lets_readers_in_and_for_writing_nobody()
    {
        (ForeignProgram producer, int fence, ForeignProgram one, int buffer, ForeignProgram other, int seen) =
            await MeetAsync();
        await one.OkAsync($"sync-in {buffer} 1 {fence}");
        Assert.Equal(1, await other.OkAsync($"wait {await other.OkAsync($"sync-out {seen} 1")} {Patience}"));
        Assert.Equal(0, await other.OkAsync($"wait {await other.OkAsync($"sync-out {seen} 2")} 0"));
        await one.OkAsync($"sync-in {buffer} 2 {fence}");
        int forReader = await other.OkAsync($"sync-out {seen} 1");
        int forWriter = await other.OkAsync($"sync-out {seen} 2");
        Assert.Equal(0, await other.OkAsync($"wait {forReader} 0"));
        Assert.Equal(0, await other.OkAsync($"wait {forWriter} 0"));
        producer.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {forReader} {Patience}"));
        Assert.Equal(1, await other.OkAsync($"wait {forWriter} {Patience}"));
    }

    [Fact]
    public async Task DBUF_42_Other_flags_than_read_and_write_are_EINVAL_and_so_is_a_file_that_is_no_fence()
    {
        (_, int fence, ForeignProgram one, int buffer, _, _) = await MeetAsync();
        foreach (int flags in new[] { 0, 4 })
        {
            await one.RefusedAsync(Errno.EINVAL, $"sync-out {buffer} {flags}");
            await one.RefusedAsync(Errno.EINVAL, $"sync-in {buffer} {flags} {fence}");
        }

        await one.RefusedAsync(Errno.EINVAL, $"sync-in {buffer} 1 0"); // its standard input
    }

    [Theory]
    [InlineData(4096)]
    [InlineData(768 << 10)]
    public async Task DBUF_46_New_buffers_in_the_place_of_32_that_were_filled_and_closed_are_zero(int size)
    {
        ulong before = UsedBytes();
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < 32; i++)
            {
                ClientBuffer buffer = gpu.Allocate($"{i}", (ulong)size);
                using ClientMapping mapping = buffer.Map();
                Assert.Equal(-1, mapping.Memory.Span.IndexOfAnyExcept((byte)0));
                mapping.Memory.Span.Fill(0xFF);
                _open.Add(buffer);
            }

            _open.ForEach(b => b.Dispose());
            _open.Clear();
            await UntilAsync("the memory is back", () => UsedBytes() == before);
        }
    }

    [Fact]
    public async Task DBUF_51_While_a_job_of_another_program_writes_both_uses_wait_and_then_its_bytes_are_there()
    {
        (ForeignProgram producer, int fence, ForeignProgram one, int buffer, ForeignProgram other, int seen) =
            await MeetAsync();
        await other.OkAsync($"map {seen} {Size}");
        await WriteAsync(one, buffer, fence);
        int forReader = await other.OkAsync($"sync-out {seen} 1");
        int forWriter = await other.OkAsync($"sync-out {seen} 2");
        Assert.Equal(0, await other.OkAsync($"wait {forReader} 0"));
        Assert.Equal(0, await other.OkAsync($"wait {forWriter} 0"));
        Assert.Equal(0, await other.OkAsync("peek 4095"));
        producer.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {forReader} {Patience}"));
        Assert.Equal(7, await other.OkAsync("peek 4095"));
        Assert.Equal(1, await other.OkAsync($"wait {forWriter} {Patience}"));
    }

    [Fact]
    public async Task DBUF_53_A_job_on_a_buffer_that_another_program_produces_does_not_run_before_its_producer_signals()
    {
        (ForeignProgram producer, int fence, ForeignProgram one, int buffer, ForeignProgram other, int seen) =
            await MeetAsync();
        await WriteAsync(one, buffer, fence);
        int target = await other.OkAsync($"allocate 1 {Size} 0");
        await other.OkAsync($"map {target} {Size}");
        int copied = await other.OkAsync($"copy 1 {seen} {target} 4096"); // no fence is named: the buffer has it
        Assert.Equal(0, await other.OkAsync($"wait {copied} 0"));
        Assert.Equal(0, await other.OkAsync("peek 4095"));
        producer.Kill();
        Assert.Equal(1, await other.OkAsync($"wait {copied} {Patience}"));
        Assert.Equal(7, await other.OkAsync("peek 4095"));
    }

    private readonly List<ClientBuffer> _open = [];

    // A job that writes 7 to byte 4095 of a buffer, once the fence has signalled.
    private static async Task WriteAsync(ForeignProgram program, int buffer, int fence)
    {
        int source = await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync($"map {source} {Size}");
        await program.OkAsync("poke 4095 7");
        await program.OkAsync($"copy 1 {source} {buffer} 4096 {fence}");
    }

    // A program with work that ends when it dies; one that has the fence of that, and a buffer; one that has the
    // buffer.
    private async Task<(ForeignProgram Producer, int Fence, ForeignProgram One, int Buffer, ForeignProgram Other,
        int Seen)> MeetAsync()
    {
        ForeignProgram producer = await StartAsync(), one = await StartAsync(), other = await StartAsync();
        int endless = await producer.OkAsync($"spin {await producer.OkAsync("queue 1")}");
        int fence = await PassAsync(producer, endless, one);
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        int passed = await PassAsync(one, await one.OkAsync($"export {buffer}"), other);
        return (producer, fence, one, buffer, other, await other.OkAsync($"import {passed}"));
    }
}
