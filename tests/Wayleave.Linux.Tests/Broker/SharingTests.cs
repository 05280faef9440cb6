using System.Text.Json;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Buffers that cross processes as descriptors.</summary>
public sealed class SharingTests : BrokerTest
{
    private const int Size = 1 << 20;

    [Fact]
    public async Task What_one_program_writes_another_reads_without_a_copy_and_the_device_sees_it()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        await one.OkAsync($"map {buffer} {Size}");
        Assert.Equal(0, await one.OkAsync("peek 12345"));
        await one.OkAsync("poke 12345 77");
        int descriptor = await one.OkAsync($"export {buffer}");
        string meeting = Path.Combine(Root, "meeting");
        await one.OkAsync($"offer {descriptor} {meeting}");
        int taken = await other.OkAsync($"take {meeting}");
        Assert.Equal($"ok 2 {Size}", await other.AskAsync($"import {taken}"));
        await other.OkAsync($"map 2 {Size}");
        Assert.Equal(77, await other.OkAsync("peek 12345"));
        await other.OkAsync("poke 54321 99");
        Assert.Equal(99, await one.OkAsync("peek 54321"));

        // The bytes are the GPU's: its own window shows them.
        BrokerBuffer shared;
        using (Host.Context.Enter())
        {
            shared = Assert.Single(Server.Store.Buffers.AllLocked);
        }

        Assert.True(shared.Memory.Addresses.TryLocate(54321, out Core.Topology.DeviceAddress at, out _));
        Core.Topology.DmaPort processor = new(Host.Fabric.Processor);
        Assert.Equal(Errno.Success, processor.TryRead(at, 1, out ReadOnlySpan<byte> seen));
        Assert.Equal(99, seen[0]);

        BufferHoldersDocument holders = Find("c")!.Holders!;
        Assert.Equal((one.Id, 2), (holders.Owner, holders.Mappings.Count));
        Assert.Equal(new[] { one.Id, other.Id }.Order(), holders.Numbers);
        Assert.Equal(new[] { one.Id, other.Id }.Order(), holders.Descriptors);
    }

    [Fact]
    public async Task Dup_fork_and_passing_on_keep_one_object_and_the_last_reference_releases_it_once()
    {
        ForeignProgram one = await StartAsync();
        ulong before = UsedBytes();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        int descriptor = await one.OkAsync($"export {buffer}");
        int duplicate = await one.OkAsync($"dup {descriptor}");
        int child = await one.ForkAsync();
        await one.OkAsync($"close {buffer}");
        await one.OkAsync($"drop {descriptor}");
        Assert.Equal([one.Id, child, child], Find("c")!.Holders!.Descriptors.Order());
        Assert.Equal($"ok 3 {Size}", await one.AskAsync($"import {duplicate}"));
        await one.OkAsync("close 3");
        await one.OkAsync($"drop {duplicate}");
        Assert.Equal([child, child], Find("c")!.Holders!.Descriptors);
        Assert.Equal(before + Size, UsedBytes());

        one.KillChild(child);
        await UntilAsync("the memory is back", () => UsedBytes() == before);
        Assert.Null(Find("c"));
    }

    [Theory]
    [InlineData("close")]
    [InlineData("kill")]
    [InlineData("hangup")]
    public async Task However_a_program_ends_what_it_had_alone_is_the_devices_again(string how)
    {
        ulong before = UsedBytes();
        ForeignProgram one = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        await one.OkAsync($"map {buffer} {Size}");
        await one.OkAsync($"export {buffer}");
        switch (how)
        {
            case "close":
                await one.OkAsync($"unmap {buffer}");
                await one.OkAsync("hangup");
                await one.OkAsync("drop 4");
                break;
            case "kill":
                one.Kill();
                break;
            default:
                await one.OkAsync("hangup"); // the mapping stays, and so does the memory
                await UntilAsync("the connection is gone", () => Find("c")!.Holders!.Numbers.Count == 0);
                Assert.Equal([one.Id], Find("c")!.Holders!.Mappings);
                one.Kill();
                break;
        }

        // The device has its bytes back in the hold of the lock before the broker forgets the buffer.
        await UntilAsync("the memory is back, and the buffer gone", () => UsedBytes() == before && Find("c") is null);
    }

    [Fact]
    public async Task Memory_that_somebody_still_maps_waits_in_quarantine_whoever_died_and_whatever_was_said()
    {
        ForeignProgram one = await StartAsync();
        ulong before = UsedBytes();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        await one.OkAsync($"map {buffer} {Size}");
        int child = await one.ForkAsync(); // which maps it too, and of whom the host was never told
        await one.OkAsync($"unmap {buffer} lie");
        await one.OkAsync($"close {buffer}");
        Assert.Equal(before + Size, UsedBytes());
        one.Kill();
        await UntilAsync("its death is known", () => Find("c")!.Holders!.Numbers.Count == 0);
        Server.Store.SettleAll();
        Assert.Equal(before + Size, UsedBytes());
        using (Host.Context.Enter())
        {
            Assert.Equal((ulong)Size, Host.Gpus[0].Device.Quarantine.Bytes);
        }

        one.KillChild(child);
        await UntilAsync("the memory is back", () => UsedBytes() == before);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_program_that_lies_about_its_mapping_reads_the_next_owners_bytes_only_if_believed(bool asks)
    {
        Server.Store.Mappings.AsksKernel = asks;
        ForeignProgram liar = await StartAsync();
        ulong free = (32UL << 20) - UsedBytes();
        int buffer = await liar.OkAsync($"allocate 1 {free} 0");
        await liar.OkAsync($"map {buffer} {free}");
        await liar.OkAsync($"unmap {buffer} lie");
        await liar.OkAsync($"close {buffer}");
        if (asks)
        {
            WayleaveException full = await Assert.ThrowsAsync<WayleaveException>(() =>
                Host.Objects.CreateAsync("gpu0", "next", 4096, null, Cancellation));
            Assert.Equal(Errno.ENOSPC, full.Errno);
            return;
        }

        await UntilAsync("the memory is back", () => Find("c") is null);
        DeviceObject next = await Host.Objects.CreateAsync("gpu0", "next", free, null, Cancellation);
        await Host.Objects.ForEachPieceAsync(next, (_, bytes) => bytes.Fill(0x5E), Cancellation);
        Assert.Equal(0x5E, await liar.OkAsync("peek 4096"));
    }

    [Fact]
    public async Task A_new_owner_finds_zeros_and_none_of_the_old_ones_reach_it()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {31 << 20} 0");
        await one.OkAsync($"map {buffer} {31 << 20}");
        await one.OkAsync("poke 4096 55");
        await one.OkAsync($"unmap {buffer}");
        await one.OkAsync($"close {buffer}");
        await UntilAsync("the memory is back", () => Find("c") is null);
        int next = await other.OkAsync($"allocate 1 {31 << 20} 0");
        await other.OkAsync($"map {next} {31 << 20}");
        Assert.Equal(0, await other.OkAsync("peek 4096"));
    }

    [Fact]
    public async Task Memory_that_can_be_taken_back_is_not_mapped()
    {
        ForeignProgram one = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 1");
        await one.RefusedAsync(Errno.EOPNOTSUPP, $"map {buffer} {Size}");
    }

    [Fact]
    public async Task A_program_reaches_only_what_it_opened_allocated_or_was_given()
    {
        ForeignProgram one = await StartAsync(), other = await StartAsync();
        int buffer = await one.OkAsync($"allocate 1 {Size} 0");
        await other.RefusedAsync(Errno.EBADF, $"export {buffer}");
        await other.RefusedAsync(Errno.EBADF, $"map {buffer} {Size}");
        await other.RefusedAsync(Errno.EINVAL, "import 0");
        await other.RefusedAsync(Errno.EINVAL, "import 3");
        await other.RefusedAsync(Errno.EBADF, $"allocate 9 {Size} 0");
        await other.RefusedAsync(Errno.ENODEV, "open gpu9");
    }

    [Fact]
    public async Task The_owner_takes_a_buffer_back_and_reads_the_proof()
    {
        ForeignProgram mapper = await StartAsync();
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("mine", Size);
        using (ClientMapping mapping = buffer.Map())
        {
            mapping.Memory.Span[7] = 1;
        }

        using FileDescriptor descriptor = buffer.Export();
        using ClientBuffer again = client.Import(descriptor);
        Assert.Equal(("mine", (ulong)Size, 3u), (again.Name, again.SizeBytes, again.Describe().References));
        Assert.Contains("\"grade\":\"Retired\"", buffer.Revoke(Patience.Max), StringComparison.Ordinal);
        Assert.True(buffer.Describe().IsRevoked);
        Assert.Equal(Errno.ENODEV, Assert.Throws<BrokerException>(() => client.Import(descriptor)).Errno);
        Assert.Equal(Errno.ENODEV, Assert.Throws<BrokerException>(again.Map).Errno);
        Assert.Equal("ok", (await mapper.AskAsync("hangup")));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_mapper_of_storage_that_was_withdrawn_sees_zeros_and_never_the_new_owners_bytes(bool replaces)
    {
        Server.Store.Mappings.ReplacesPages = replaces;
        ForeignProgram mapper = await StartAsync();
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "owner");
        ulong free = (32UL << 20) - UsedBytes();
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("lent", free, ClientStorage.Withdrawable);
        using FileDescriptor descriptor = buffer.Export();
        int taken = await GiveAsync(mapper, descriptor);
        int number = await mapper.OkAsync($"import {taken}");
        await mapper.OkAsync($"map {number} {free}");
        await mapper.OkAsync("poke 4096 55");

        using JsonDocument proof = JsonDocument.Parse(buffer.Revoke(TimeSpan.FromMilliseconds(50)));
        Assert.Equal("Drained", proof.RootElement.GetProperty("grade").GetString());
        Assert.True(proof.RootElement.GetProperty("sufficient").GetBoolean());
        JsonElement importer = Assert.Single(proof.RootElement.GetProperty("importers").EnumerateArray());
        Assert.Equal(
            ("storage_replaced", $"process {mapper.Id}"),
            (importer.GetProperty("stopped_by").GetString(), importer.GetProperty("holder").GetString()));
        Assert.False(importer.TryGetProperty("unmapped_at_us", out _));

        await UntilAsync("the memory is the device's", () => Find("lent") is null);
        DeviceObject next = await Host.Objects.CreateAsync("gpu0", "next", free, null, Cancellation);
        await Host.Objects.ForEachPieceAsync(next, (_, bytes) => bytes.Fill(0x5E), Cancellation);
        Assert.Equal(replaces ? 0 : 0x5E, await mapper.OkAsync("peek 4096"));
        await mapper.OkAsync("poke 4096 77");
        byte seen = 0;
        await Host.Objects.ForEachPieceAsync(next, 4096, 1, (_, bytes) => seen = bytes[0], Cancellation);
        Assert.Equal(replaces ? 0x5E : 77, seen);
        mapper.Kill();
        await UntilAsync("its account is closed", () => Server.Store.Programs.Count == 1);
    }

    [Fact]
    public void One_question_imports_and_maps_or_leaves_nothing_behind()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice device = client.OpenDevice("gpu0");
        using ClientBuffer buffer = device.Allocate("mine", Size);
        using ClientMapping own = buffer.Map();
        own.Memory.Span[77] = 7;
        using FileDescriptor descriptor = buffer.Export();
        using (ClientBuffer again = client.ImportAndMap(descriptor, out ClientMapping mapping))
        {
            Assert.Equal(("mine", (ulong)Size, 7), (again.Name, again.SizeBytes, mapping.Memory.Span[77]));
            mapping.Dispose();
        }

        Assert.Equal(2u, buffer.Describe().References);
        using ClientBuffer revocable = device.Allocate("revocable", Size, ClientStorage.Revocable);
        using FileDescriptor other = revocable.Export();
        Assert.Equal(
            Errno.EOPNOTSUPP, Assert.Throws<BrokerException>(() => client.ImportAndMap(other, out _)).Errno);
        Assert.Equal(2u, revocable.Describe().References);
    }

    [Fact]
    public void A_client_of_a_host_that_has_ended_is_told_so()
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice device = client.OpenDevice("gpu0");
        Server.Dispose();
        Assert.Equal(
            Errno.ECONNRESET, Assert.Throws<BrokerException>(() => device.Allocate("x", 4096)).Errno);
    }
}
