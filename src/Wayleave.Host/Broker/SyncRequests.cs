using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Linux;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests about fences that cross processes. Each member is false for a body that is not that of its operation; then
/// nothing was done.
/// </summary>
internal sealed class SyncRequests(BrokerSession session)
{
    // Of one answer; a merge of more is described by its count alone.
    private const int DescribedMax = 256;

    public bool TryExport(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint flags) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = session.FindBuffer(number, "export the fences of");
        reply.Descriptor = session.Store.Syncs.ExportFrom(session.Program, buffer, (BufferSync)flags);
        return true;
    }

    public bool TryImport(ref BrokerReader body, FileDescriptor descriptor)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint flags) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = session.FindBuffer(number, "import a fence into");
        session.Store.Syncs.ImportIntoAsync(buffer, (BufferSync)flags, descriptor).GetAwaiter().GetResult();
        return true;
    }

    public bool TryMerge(ref BrokerReader body, ref BrokerReply reply, FileDescriptor[] descriptors)
    {
        if (!body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        reply.Descriptor = session.Store.Syncs.Merge(session.Program, descriptors[0], descriptors[1], name);
        return true;
    }

    public bool TrySetDeadline(ref BrokerReader body, FileDescriptor descriptor)
    {
        if (!body.TryReadUInt64(out ulong nanoseconds) || !body.TryReadUInt64(out ulong padding) || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "set a deadline";
        SyncFile file = session.Store.Syncs.Find(descriptor)
            ?? throw new WayleaveException(Errno.EBADF, Operation, "it stands for no fence of this host");
        using (session.Host.Context.Enter())
        {
            // Of the engine's clock nothing is known there, and so it counts from now.
            TimeSpan deadline = nanoseconds <= long.MaxValue
                ? session.Host.Context.Now + TimeSpan.FromTicks((long)nanoseconds / TimeSpan.NanosecondsPerTick)
                : throw new WayleaveException(Errno.EINVAL, Operation, "it is too far away");
            Errno errno = file.TrySetDeadline(deadline, padding);
            return errno == Errno.Success
                ? true
                : throw new WayleaveException(errno, Operation, "the padding is not zero");
        }
    }

    public bool TryDescribe(ref BrokerReader body, ref BrokerReply reply, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        SyncFile file = session.Store.Syncs.Find(descriptor)
            ?? throw new WayleaveException(
                Errno.EBADF, "describe a fence", "the descriptor stands for no fence of this host");
        using (session.Host.Context.Enter())
        {
            file.TryGetInfo([], flags: 0, out SyncFileInfo whole).ThrowIfFailed("describe a fence");
            SyncFenceInfo[] parts = new SyncFenceInfo[Math.Max(1, whole.Count)];
            file.TryGetInfo(parts, flags: 0, out whole).ThrowIfFailed("describe a fence");
            reply.Body.WriteUInt32((uint)whole.Status);
            reply.Body.WriteUInt32(file.Fence.IsForced ? 1u : 0);
            reply.Body.WriteUInt32((uint)whole.Count);
            reply.Body.WriteNameCut(whole.Name);
            foreach (SyncFenceInfo part in parts.Take(Math.Min(whole.Count, DescribedMax)))
            {
                reply.Body.WriteNameCut(part.TimelineName);
                reply.Body.WriteNameCut(part.DriverName);
                reply.Body.WriteUInt32((uint)part.Status);
                reply.Body.WriteUInt64((ulong)part.Timestamp.Ticks * TimeSpan.NanosecondsPerTick);
            }
        }

        return true;
    }

    public bool TryOpenTimeline(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        BrokerTimeline made = BrokerTimeline.Open(session, name);
        try
        {
            reply.Body.WriteUInt32(session.Add(made));
        }
        catch
        {
            made.End();
            throw;
        }

        return true;
    }

    public bool TryMakeFence(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint value) || !body.IsEnd)
        {
            return false;
        }

        BrokerTimeline timeline = session.Find<BrokerTimeline>(number, "make a fence", "timeline");
        reply.Descriptor = session.Store.Syncs.Give(
            session.Program, timeline.MakeFence(value), $"make a fence of {timeline.Name}");
        return true;
    }

    public bool TryAdvance(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint count) || !body.IsEnd)
        {
            return false;
        }

        session.Find<BrokerTimeline>(number, "advance", "timeline").Advance(count);
        return true;
    }
}
