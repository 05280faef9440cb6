using System.Net;
using Wayleave.Core;
using Xunit;

namespace Wayleave.Linux.Tests.Linux;

/// <summary>What we set up, ip(8) sees.</summary>
public sealed class NetworkInterfaceTests
{
    [Fact]
    public void An_interface_gets_its_mtu_and_addresses_and_is_on() => NetworkNamespace.Run(["link set lo up"], () =>
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        using TapDevice tap = TapDevice.Open("wl%d");
        Assert.True(NetworkInterface.Exists(tap.Name));
        NetworkInterface.SetUp(tap.Name, 9000);
        NetworkInterface.AddAddress(tap.Name, IPAddress.Parse("10.0.0.2"), 24);
        NetworkInterface.AddAddress(tap.Name, IPAddress.Parse("10.0.0.2"), 24); // twice is fine
        NetworkInterface.AddAddress(tap.Name, IPAddress.Parse("fd00::2"), 64);

        // It is there already.
        Assert.NotNull(NetworkNamespace.Ip($"addr add 10.0.0.2/24 dev {tap.Name}"));
        Assert.NotNull(NetworkNamespace.Ip($"addr add fd00::2/64 dev {tap.Name} nodad"));
        NetworkInterface.SetUp(tap.Name, mtuBytes: null);
    });

    [Fact]
    public void What_does_not_work_is_told_with_the_reason() => NetworkNamespace.Run(["link set lo up"], () =>
    {
        Assert.SkipUnless(Support.Tap.IsAvailable, Support.Tap.Detail);
        Assert.False(NetworkInterface.Exists("nosuch0"));
        Assert.Equal(Errno.ENODEV, Refused(() => NetworkInterface.SetUp("nosuch0", 1500)));
        using TapDevice tap = TapDevice.Open("wl%d");
        Assert.Equal(Errno.EINVAL, Refused(() => NetworkInterface.SetUp(tap.Name, 1 << 20)));
        Assert.Equal(Errno.EINVAL, Refused(() =>
            NetworkInterface.AddAddress(tap.Name, IPAddress.Parse("10.0.0.2"), 33)));
    });

    private static Errno Refused(Action call) => Assert.Throws<LinuxException>(call).Errno;
}
