using System.Net;
using System.Threading.Channels;
using Wayleave.Core;
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
        WayleaveHost server = await StartAsync("127.79.3.1");
        WayleaveHost client = await StartAsync("127.79.3.2");
        RdmaListener listener = server.Nics[0].Connections.Listen(7174);
        Task<RdmaConnectionRequest> accepting = listener.AcceptAsync(TestContext.Current.CancellationToken).AsTask();
        Rping rping = await Rping.OpenAsync(client, client.Nics[0]);
        Task<RdmaConnection> connecting = client.Nics[0].Connections.ConnectAsync(
            new IPEndPoint(IPAddress.Parse("127.79.3.1"), 7174),
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

    private static Task<WayleaveHost> StartAsync(string address) => WayleaveHost.StartAsync(new HostConfig
    {
        Nics = [new NicConfig { Address = IPAddress.Parse(address) }],
    });
}
