namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>What an Ethernet frame carries (<c>if_ether.h</c>); the values are those on the wire.</summary>
public enum EtherType : ushort
{
    IPv4 = 0x0800,
    Arp = 0x0806,

    /// <summary>An IEEE 802.1Q tag follows, and after it the type of what is carried.</summary>
    Vlan = 0x8100,

    IPv6 = 0x86DD,

    /// <summary>An outer tag of two (IEEE 802.1ad), which nothing here takes.</summary>
    ServiceVlan = 0x88A8,
}
