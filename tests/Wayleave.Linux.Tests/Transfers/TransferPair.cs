using System.Net;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Transfers;

/// <summary>
/// Two hosts in this process, an object of one of them lent to the other, and the connection between them.
/// </summary>
public sealed class TransferPair : IAsyncDisposable
{
    public const ulong SizeBytes = 4 << 20;

    private readonly Connection _connection;
    private readonly Lease _lease;

    private TransferPair(WayleaveHost owner, WayleaveHost user, DeviceObject lent, Connection connection, Lease lease)
    {
        (Owner, User, Lent, _connection, _lease) = (owner, user, lent, connection, lease);
    }

    public WayleaveHost Owner { get; }

    public WayleaveHost User { get; }

    public DeviceObject Lent { get; }

    public Connection Connection => _connection;

    public Lease Lease => _lease;

    public BulkRange Range => new(0, _connection.Region.Key, _lease.Region.Iova, _lease.Region.Key, SizeBytes);

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    public static async Task<TransferPair> StartAsync(string ownerAddress, string userAddress)
    {
        WayleaveHost owner = await StartHostAsync(ownerAddress), user = await StartHostAsync(userAddress);
        DeviceObject lent = await owner.Objects
            .CreateAsync("gpu0", "lent", SizeBytes, StorageKind.Movable, Cancellation);
        DeviceObject local = await user.Objects
            .CreateAsync("gpu0", "local", SizeBytes, StorageKind.Movable, Cancellation);
        Connection connection = await Connection.OpenAsync(user.Nics[0], local);
        Lease lease = await owner.Leases.LendAsync(
            lent, new LeaseRequest(LeaseAccess.ReadWrite, ImporterKind.Dynamic, connection.Local));
        connection.Connect(lease.Local);
        return new TransferPair(owner, user, lent, connection, lease);
    }

    public BulkTransfer NewTransfer(TimeSpan stallMax) =>
        new(User.Nics[0].Driver, _connection.QueuePair, _connection.Completions, User.Context) { StallMax = stallMax };

    /// <summary>
    /// The owner invalidates its object, as a mover does, and keeps the reservation: nobody can map it again, and
    /// every access is answered RNR. Until what is returned is disposed.
    /// </summary>
    public IDisposable HoldLent()
    {
        using (Owner.Context.Enter())
        {
            AcquireTicket ticket = new(Owner.Context, "test");
            Assert.Equal(LockOutcomeKind.Acquired, Lent.Buffer.Reservation.TryLock(ticket).Kind);
            Lent.Buffer.InvalidateMappings(ticket);
            return new Hold(this, ticket);
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _connection.DisposeAsync();
        await User.DisposeAsync();
        await Owner.DisposeAsync();
    }

    private sealed class Hold(TransferPair pair, AcquireTicket ticket) : IDisposable
    {
        public void Dispose()
        {
            using (pair.Owner.Context.Enter())
            {
                pair.Lent.Buffer.Reservation.Unlock(ticket);
            }
        }
    }

    private static Task<WayleaveHost> StartHostAsync(string address) => WayleaveHost.StartAsync(new HostConfig
    {
        Nics = [new NicConfig { Address = IPAddress.Parse(address), UdpPort = 0 }],
        Gpus = [new GpuConfig { VramBytes = 16 << 20, SystemPoolBytes = 16 << 20 }],
    });
}
