using System.Text.Json;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Objects;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>
/// Mappers that do what they can to keep memory: they write while it is withdrawn, have it in a child, at other
/// addresses or by another open file, and would seal it. Each is held against both ways of taking it back: quarantine
/// until the kernel says that nobody has it, and pages that are taken out from under it.
/// </summary>
public sealed class HostileMapperTests : BrokerTest
{
    private const int Seals = 0x2 | 0x4 | 0x8 | 0x10; // F_SEAL_SHRINK, GROW, WRITE, FUTURE_WRITE
    private const byte Next = 0x5E;

    public static TheoryData<string> Ways => ["writes", "child writes", "moved", "huge", "kept file", "reopened file"];

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Whatever_a_mapper_does_while_its_pages_are_withdrawn_the_next_owner_sees_none_of_it(string way)
    {
        (ForeignProgram mapper, ClientBuffer buffer, _, ulong size) = await LendAsync(way, ClientStorage.Withdrawable);
        JsonElement proof = JsonDocument.Parse(buffer.Revoke(TimeSpan.FromMilliseconds(50))).RootElement;
        Assert.Equal(
            ("Drained", true),
            (proof.GetProperty("grade").GetString(), proof.GetProperty("sufficient").GetBoolean()));
        JsonElement importer = Assert.Single(proof.GetProperty("importers").EnumerateArray());
        Assert.Equal("storage_replaced", importer.GetProperty("stopped_by").GetString());

        await UntilAsync("the memory is the device's", () => Find("lent") is null);
        DeviceObject next = await Host.Objects.CreateAsync("gpu0", "next", size, null, Cancellation);
        bool isClear = true;
        await Host.Objects.ForEachPieceAsync(
            next, (_, bytes) => isClear &= bytes.IndexOfAnyExcept((byte)0) < 0, Cancellation);
        Assert.True(isClear);
        await Host.Objects.ForEachPieceAsync(next, (_, bytes) => bytes.Fill(Next), Cancellation);
        for (int look = 0; look < 20; look++)
        {
            await mapper.OkAsync($"poke {4096 * look} 77");
            Assert.NotEqual(Next, await mapper.OkAsync($"peek {(4096 * look) + 100}"));
        }

        bool isSame = true;
        await Host.Objects.ForEachPieceAsync(
            next, (_, bytes) => isSame &= bytes.IndexOfAnyExcept(Next) < 0, Cancellation);
        Assert.True(isSame);
    }

    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Memory_that_is_not_withdrawn_stays_in_quarantine_until_the_last_way_to_it_is_closed(string way)
    {
        ulong before = UsedBytes();
        (ForeignProgram mapper, ClientBuffer buffer, int number, ulong size) =
            await LendAsync(way, ClientStorage.Mappable);
        JsonElement proof = JsonDocument.Parse(buffer.Revoke(TimeSpan.FromMilliseconds(20))).RootElement;
        Assert.False(proof.GetProperty("sufficient").GetBoolean());
        await mapper.OkAsync($"unmap {number} lie");
        await mapper.OkAsync($"close {number}");
        Server.Store.SettleAll();
        Assert.Equal(before + size, UsedBytes());
        using (Host.Context.Enter())
        {
            Assert.Equal(size, Host.Gpus[0].Device.Quarantine.Bytes);
        }

        mapper.KillAll();
        await UntilAsync("the memory is back", () => UsedBytes() == before);
    }

    [Fact]
    public async Task A_mapper_can_neither_seal_the_pages_nor_change_their_size_nor_keep_them_from_being_withdrawn()
    {
        (ForeignProgram mapper, ClientBuffer buffer, _, _) = await LendAsync("kept file", ClientStorage.Withdrawable);
        int file = _file;
        await mapper.RefusedAsync(Errno.EPERM, $"seal {file} {Seals}");
        await mapper.RefusedAsync(Errno.EPERM, $"seal {file} 8");
        await mapper.RefusedAsync(Errno.EPERM, $"truncate {file} 4096");
        await mapper.RefusedAsync(Errno.EPERM, $"truncate {file} 1000000000");
        JsonElement proof = JsonDocument.Parse(buffer.Revoke(TimeSpan.FromMilliseconds(20))).RootElement;
        Assert.Equal("Drained", proof.GetProperty("grade").GetString());

        // A mapping of the file that is made now is of what was punched out: zeros, and nobody else's.
        await mapper.OkAsync($"again {file}");
        Assert.Equal(0, await mapper.OkAsync("peek 4096"));
    }

    [Fact]
    public async Task A_file_that_is_opened_anew_by_a_descriptor_counts_as_one_that_was_sent()
    {
        ulong before = UsedBytes();
        ForeignProgram mapper = await StartAsync();
        int number = await mapper.OkAsync($"allocate 1 {1 << 20} 0");
        int file = await mapper.OkAsync($"map {number} {1 << 20} keep");
        string again = await mapper.AskAsync($"reopen {file}");
        Assert.SkipUnless(again.StartsWith("ok", StringComparison.Ordinal), $"the mode forbids it: {again}");
        await mapper.OkAsync($"drop {file}");
        await mapper.OkAsync($"unmap {number}");
        await mapper.OkAsync($"close {number}");
        Server.Store.SettleAll();
        Assert.Equal(before + (1 << 20), UsedBytes());
        await mapper.OkAsync($"drop {again.Split(' ')[1]}");
        await UntilAsync("the memory is back", () => UsedBytes() == before);
    }

    private int _file;

    // A program that has mapped all that is left of the GPU, in one of the ways.
    private async Task<(ForeignProgram Mapper, ClientBuffer Buffer, int Number, ulong Size)> LendAsync(
        string way, ClientStorage storage)
    {
        ForeignProgram mapper = await StartAsync();
        BrokerClient client = BrokerClient.Connect(Server.SocketPath, "owner");
        ulong free = (32UL << 20) - UsedBytes();
        ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("lent", free, storage);
        using FileDescriptor descriptor = buffer.Export();
        int number = await mapper.OkAsync($"import {await GiveAsync(mapper, descriptor)}");
        bool keeps = way is "kept file" or "reopened file";
        _file = await mapper.OkAsync($"map {number} {free} {(keeps ? "keep" : "")}");
        await mapper.OkAsync("poke 4096 55");
        switch (way)
        {
            case "writes":
            case "child writes":
                await mapper.ForkAsync("scribble 0");
                break;
            case "moved":
                await mapper.OkAsync("remap");
                break;
            case "huge":
                await mapper.OkAsync("huge");
                break;
            case "reopened file":
                string again = await mapper.AskAsync($"reopen {_file}");
                Assert.SkipUnless(again.StartsWith("ok", StringComparison.Ordinal), $"the mode forbids it: {again}");
                await mapper.OkAsync($"again {again.Split(' ')[1]}");
                break;
        }

        return (mapper, buffer, number, free);
    }
}
