using Wayleave.Client;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host;
using Wayleave.Host.Broker;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Broker;

/// <summary>Memory that programs register with a host's NIC, and a peer on another host that writes to it.</summary>
public sealed class RegionTests : BrokerTest
{
    private const int Size = 1 << 20;
    private const ClientRegionAccess Writable = ClientRegionAccess.LocalWrite | ClientRegionAccess.RemoteWrite
        | ClientRegionAccess.RemoteRead;

    [Theory]
    [InlineData(ClientStorage.Mappable, ClientRegionKind.Dynamic)]
    [InlineData(ClientStorage.Mappable, ClientRegionKind.Pinned)]
    [InlineData(ClientStorage.Withdrawable, ClientRegionKind.PinnedRevocable)]
    public async Task A_peer_writes_into_memory_that_a_program_registered_and_the_program_sees_it(
        ClientStorage storage, ClientRegionKind kind)
    {
        await using WayleaveHost peer = await WayleaveHost.StartAsync(Devices);
        DeviceObject source = await peer.Objects.CreateAsync("gpu0", "source", Size, null, Cancellation);
        await peer.Objects.ForEachPieceAsync(source, (_, bytes) => bytes.Fill(0x5A), Cancellation);
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "test");
        ClientDevice nic = client.OpenDevice("rdma0");
        Assert.Equal(0UL, nic.MemoryBytes);
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("x", Size, storage);
        using ClientRegion region = nic.Register(buffer, 4096, Size - 4096, Writable, kind);
        using ClientQueuePair pair = nic.CreateQueuePair();
        await using Connection connection = await ConnectAsync(peer, source, pair);
        Assert.Equal(WorkCompletionStatus.Success, Write(peer, connection, region.Key, 4096, Size - 4096));
        using ClientMapping mapping = buffer.Map();
        Assert.False(mapping.Memory.Span[4096..].ContainsAnyExcept((byte)0x5A));
        Assert.False(mapping.Memory.Span[..4096].ContainsAnyExcept((byte)0));
    }

    [Fact]
    public async Task A_key_reaches_its_range_and_nothing_of_another_connection()
    {
        await using WayleaveHost peer = await WayleaveHost.StartAsync(Devices);
        DeviceObject source = await peer.Objects.CreateAsync("gpu0", "source", Size, null, Cancellation);
        using BrokerClient client = BrokerClient.Connect(Server.SocketPath, "one");
        using BrokerClient other = BrokerClient.Connect(Server.SocketPath, "other");
        ClientDevice nic = client.OpenDevice("rdma0");
        using ClientBuffer buffer = client.OpenDevice("gpu0").Allocate("x", Size);
        using ClientRegion region = nic.Register(buffer, 4096, 4096, Writable);
        (ClientDevice, ulong)[] tries = [(nic, 0), (nic, 8192), (other.OpenDevice("rdma0"), 4096)];
        foreach ((ClientDevice device, ulong at) in tries)
        {
            using ClientQueuePair pair = device.CreateQueuePair();
            await using Connection connection = await ConnectAsync(peer, source, pair);
            Assert.Equal(
                WorkCompletionStatus.RemoteAccessError, Write(peer, connection, region.Key, at, 4096));
        }

        using ClientMapping mapping = buffer.Map();
        Assert.False(mapping.Memory.Span.ContainsAnyExcept((byte)0));
    }

    [Fact]
    public async Task The_owners_revoke_kills_the_key_and_a_registration_keeps_a_buffer_whose_number_is_closed()
    {
        await using WayleaveHost peer = await WayleaveHost.StartAsync(Devices);
        DeviceObject source = await peer.Objects.CreateAsync("gpu0", "source", Size, null, Cancellation);
        using BrokerClient owner = BrokerClient.Connect(Server.SocketPath, "owner");
        using BrokerClient user = BrokerClient.Connect(Server.SocketPath, "user");
        ClientDevice nic = user.OpenDevice("rdma0");
        using ClientBuffer lent = owner.OpenDevice("gpu0").Allocate("lent", Size, ClientStorage.Revocable);
        ClientBuffer taken;
        using (FileDescriptor descriptor = lent.Export())
        {
            taken = user.Import(descriptor);
        }

        BrokerException pinned = Assert.Throws<BrokerException>(
            () => nic.Register(taken, 0, Size, Writable, ClientRegionKind.Pinned));
        Assert.Equal(Errno.EOPNOTSUPP, pinned.Errno);
        ClientRegion region = nic.Register(taken, 0, Size, Writable);
        taken.Dispose();
        using ClientQueuePair pair = nic.CreateQueuePair();
        await using Connection connection = await ConnectAsync(peer, source, pair);
        Assert.Equal(WorkCompletionStatus.Success, Write(peer, connection, region.Key, 0, Size));
        Assert.Contains(
            "\"grade\":\"Retired\"", lent.Revoke(Patience.Max), StringComparison.Ordinal);
        Assert.Equal(WorkCompletionStatus.RemoteAccessError, Write(peer, connection, region.Key, 0, 4096));
        region.Dispose();
        lent.Dispose();
        await UntilAsync("the memory is back", () => Find("lent") is null);
    }

    [Fact]
    public async Task What_a_program_registered_ends_with_it()
    {
        ForeignProgram program = await StartAsync();
        int nic = await program.OkAsync("open rdma0");
        int buffer = await program.OkAsync($"allocate 1 {Size} 0");
        await program.OkAsync($"register {nic} {buffer} {Size}");
        await program.OkAsync($"pair {nic}");
        Assert.Equal(1, AccountOf(program.Id, BrokerAccount.Keys));
        Assert.Equal(1, AccountOf(program.Id, BrokerAccount.QueuePairs));
        await ExpectSettledAsync(program);
    }

    private static async Task<Connection> ConnectAsync(WayleaveHost peer, DeviceObject source, ClientQueuePair pair)
    {
        Connection connection = await Connection.OpenAsync(peer.Nics[0], source);
        Span<byte> gid = stackalloc byte[Gid.Size];
        ConnectionEnd local = connection.Local;
        local.Gid.WriteTo(gid);
        pair.Connect(new ClientRdmaEnd(
            gid.ToArray(),
            local.UdpPort,
            local.QpNumber,
            local.Psn,
            local.PathMtuBytes,
            local.ReceiveBufferBytes ?? 0));
        ClientRdmaEnd end = pair.Local;
        connection.Connect(new ConnectionEnd(
            Gid.FromBytes(end.Gid.Span), end.UdpPort, end.QueuePair, end.Psn, end.PathMtuBytes)
        {
            ReceiveBufferBytes = end.ReceiveBufferBytes,
        });
        return connection;
    }

    private static WorkCompletionStatus Write(
        WayleaveHost peer, Connection connection, uint key, ulong at, ulong lengthBytes) =>
        new BulkTransfer(connection.Nic.Driver, connection.QueuePair, connection.Completions, peer.Context)
            .Run(BulkDirection.Write, new BulkRange(0, connection.Region.Key, at, key, lengthBytes), Cancellation);
}
