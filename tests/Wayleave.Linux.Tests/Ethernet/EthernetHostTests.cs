using System.Net.Sockets;
using Wayleave.Core;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Ethernet;
using Wayleave.Host.Removal;
using Xunit;

namespace Wayleave.Linux.Tests.Ethernet;

/// <summary>An Ethernet NIC among the devices of a running host.</summary>
public sealed class EthernetHostTests
{
    private const ushort Port = 7480;

    [Fact]
    public void A_host_links_its_nic_to_the_kernel_and_the_interface_goes_with_it() => EthernetHost.Run(host =>
    {
        EthernetHandle nic = Assert.Single(host.Host.Ethernets);
        Assert.True(NetworkInterface.Exists(nic.Interface));
        using DevmemListener listener = nic.Nic.Listen(Port);
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        using Socket socket6 = KernelPeer.Connect(EthernetHost.OurIPv6, Port);
        socket.Send("hello"u8);
        ReceiveResult received = default;
        EthernetHost.Wait(async patience =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(patience);
            received = await connection.ReadAsync(new byte[64], new DevmemFragment[1], patience);
        });
        Assert.Equal(5, received.Bytes);
        host.Stop();
        Assert.False(NetworkInterface.Exists(nic.Interface));
    });

    [Fact]
    public void The_topology_knows_the_nic_and_how_it_reaches_the_memory_of_a_gpu() => EthernetHost.Run(host =>
    {
        EthernetHandle nic = host.Host.Ethernets[0];
        Assert.Same(nic.Function, host.Host.FindFunction("nic0"));
        PeerVerdict verdict = host.Host.VerdictFor(host.Host.Gpus[0], nic.Function);
        Assert.Equal((true, PeerMapType.BusAddress), (verdict.IsSupported, verdict.MapType));
    });

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_nic_that_is_pulled_out_leaves_the_bus_and_the_host_runs(bool isSurprise) => EthernetHost.Run(host =>
    {
        string name = host.Host.Ethernets[0].Interface;
        EthernetHost.Wait(async _ =>
        {
            RemovalResult result = await new DeviceRemoval(host.Host)
                .RunAsync("nic0", new RemovalRequest(isSurprise, Patience.Max));
            Assert.Empty(result.Late);
            WayleaveException again = await Assert.ThrowsAsync<WayleaveException>(() => new DeviceRemoval(host.Host)
                .RunAsync("nic0", new RemovalRequest(isSurprise, Patience.Max)));
            Assert.Equal(Errno.ENODEV, again.Errno);
        });
        Assert.False(NetworkInterface.Exists(name));
        Assert.Null(host.Host.FindFunction("nic0"));
        Assert.Equal(
            Errno.ENODEV, Assert.Throws<WayleaveException>(() => host.Host.Ethernets[0].Reset()).Errno);
    });

    [Fact]
    public void A_reset_starts_every_queue_anew_and_connections_go_on() => EthernetHost.Run(host =>
    {
        EthernetHandle nic = host.Host.Ethernets[0];
        using DevmemListener listener = nic.Nic.Listen(Port);
        using Socket socket = KernelPeer.Connect(EthernetHost.OurIPv4, Port);
        Assert.Equal(4, nic.Reset().Queues);
        socket.Send("after"u8);
        EthernetHost.Wait(async patience =>
        {
            await using DevmemConnection connection = await listener.AcceptAsync(patience);
            Assert.Equal(5, (await connection.ReadAsync(new byte[64], new DevmemFragment[1], patience)).Bytes);
        });
        Assert.All(nic.Nic.Device.Port.Queues, q => Assert.Equal(1, q.Stats.Resets));
    });

    [Fact]
    public void An_interface_that_cannot_be_had_stops_the_host_with_the_reason() =>
        Linux.NetworkNamespace.Run(["link set lo up"], () =>
        {
            WayleaveException e = Assert.Throws<WayleaveException>(() => EthernetHost
                .Start(EthernetHost.Config with { Ethernets = [new EthernetConfig { Tap = "lo" }] }));
            Assert.StartsWith("link nic0 to lo: ", e.Message, StringComparison.Ordinal);
        });

    [Fact]
    public void An_interface_that_was_given_is_left_as_it_is() => Linux.NetworkNamespace.Run(
        ["link set lo up", "tuntap add dev wl9 mode tap vnet_hdr", "link set wl9 mtu 1400"],
        () =>
        {
            EthernetConfig given = new() { Tap = "wl9", PeerAddresses = [] };
            WayleaveHost host = EthernetHost.Start(EthernetHost.Config with { Ethernets = [given] });
            Assert.Equal("wl9", host.Ethernets[0].Interface);
            host.DisposeAsync().AsTask().GetAwaiter().GetResult();
            Assert.True(NetworkInterface.Exists("wl9"));
            Assert.Equal("1400", NetworkMtu("wl9"));
        });

    // sysfs shows the namespace that it was mounted in; /proc/self/net is the process's. A thread has its own.
    private static string NetworkMtu(string name)
    {
        (_, string text) = KernelPeer.Execute("ip", $"-o link show {name}");
        return text.Split("mtu ")[1].Split(' ')[0];
    }
}
