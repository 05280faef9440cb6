using System.Net;
using Wayleave.Devices.Ethernet.Ip;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Objects;
using Wayleave.Linux.Tests.Linux;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>
/// A running host with an Ethernet NIC, in a network namespace that goes with the test. The kernel is 10.0.0.2 and
/// fd00::2, the NIC 10.0.0.1 and fd00::1.
/// </summary>
internal sealed class EthernetHost
{
    public const string OurIPv4 = "10.0.0.1";
    public const string OurIPv6 = "fd00::1";

    private bool _isStopped;

    private EthernetHost(WayleaveHost host) => Host = host;

    public static HostConfig Config { get; } = new()
    {
        Name = "tcp",
        Gpus = [new GpuConfig { VramBytes = 128 << 20, SystemPoolBytes = 128 << 20 }],
        Nics = [new NicConfig { Address = IPAddress.Loopback, UdpPort = 0 }],
        Nvmes = [],
        Ethernets =
        [
            new EthernetConfig
            {
                Addresses = [Parse("10.0.0.1/24"), Parse("fd00::1/64")],
                PeerAddresses = [Parse("10.0.0.2/24"), Parse("fd00::2/64")],
            },
        ],
    };

    public WayleaveHost Host { get; }

    /// <summary>Runs a test on the thread that is in the namespace; the host is stopped after it.</summary>
    public static void Run(Action<EthernetHost> body, HostConfig? config = null) =>
        NetworkNamespace.Run(["link set lo up"], () =>
        {
            EthernetHost host = new(Start(config ?? Config));
            try
            {
                body(host);
            }
            finally
            {
                host.Stop();
            }
        });

    /// <summary>Starts a host by the calling thread, whose namespace it is then in.</summary>
    public static WayleaveHost Start(HostConfig config)
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        return WayleaveHost.StartAsync(config).GetAwaiter().GetResult();
    }

    /// <summary>Waits for what goes on on other threads; cancelled when it takes longer than any test may.</summary>
    public static void Wait(Func<CancellationToken, Task> work)
    {
        using CancellationTokenSource patience = new(Patience.Max);
        Task.Run(() => work(patience.Token)).GetAwaiter().GetResult();
    }

    /// <summary>Makes <c>gpu0/out</c>, ready, with that content.</summary>
    public DeviceObject MakeObject(byte[] content)
    {
        DeviceObject? made = null;
        Wait(async patience =>
        {
            made = await Host.Objects.CreateAsync("gpu0", "out", (ulong)content.Length, null, patience);
            await Host.Objects.ForEachPieceAsync(
                made, (offset, bytes) => content.AsSpan((int)offset, bytes.Length).CopyTo(bytes), patience);
            await Host.Objects.CommitAsync(made, null);
        });
        return made!;
    }

    public void Stop()
    {
        if (!_isStopped)
        {
            _isStopped = true;
            Host.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }

    private static InterfaceAddress Parse(string text) =>
        InterfaceAddress.TryParse(text, out InterfaceAddress address) ? address : throw new FormatException(text);
}
