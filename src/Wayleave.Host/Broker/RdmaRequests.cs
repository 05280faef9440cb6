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

    private const SendFlags KnownFlags = SendFlags.Fence | SendFlags.Signaled | SendFlags.Solicited;
    private const uint WaitMsMax = 1000;
    private const int CompletionsMax = 64;

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
        FindPair(number, "connect").Connect(peer);
        return true;
    }

    public bool TryPost(ref BrokerReader body)
    {
        Span<Sge> pieces = stackalloc Sge[BrokerQueuePair.PiecesMax];
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint opcode)
            || opcode > (uint)WorkRequestOpcode.AtomicFetchAdd
            || !body.TryReadUInt32(out uint flags) || ((SendFlags)flags & ~KnownFlags) != 0
            || !body.TryReadUInt32(out uint immediate) || !body.TryReadUInt64(out ulong id)
            || !body.TryReadUInt64(out ulong address) || !body.TryReadUInt32(out uint key)
            || !body.TryReadUInt32(out uint zero) || zero != 0
            || !body.TryReadUInt64(out ulong compareAdd) || !body.TryReadUInt64(out ulong swap)
            || !TryReadPieces(ref body, pieces, out int count))
        {
            return false;
        }

        SendWorkRequest request = new()
        {
            WrId = id,
            Opcode = (WorkRequestOpcode)opcode,
            Flags = (SendFlags)flags,
            Immediate = immediate,
            RemoteAddress = address,
            RKey = key,
            CompareAdd = compareAdd,
            Swap = swap,
        };
        FindPair(number, "post a request").Post(request, pieces[..count]);
        return true;
    }

    public bool TryPostReceive(ref BrokerReader body)
    {
        Span<Sge> pieces = stackalloc Sge[BrokerQueuePair.PiecesMax];
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt64(out ulong id)
            || !TryReadPieces(ref body, pieces, out int count))
        {
            return false;
        }

        FindPair(number, "post a receive").PostReceive(id, pieces[..count]);
        return true;
    }

    public bool TryTakeCompletions(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint waitMs) || waitMs > WaitMsMax
            || !body.IsEnd)
        {
            return false;
        }

        WorkCompletion[] completions = new WorkCompletion[CompletionsMax];
        int count = FindPair(number, "take completions").Take(completions, TimeSpan.FromMilliseconds(waitMs));
        foreach (WorkCompletion completion in completions.AsSpan(0, count))
        {
            // Without success nothing else is defined, and what was there before is nobody's business.
            bool isDefined = completion.Status == WorkCompletionStatus.Success;
            reply.Body.WriteUInt64(completion.WrId);
            reply.Body.WriteUInt32((uint)completion.Status);
            reply.Body.WriteUInt32(isDefined ? (uint)completion.Opcode : 0);
            reply.Body.WriteUInt32(isDefined ? completion.ByteLength : 0);
            reply.Body.WriteUInt32(isDefined ? completion.Immediate : 0);
            reply.Body.WriteUInt32(isDefined ? (uint)completion.Flags : 0);
            reply.Body.WriteUInt32(0);
        }

        return true;
    }

    private static bool TryReadPieces(ref BrokerReader body, scoped Span<Sge> pieces, out int count)
    {
        for (count = 0; !body.IsEnd; count++)
        {
            if (count == pieces.Length || !body.TryReadUInt64(out ulong address)
                || !body.TryReadUInt32(out uint lengthBytes) || !body.TryReadUInt32(out uint key))
            {
                return false;
            }

            pieces[count] = new Sge(address, lengthBytes, key);
        }

        return true;
    }

    private BrokerQueuePair FindPair(uint number, string operation) =>
        session.Find<BrokerQueuePair>(number, operation, "queue pair");

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
