using System.Net.Sockets;
using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Host.Broker;
using Wayleave.Linux.Interop;
using Wayleave.Linux.Sharing;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Pages that come beside the descriptor of a buffer, and are mapped while the host is asked.</summary>
public sealed class PagesTests : BrokerTest
{
    private const int Size = (1 << 20) - 100; // its last page is not full

    public static TheoryData<string> Strangers =>
        ["another buffer", "memory of the sender", "no bytes", "file", "counter", "zero", "folder"];

    [Fact]
    public async Task Pages_that_came_with_a_buffer_are_its_memory_and_each_program_has_its_own_account()
    {
        ulong before = UsedBytes();
        using BrokerClient from = BrokerClient.Connect(Server.SocketPath, "from");
        ClientBuffer lent = from.OpenDevice("gpu0").Allocate("lent", Size);
        ClientMapping own = lent.Map(keepsPages: true);
        own.Memory.Span[^1] = 71;
        ForeignProgram to = await StartAsync();
        using (FileDescriptor handle = lent.Export())
        {
            int taken = await GiveAsync(to, handle);
            int pages = await GiveAsync(to, own.Pages!);
            await to.OkAsync($"importpaged {taken} {pages} {Size}");
            await to.OkAsync($"drop {taken}");
            await to.OkAsync($"drop {pages}");
        }

        Assert.Equal(71, await to.OkAsync($"peek {Size - 1}"));
        await to.OkAsync("poke 0 17");
        Assert.Equal(17, own.Memory.Span[0]);
        Assert.Equal(1, AccountOf(to.Id, BrokerAccount.Mappings));
        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));

        own.Dispose();
        lent.Dispose();
        Assert.Equal(0, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
        Assert.True(UsedBytes() > before);
        to.Kill();
        await UntilAsync("the memory is back", () => UsedBytes() == before);
    }

    [Fact]
    public void A_program_that_was_sent_both_maps_both_and_lets_go_of_both()
    {
        using BrokerClient from = BrokerClient.Connect(Server.SocketPath, "from");
        using BrokerClient to = BrokerClient.Connect(Server.SocketPath, "to");
        using ClientBuffer lent = from.OpenDevice("gpu0").Allocate("lent", Size);
        using ClientMapping own = lent.Map(keepsPages: true);
        using FileDescriptor handle = lent.Export();
        using (ClientBuffer imported = to.ImportAndMap(handle, own.Pages!, out ClientMapping mapping))
        {
            Assert.Equal(("lent", (ulong)Size, Size), (imported.Name, imported.SizeBytes, mapping.Memory.Length));
            mapping.Memory.Span[4097] = 9;
            Assert.Equal(9, own.Memory.Span[4097]);
            Assert.Equal(2, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
            mapping.Dispose();
        }

        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Buffers));
        using ClientMapping plain = lent.Map();
        Assert.Null(plain.Pages);
    }

    [Theory]
    [MemberData(nameof(Strangers))]
    public void Pages_that_are_not_the_buffers_are_refused_and_nothing_is_left_of_it(string kind)
    {
        using BrokerClient from = BrokerClient.Connect(Server.SocketPath, "from");
        using BrokerClient to = BrokerClient.Connect(Server.SocketPath, "to");
        ClientDevice gpu = from.OpenDevice("gpu0");
        using ClientBuffer lent = gpu.Allocate("lent", Size), other = gpu.Allocate("other", Size);
        using ClientMapping own = lent.Map(keepsPages: true), others = other.Map(keepsPages: true);
        using FileDescriptor handle = lent.Export(), stranger = Stranger(kind, others);
        long mappings = AccountOf(Environment.ProcessId, BrokerAccount.Mappings);
        BrokerException refused =
            Assert.Throws<BrokerException>(() => to.ImportAndMap(handle, stranger, out _));
        Assert.Equal(Errno.EINVAL, refused.Errno);
        Assert.Equal(mappings, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
        Assert.Equal(2, AccountOf(Environment.ProcessId, BrokerAccount.Buffers));

        // The connection goes on.
        using ClientBuffer imported = to.ImportAndMap(handle, own.Pages!, out ClientMapping mapping);
        mapping.Dispose();
    }

    [Fact]
    public void Who_believes_the_sender_maps_memory_that_is_no_device_s()
    {
        using BrokerClient from = BrokerClient.Connect(Server.SocketPath, "from");
        using BrokerClient to = BrokerClient.Connect(Server.SocketPath, "to");
        to.ChecksPages = false;
        using ClientBuffer lent = from.OpenDevice("gpu0").Allocate("lent", Size);
        using ClientMapping own = lent.Map();
        using FileDescriptor handle = lent.Export(), stranger = MemFd.Create("stranger", 1 << 20);
        using ClientBuffer imported = to.ImportAndMap(handle, stranger, out ClientMapping mapping);
        own.Memory.Span[0] = 5;
        Assert.Equal(0, mapping.Memory.Span[0]);
        mapping.Dispose();
    }

    [Theory]
    [InlineData(ClientStorage.Revocable)]
    [InlineData(ClientStorage.Fixed)]
    [InlineData(ClientStorage.Movable)]
    public void Storage_that_nobody_may_map_is_not_mapped_by_pages_either(ClientStorage storage)
    {
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice gpu = client.OpenDevice("gpu0");
        using ClientBuffer other = gpu.Allocate("other", Size), lent = gpu.Allocate("lent", Size, storage);
        using ClientMapping others = other.Map(keepsPages: true);
        using FileDescriptor handle = lent.Export();
        Assert.Equal(
            Errno.EOPNOTSUPP,
            Assert.Throws<BrokerException>(() => client.ImportAndMap(handle, others.Pages!, out _)).Errno);
        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
        Assert.Equal(2, AccountOf(Environment.ProcessId, BrokerAccount.Buffers));
        Assert.Throws<ObjectDisposedException>(() =>
        {
            FileDescriptor closed = others.Pages!;
            others.Dispose();
            client.ImportAndMap(handle, closed, out _);
        });
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_buffer_and_its_pages_in_a_socket_that_nobody_reads_are_alive(bool isRead)
    {
        ulong before = UsedBytes();
        string meeting = Path.Combine(Root, "meeting");
        using Socket listener = MessageSocket.Listen(meeting, 1);
        MessageSocket unread = MessageSocket.Connect(meeting);
        using (MessageSocket sender = new(await listener.AcceptAsync(Cancellation)))
        using (BrokerClient from = BrokerClient.Connect(Server.SocketPath, "from"))
        using (ClientBuffer lent = from.OpenDevice("gpu0").Allocate("lent", Size))
        using (ClientMapping own = lent.Map(keepsPages: true))
        using (FileDescriptor handle = lent.Export())
        {
            own.Memory.Span[7] = 7;
            Assert.Equal(Errno.Success, sender.Send([1], [handle, own.Pages!]));
        }

        // Whoever sent them has nothing any more, and what is under way is on its account.
        await UntilAsync("it has let go", () => Find("lent")!.Holders!.Numbers.Count == 0);
        Server.Store.SettleAll();
        Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Mappings));
        Assert.True(UsedBytes() > before);
        if (isRead)
        {
            using BrokerClient to = BrokerClient.Connect(Server.SocketPath, "to");
            Assert.Equal(Errno.Success, unread.Receive(new byte[2], out _, out FileDescriptor[] came));
            using ClientBuffer imported = to.ImportAndMap(came[0], came[1], out ClientMapping mapping);
            Array.ForEach(came, c => c.Dispose());
            Assert.Equal(7, mapping.Memory.Span[7]);
            Server.Store.SettleAll();
            Assert.Equal(1, AccountOf(Environment.ProcessId, BrokerAccount.Mappings)); // the importer's
            mapping.Dispose();
        }

        unread.Dispose();
        await UntilAsync("the memory is back", () => UsedBytes() == before);
        Assert.Null(Find("lent"));
    }

    private static FileDescriptor Stranger(string kind, ClientMapping others)
    {
        switch (kind)
        {
            case "another buffer":
                return Libc.fcntl_descriptor(others.Pages!, fcntl.F_DUPFD_CLOEXEC, 0);
            case "memory of the sender":
                return MemFd.Create("stranger", 1 << 20);
            case "counter":
                using (EventFd counter = new())
                {
                    return Libc.fcntl_descriptor(counter.Descriptor, fcntl.F_DUPFD_CLOEXEC, 0);
                }

            case "folder":
                return Libc.open_descriptor("/", fcntl.O_CLOEXEC, 0);
            case "zero":
                return Libc.open_descriptor("/dev/zero", fcntl.O_RDWR | fcntl.O_CLOEXEC, 0);
            default:
                string path = Path.GetTempFileName();
                File.WriteAllBytes(path, new byte[kind == "file" ? 1 << 20 : 0]);
                FileDescriptor file = Libc.open_descriptor(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0);
                File.Delete(path);
                return file;
        }
    }
}
