using System.Net;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Connections;

namespace Wayleave.Lab.Rdma;

/// <summary>
/// Either side of rping over our device: <c>server ADDRESS</c>, or <c>client ADDRESS PEER</c>, each 100 times 64 KiB.
/// </summary>
internal static class RpingPeer
{
    private const int Count = 100;

    public static int Run(string[] arguments) => RunAsync(arguments).GetAwaiter().GetResult();

    private static async Task<int> RunAsync(string[] arguments)
    {
        HostConfig config = new()
        {
            Gpus = [new GpuConfig { Name = "gpu0", VramBytes = 4 * GpuConfig.GranuleBytes, SystemPoolBytes = 0 }],
            Nvmes = [],
            Nics = [new NicConfig { Address = IPAddress.Parse(arguments[1]) }],
        };
        await using WayleaveHost host = await WayleaveHost.StartAsync(config);
        NicHandle nic = host.Nics[0];
        bool isServer = arguments[0] == "server";
        using RdmaListener? listener = isServer ? nic.Connections.Listen(Rping.DefaultPort) : null;
        await using Rping rping = await Rping.OpenAsync(host, nic);
        int count = listener is not null
            ? await ServeAsync(listener, rping)
            : await PingAsync(nic, rping, IPAddress.Parse(arguments[2]));
        Console.WriteLine(
            $"{arguments[0]}: {count} pings, {nic.Device.Port.Stats.Retransmits} packets sent again");
        return count == Count ? ExitCodes.Done : ExitCodes.Failed;
    }

    private static async Task<int> ServeAsync(RdmaListener listener, Rping rping)
    {
        Console.WriteLine("waiting");
        RdmaConnectionRequest request = await listener.AcceptAsync();
        await using RdmaConnection connection = await request.AcceptAsync(rping.Pair, Rping.Parameters);
        return await rping.RunServerAsync(connection);
    }

    private static async Task<int> PingAsync(NicHandle nic, Rping rping, IPAddress peer)
    {
        await using RdmaConnection connection = await nic.Connections.ConnectAsync(
            new IPEndPoint(peer, Rping.DefaultPort), rping.Pair, Rping.Parameters);
        await rping.RunClientAsync(Count, Rping.SizeMax);
        return Count;
    }
}
