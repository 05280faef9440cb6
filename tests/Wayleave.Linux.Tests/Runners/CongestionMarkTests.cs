using System.Net;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Leases;
using Wayleave.Host.Objects;
using Wayleave.Host.Transfers;
using Xunit;

namespace Wayleave.Linux.Tests.Runners;

/// <summary>
/// ECN over real sockets: the sender's socket marks its packets as a congested router would, and everything else is the
/// NICs' own: the mark is read from the control message, a CNP goes back, and the sender obeys.
/// </summary>
public sealed class CongestionMarkTests
{
    private const int Bytes = 1 << 20;
    private const byte NotCapable = 0, CapableTransport = 2, CongestionExperienced = 3;

    private static CancellationToken Cancellation => TestContext.Current.CancellationToken;

    [Theory(Timeout = Patience.TestMs)]
    [InlineData("127.0.62.2", "127.0.62.3", CongestionControl.Dcqcn, CongestionExperienced, true)]
    [InlineData("::1", "::1", CongestionControl.Dcqcn, CongestionExperienced, true)]
    [InlineData("127.0.62.2", "127.0.62.3", CongestionControl.Dcqcn, CapableTransport, false)]
    [InlineData("127.0.62.2", "127.0.62.3", CongestionControl.Dcqcn, NotCapable, false)]
    [InlineData("127.0.62.2", "127.0.62.3", CongestionControl.Off, CongestionExperienced, false)]
    public async Task A_mark_on_the_path_is_answered_with_a_CNP_that_is_obeyed(
        string from, string to, CongestionControl control, byte trafficClass, bool isNotified)
    {
        await using WayleaveHost owner = await StartAsync(to, control, 0);
        await using WayleaveHost user = await StartAsync(from, control, trafficClass);
        DeviceObject lent = await owner.Objects.CreateAsync("gpu0", "lent", Bytes, StorageKind.Movable, Cancellation);
        DeviceObject local = await user.Objects.CreateAsync("gpu0", "local", Bytes, StorageKind.Movable, Cancellation);
        await using Connection connection = await Connection.OpenAsync(user.Nics[0], local);
        Lease lease = await owner.Leases.LendAsync(
            lent, new LeaseRequest(LeaseAccess.Write, ImporterKind.Dynamic, connection.Local));
        connection.Connect(lease.Local);
        BulkTransfer transfer = new(
            user.Nics[0].Driver, connection.QueuePair, connection.Completions, user.Context);
        WorkCompletionStatus status = await Task.Run(() => transfer.Run(
            BulkDirection.Write,
            new BulkRange(0, connection.Region.Key, lease.Region.Iova, lease.Region.Key, Bytes),
            Cancellation));
        Assert.Equal(WorkCompletionStatus.Success, status);
        if (isNotified)
        {
            RdmaPort sender = user.Nics[0].Device.Port; // the CNP may come behind the last acknowledgement
            Assert.True(SpinWait.SpinUntil(() => sender.Stats.NotificationsReceived > 0, Patience.Max));
        }

        RdmaStats there = owner.Nics[0].Device.Port.Stats, here = user.Nics[0].Device.Port.Stats;
        Assert.Equal(
            (isNotified, isNotified), (there.CongestionMarks > 0, there.NotificationsSent > 0));
        Assert.Equal((isNotified, 0L), (here.NotificationsReceived > 0, here.CongestionMarks));
        await owner.Leases.EndAsync(lease);
    }

    private static Task<WayleaveHost> StartAsync(string address, CongestionControl control, byte trafficClass) =>
        WayleaveHost.StartAsync(
            new HostConfig
            {
                Nvmes = [],
                Nics = [new NicConfig { Address = IPAddress.Parse(address), UdpPort = 0, Congestion = control }],
            },
            new WayleaveHostOptions { Socket = new UdpEndpointOptions { TrafficClass = trafficClass } });
}
