using System.Net;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;
using Xunit;

namespace Wayleave.Linux.Tests.Control;

/// <summary>A host in this process with its control server, and a client of it.</summary>
public sealed class ServedHost : IAsyncDisposable
{
    private ServedHost(WayleaveHost host, ControlServer server, ControlClient client)
    {
        (Host, Server, Client) = (host, server, client);
    }

    public WayleaveHost Host { get; }

    public ControlServer Server { get; }

    public ControlClient Client { get; }

    public WlUrl UrlOf(string name, string device = "gpu0") => WlUrl.Create(
        Server.EndPoint.Address.ToString(), Server.EndPoint.Port, device, name);

    /// <summary>What the host wrote to its token file.</summary>
    public string Token => File.ReadAllText(Server.TokenFile!).Trim();

    /// <summary>Starts both on a loopback address and ports that the system chooses.</summary>
    /// <param name="folder">For its token and registration.</param>
    /// <param name="address">Of the host; one that no other test uses.</param>
    /// <param name="clock">Of the server's streams and timers.</param>
    /// <param name="options">Of the host.</param>
    /// <param name="devices">What it is made of besides; its name and the address of its NIC are as above.</param>
    public static async Task<ServedHost> StartAsync(
        ControlTestFolder folder,
        string address,
        TimeProvider clock,
        WayleaveHostOptions? options = null,
        HostConfig? devices = null)
    {
        HostConfig config = devices ?? ControlTestFolder.Config;
        config = config with
        {
            Name = "host-" + address,
            Nics = [config.Nics[0] with { Address = IPAddress.Parse(address), UdpPort = 0 }],
        };
        WayleaveHost host = await WayleaveHost.StartAsync(config, options);
        ControlServer server = await ControlServer.StartAsync(
            host, folder.ListenerOptions with { Clock = clock }, TestContext.Current.CancellationToken);
        WlUrl url = WlUrl.Create(server.EndPoint.Address.ToString(), server.EndPoint.Port);
        return new ServedHost(host, server, ControlClient.Open(url, folder.ClientOptions));
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await Server.DisposeAsync();
        await Host.DisposeAsync();
    }
}
