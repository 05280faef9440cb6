using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Leases;

/// <summary>What the peer may do with the memory.</summary>
public enum LeaseAccess
{
    Read,
    Write,
    ReadWrite,
}

/// <summary>One end of a connection, as the other end must know it.</summary>
/// <param name="Gid">Address of the port.</param>
/// <param name="UdpPort">Where it listens.</param>
/// <param name="QpNumber">The queue pair.</param>
/// <param name="Psn">The first PSN of its requests.</param>
/// <param name="PathMtuBytes">The largest payload it takes; both ends use the smaller one.</param>
public sealed record ConnectionEnd(Gid Gid, ushort UdpPort, uint QpNumber, uint Psn, int PathMtuBytes)
{
    /// <summary>
    /// The receive buffer of the socket as the kernel accounts it (SO_RCVBUF), so that the other end keeps less than
    /// that on its way; null when it is not known, and the system's default is assumed.
    /// </summary>
    public int? ReceiveBufferBytes { get; init; }

    /// <summary>
    /// How many packets it holds that come before their turn (<see cref="PeerProfile.FirstsAhead"/>); 0 for somebody
    /// who says nothing of it.
    /// </summary>
    public int FirstsAhead { get; init; }
}

/// <summary>What a peer asks for.</summary>
/// <param name="Access">What the key and the queue pair allow.</param>
/// <param name="Region">
/// <see cref="ImporterKind.Dynamic"/> follows the object when it moves; <see cref="ImporterKind.PinnedRevocable"/>
/// holds it in place. Both can be taken back.
/// </param>
/// <param name="Peer">The end that will use the memory.</param>
public sealed record LeaseRequest(LeaseAccess Access, ImporterKind Region, ConnectionEnd Peer)
{
    /// <summary>
    /// The port of the owner's NIC that the peer comes by; null is <see cref="NicHandle.PortTowards"/> of its address.
    /// </summary>
    public int? Port { get; init; }
}

/// <summary>
/// An owner's permission to reach one object over RDMA, which the owner can end: a registered region and the queue
/// pairs of one peer. Changed under the host lock.
/// </summary>
public sealed class Lease
{
    internal Lease(ulong id, DeviceObject o, NicHandle nic, LeaseRequest request, MemoryRegion region)
    {
        (Id, Target, Nic, Request, Region) = (id, o, nic, request, region);
    }

    public ulong Id { get; }

    public DeviceObject Target { get; }

    public LeaseRequest Request { get; }

    public MemoryRegion Region { get; }

    /// <summary>Our end of the first connection.</summary>
    public ConnectionEnd Local { get; internal set; } = null!;

    internal NicHandle Nic { get; }

    internal List<QueuePair> QueuePairs { get; } = [];

    /// <summary>Null until somebody ends the lease; completes when its region is deregistered.</summary>
    internal Task? Ending { get; set; }
}
