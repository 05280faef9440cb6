using System.Net;
using System.Threading.Channels;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;
using Xunit;

namespace Wayleave.Linux.Tests.EndToEnd;

/// <summary>Connections whose host stops.</summary>
public class ConnectionEndTests
{
    [Fact]
    public async Task Nobody_waits_for_a_NIC_that_stopped()
    {
        string address = Loopback.NextAddress();
        WayleaveHost server = await StartAsync(address);
        WayleaveHost client = await StartAsync(Loopback.NextAddress());
        RdmaListener listener = server.Nics[0].Connections.Listen(7174);
        Task<RdmaConnectionRequest> accepting = listener.AcceptAsync(TestContext.Current.CancellationToken).AsTask();
        Rping rping = await Rping.OpenAsync(client, client.Nics[0]);
        Task<RdmaConnection> connecting = client.Nics[0].Connections.ConnectAsync(
            new IPEndPoint(IPAddress.Parse(address), 7174),
            rping.Pair,
            Rping.Parameters,
            TestContext.Current.CancellationToken);
        await accepting;
        Task<RdmaConnectionRequest> next = listener.AcceptAsync(TestContext.Current.CancellationToken).AsTask();
        await client.DisposeAsync(); // and with it the buffers
        await server.DisposeAsync();
        Assert.Equal(Errno.ECONNRESET, (await Assert.ThrowsAsync<WayleaveException>(() => connecting)).Errno);
        await Assert.ThrowsAsync<ChannelClosedException>(() => next);
    }

    [Fact]
    public async Task Who_is_refused_hears_why_and_what_the_application_said()
    {
        string address = Loopback.NextAddress();
        await using WayleaveHost server = await StartAsync(address);
        await using WayleaveHost client = await StartAsync(Loopback.NextAddress());
        using RdmaListener listener = server.Nics[0].Connections.Listen(7174);
        byte[] said = [.. Enumerable.Range(1, CmNotice.RejectPrivateDataMax).Select(i => (byte)i)];
        Task<RdmaConnectionRequest> accepting = listener.AcceptAsync(TestContext.Current.CancellationToken).AsTask();
        Task<ConnectionRefusedException> refused = ConnectAsync(client, address, 7174);
        RdmaConnectionRequest request = await accepting;
        Assert.Throws<ArgumentOutOfRangeException>(() => request.Reject(new byte[said.Length + 1]));
        request.Reject(said);
        ConnectionRefusedException answer = await refused;
        Assert.Equal((Errno.ECONNREFUSED, CmRejectReason.ConsumerDefined), (answer.Errno, answer.Refusal));
        Assert.Equal(said, answer.PrivateData.ToArray());
        answer = await ConnectAsync(client, address, 7175);
        Assert.Equal(CmRejectReason.InvalidServiceId, answer.Refusal);
    }

    // A busy machine gives this process no processor until the time for the answer is over.
    [Fact]
    public async Task That_nobody_has_the_port_is_heard_of_although_nobody_listened_in_time()
    {
        await using WayleaveHost client = await StartAsync(Loopback.NextAddress());
        IPAddress nobody = IPAddress.Parse(Loopback.NextAddress());
        string? why = null;
        for (int i = 0; why is null && i < 1000; i++) // the kernel may be late itself
        {
            why = await client.Nics[0].Connections.WhySilentAsync(
                nobody, TimeSpan.Zero, TestContext.Current.CancellationToken);
        }

        Assert.Equal($"its UDP port {client.Nics[0].Ports[0].UdpPort} is closed", why);
    }

    private static async Task<ConnectionRefusedException> ConnectAsync(WayleaveHost client, string peer, int port)
    {
        NicHandle nic = client.Nics[0];
        QueuePair pair = nic.CreateQueuePair(nic.Device.CreateProtectionDomain(), nic.CreateCompletionQueue(4));
        ConnectionRefusedException refused = await Assert.ThrowsAsync<ConnectionRefusedException>(
            () => nic.Connections.ConnectAsync(
                new IPEndPoint(IPAddress.Parse(peer), port),
                pair,
                cancellation: TestContext.Current.CancellationToken));
        nic.Destroy(pair);
        return refused;
    }

    private static Task<WayleaveHost> StartAsync(string address) => WayleaveHost.StartAsync(new HostConfig
    {
        Nics = [new NicConfig { Address = IPAddress.Parse(address) }],
    });
}
