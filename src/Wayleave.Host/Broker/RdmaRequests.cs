using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core.Buffers;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Host.Leases;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests about RDMA NICs. A connection has a protection domain of its own on each, so that no peer of another
/// program reaches what it has registered. Each member is false for a body that is not that of its operation; then
/// nothing was done. Of the connection's thread.
/// </summary>
internal sealed class RdmaRequests(BrokerSession session)
{
    private const AccessFlags Known = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
        | AccessFlags.RemoteAtomic | AccessFlags.RelaxedOrdering;

    private readonly Dictionary<NicHandle, ProtectionDomain> _domains = [];

    public bool TryRegister(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint buffer)
            || !body.TryReadUInt32(out uint kind) || kind > (uint)ClientRegionKind.Pinned
            || !body.TryReadUInt32(out uint access) || ((AccessFlags)access & ~Known) != 0
            || !body.TryReadUInt64(out ulong offset) || !body.TryReadUInt64(out ulong lengthBytes) || !body.IsEnd)
        {
            return false;
        }

        NicHandle nic = FindNic(device, "register");
        BrokerBuffer found = session.FindBuffer(buffer, "register");

        // Addresses count from the start of the buffer, so that a peer needs no other than its offsets.
        MemoryRegionRequest request = new(offset, lengthBytes, offset, (AccessFlags)access, KindOf(kind));
        BrokerRegion made = BrokerRegion.Register(session, nic, DomainOf(nic), found, request);
        reply.Body.WriteUInt32(Number(made));
        reply.Body.WriteUInt32(made.Region.Key);
        return true;
    }

    public bool TryCreateQueuePair(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint device) || !body.IsEnd)
        {
            return false;
        }

        NicHandle nic = FindNic(device, "create a queue pair");
        BrokerQueuePair made = BrokerQueuePair.Create(session, nic, DomainOf(nic));
        reply.Body.WriteUInt32(Number(made));
        ConnectionEnd local = made.Local;
        Span<byte> gid = stackalloc byte[Gid.Size];
        local.Gid.WriteTo(gid);
        reply.Body.WriteBytes(gid);
        reply.Body.WriteUInt32(local.UdpPort);
        reply.Body.WriteUInt32(local.QpNumber);
        reply.Body.WriteUInt32(local.Psn);
        reply.Body.WriteUInt32((uint)local.PathMtuBytes);
        reply.Body.WriteUInt32((uint)(local.ReceiveBufferBytes ?? 0));
        return true;
    }

    public bool TryConnect(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadBytes(Gid.Size, out ReadOnlySpan<byte> gid)
            || !body.TryReadUInt32(out uint port) || port > ushort.MaxValue || !body.TryReadUInt32(out uint pair)
            || pair > 0xFFFFFF || !body.TryReadUInt32(out uint psn) || psn > 0xFFFFFF
            || !body.TryReadUInt32(out uint mtuBytes) || mtuBytes > 4096
            || !body.TryReadUInt32(out uint receiveBytes) || receiveBytes > int.MaxValue || !body.IsEnd)
        {
            return false;
        }

        ConnectionEnd peer = new(Gid.FromBytes(gid), (ushort)port, pair, psn, (int)mtuBytes)
        {
            ReceiveBufferBytes = receiveBytes == 0 ? null : (int)receiveBytes,
        };
        session.Find<BrokerQueuePair>(number, "connect", "queue pair").Connect(peer);
        return true;
    }

    private uint Number(IBrokerUse made)
    {
        try
        {
            return session.Add(made);
        }
        catch
        {
            made.End();
            throw;
        }
    }

    private NicHandle FindNic(uint number, string operation) =>
        session.Find<NicHandle>(number, operation, "RDMA NIC");

    private ProtectionDomain DomainOf(NicHandle nic)
    {
        if (!_domains.TryGetValue(nic, out ProtectionDomain? domain))
        {
            domain = nic.Device.CreateProtectionDomain();
            _domains.Add(nic, domain);
        }

        return domain;
    }

    private static ImporterKind KindOf(uint kind) => (ClientRegionKind)kind switch
    {
        ClientRegionKind.Dynamic => ImporterKind.Dynamic,
        ClientRegionKind.PinnedRevocable => ImporterKind.PinnedRevocable,
        _ => ImporterKind.Pinned,
    };
}
