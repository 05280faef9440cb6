using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs.Interop;
using Wayleave.Linux;

namespace Wayleave.Ibverbs;

/// <summary>Addresses as C programs give and get them.</summary>
internal static unsafe class Paths
{
    /// <summary>
    /// Where a path leads. LIDs, service levels and rates mean nothing on RoCEv2 over a socket, and are not looked at;
    /// nor is the hop limit, unless it leads to a multicast group.
    /// </summary>
    /// <returns>EINVAL without a GRH, through another port than 1, or from an address that is not ours.</returns>
    public static Errno TryRead(in ibv_ah_attr attributes, out AddressVector address)
    {
        address = default;
        if (attributes.is_global == 0 || attributes.port_num != 1 || attributes.grh.sgid_index != 0)
        {
            return Errno.EINVAL;
        }

        Gid gid;
        fixed (byte* raw = attributes.grh.dgid.raw)
        {
            gid = Gid.FromBytes(new ReadOnlySpan<byte>(raw, Gid.Size));
        }

        address = To(gid) with { HopLimit = gid.IsMulticast ? attributes.grh.hop_limit : (byte)0 };
        return Errno.Success;
    }

    /// <summary>
    /// The vector to a peer. On the loopback it is one of ours, whose IPv4 identifications are known; elsewhere it may
    /// be anybody, and 16 bits of each ICRC are solved for the identification.
    /// </summary>
    public static AddressVector To(Gid gid)
    {
        bool isNear = new EndpointAddress(gid.High, gid.Low, AddressVector.RoceUdpPort).IsLoopback;
        IcrcMode mode = !gid.IsIPv4 ? IcrcMode.Full
            : isNear ? IcrcMode.OwnIdentification
            : IcrcMode.SolveIdentification;
        return new AddressVector(gid, Icrc: mode, KeepsSuperPackets: isNear);
    }

    /// <summary>The path of a queue pair.</summary>
    public static ibv_ah_attr Write(in AddressVector address)
    {
        ibv_ah_attr attributes = new() { is_global = 1, port_num = 1 };
        attributes.grh.hop_limit = 64;
        address.Destination.WriteTo(new Span<byte>(attributes.grh.dgid.raw, Gid.Size));
        return attributes;
    }
}
