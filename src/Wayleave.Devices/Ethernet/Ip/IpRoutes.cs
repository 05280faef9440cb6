using Wayleave.Devices.Ethernet.Wire;
using Wayleave.Devices.Link;

namespace Wayleave.Devices.Ethernet.Ip;

/// <summary>The addresses of a host, and where packets go first.</summary>
internal sealed class IpRoutes
{
    private const ulong LinkLocalPrefix = 0xFE80_0000_0000_0000;
    private const ulong SolicitedNodeHigh = 0xFF02_0000_0000_0000;
    private const ulong SolicitedNodeLow = 0x0000_0001_FF00_0000;

    private readonly InterfaceAddress[] _addresses;
    private readonly IpAddress? _gatewayIPv4;
    private readonly IpAddress? _gatewayIPv6;

    public IpRoutes(IpHostOptions options)
    {
        List<InterfaceAddress> addresses = [.. options.Addresses];
        if (addresses.Exists(a => !a.Address.IsIPv4) && !addresses.Exists(a => a.Address.IsLinkLocal))
        {
            addresses.Add(new InterfaceAddress(LinkLocalOf(options.HardwareAddress), 64));
        }

        _addresses = [.. addresses];
        (_gatewayIPv4, _gatewayIPv6) = (options.GatewayIPv4, options.GatewayIPv6);
    }

    /// <summary>All of them, the link-local one that was made included.</summary>
    public ReadOnlySpan<InterfaceAddress> Addresses => _addresses;

    /// <summary>RFC 4291 2.5.6 and appendix A: fe80:: and the hardware address with ff:fe in its middle.</summary>
    public static IpAddress LinkLocalOf(MacAddress mac)
    {
        ulong flipped = mac.Value ^ (0x02UL << 40);
        return new IpAddress(
            LinkLocalPrefix, ((flipped >> 24) << 40) | 0xFF_FE00_0000 | (flipped & 0xFF_FFFF));
    }

    /// <summary>RFC 4291 2.7.1: the group that is asked for an address.</summary>
    public static IpAddress SolicitedNode(IpAddress address) =>
        new(SolicitedNodeHigh, SolicitedNodeLow | (address.Low & 0xFF_FFFF));

    /// <summary>RFC 2464 7: the Ethernet address of a group.</summary>
    public static MacAddress GroupMac(IpAddress group) => new(0x3333_0000_0000UL | (uint)group.Low);

    public bool IsOurs(IpAddress address)
    {
        foreach (ref readonly InterfaceAddress own in Addresses)
        {
            if (own.Address == address)
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>An IPv4 broadcast of the link.</summary>
    public bool IsBroadcast(IpAddress address)
    {
        if (!address.IsIPv4)
        {
            return false;
        }

        foreach (ref readonly InterfaceAddress own in Addresses)
        {
            if (own.Address.IsIPv4 && address.IPv4 == own.Broadcast)
            {
                return true;
            }
        }

        return address.IPv4 == uint.MaxValue;
    }

    /// <summary>Who gets a packet first: its destination on this link, or the gateway. False for nobody.</summary>
    public bool TryGetNextHop(IpAddress destination, out IpAddress hop)
    {
        hop = destination;
        foreach (ref readonly InterfaceAddress own in Addresses)
        {
            if (own.Contains(destination))
            {
                return true;
            }
        }

        if (destination.IsLinkLocal)
        {
            return true;
        }

        IpAddress? gateway = destination.IsIPv4 ? _gatewayIPv4 : _gatewayIPv6;
        hop = gateway ?? default;
        return gateway is not null;
    }

    /// <summary>
    /// Our address for a destination: of its network, else the first one of its family that reaches beyond the link.
    /// </summary>
    public bool TryGetSource(IpAddress destination, out IpAddress source)
    {
        source = default;
        foreach (ref readonly InterfaceAddress own in Addresses)
        {
            if (own.Contains(destination))
            {
                source = own.Address;
                return true;
            }
        }

        foreach (ref readonly InterfaceAddress own in Addresses)
        {
            if (own.Address.IsIPv4 == destination.IsIPv4 && !own.Address.IsLinkLocal)
            {
                source = own.Address;
                return true;
            }
        }

        return false;
    }
}
