using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Linux;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests about rings. Each member is false for a body that is not that of its operation; then nothing was done. Of
/// the connection's thread.
/// </summary>
/// <param name="session">Of the connection.</param>
/// <param name="garbage">Ends the connection; called on a ring's thread.</param>
internal sealed class RingRequests(BrokerSession session, Action garbage)
{
    public bool TryOpen(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint slots) || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "open a ring";
        GpuHandle gpu = session.Find<GpuHandle>(device, Operation, "GPU");
        BrokerRing ring = Make(gpu, slots, Operation);
        try
        {
            reply.Body.WriteUInt32(session.Add(ring));
        }
        catch
        {
            ring.End();
            throw;
        }

        reply.Body.WriteUInt32((uint)ring.Slots);
        reply.Lent = ring.Descriptors;
        return true;
    }

    public bool TryAttach(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint ring) || !body.TryReadUInt32(out uint buffer) || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "attach to a ring";
        BrokerRing found = session.Find<BrokerRing>(ring, Operation, "ring");
        reply.Body.WriteUInt32(found.Copies.Attach(session.FindBuffer(buffer, Operation)));
        return true;
    }

    public bool TryDetach(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint ring) || !body.TryReadUInt32(out uint slot) || !body.IsEnd)
        {
            return false;
        }

        session.Find<BrokerRing>(ring, "detach from a ring", "ring").Copies.Detach(slot);
        return true;
    }

    public bool TryAttachQueue(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint ring) || !body.TryReadUInt32(out uint queue) || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "attach a queue to a ring";
        BrokerRing found = session.Find<BrokerRing>(ring, Operation, "ring");
        reply.Body.WriteUInt32(found.Jobs.Attach(session.Find<BrokerQueue>(queue, Operation, "queue")));
        return true;
    }

    public bool TryDetachQueue(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint ring) || !body.TryReadUInt32(out uint slot) || !body.IsEnd)
        {
            return false;
        }

        session.Find<BrokerRing>(ring, "detach from a ring", "ring").Jobs.Detach(slot);
        return true;
    }

    public bool TryExportFence(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint ring) || !body.TryReadUInt64(out ulong tag) || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "export a fence of a ring";
        Fence fence = session.Find<BrokerRing>(ring, Operation, "ring").FindFence(tag);
        reply.Descriptor = session.Store.Syncs.Give(session.Program, fence, Operation);
        return true;
    }

    private BrokerRing Make(GpuHandle gpu, uint slots, string operation)
    {
        HostContext context = session.Host.Context;
        using (context.Enter())
        {
            session.Program.Ledger.Take(BrokerAccount.Queues, operation);
        }

        try
        {
            RingFences fences = new(context);
            return new BrokerRing(
                context,
                new RingCopies(session, gpu, fences),
                new RingJobs(context, fences),
                fences,
                checked((int)slots),
                garbage,
                $"wayleave ring {session.Program.ProcessId}");
        }
        catch (Exception e)
        {
            using (context.Enter())
            {
                session.Program.Ledger.Give(BrokerAccount.Queues);
            }

            switch (e)
            {
                case ArgumentOutOfRangeException or OverflowException:
                    throw new WayleaveException(
                        Errno.EINVAL, operation, "it has a power of two of slots, from 2 to 4096");
                case LinuxException failed:
                    throw ErrnoMap.ToException(failed, operation);
                default:
                    throw;
            }
        }
    }
}
