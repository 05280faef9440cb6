using Wayleave.Client.Wire;
using Wayleave.Core.Fences;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host.Compute;
using Wayleave.Linux;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests about work of engines. Each member is false for a body that is not that of its operation; then nothing was
/// done. Of the connection's thread.
/// </summary>
internal sealed class EngineRequests(BrokerSession session)
{
    private readonly Dictionary<GpuHandle, BrokerContext> _contexts = [];

    public bool TryCopy(ref BrokerReader body, ref BrokerReply reply, FileDescriptor[] waits)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint source)
            || !body.TryReadUInt32(out uint target) || !body.TryReadUInt64(out ulong sourceOffset)
            || !body.TryReadUInt64(out ulong targetOffset) || !body.TryReadUInt64(out ulong lengthBytes)
            || !body.IsEnd)
        {
            return false;
        }

        const string Operation = "copy";
        GpuHandle gpu = FindGpu(device, Operation);
        BrokerCopy copy = new(
            session.FindBuffer(source, Operation),
            sourceOffset,
            session.FindBuffer(target, Operation),
            targetOffset,
            lengthBytes);
        IReadOnlyList<Fence> fences = session.Store.Syncs.FindAll(waits, Operation);
        Give(ref reply, session.Store.Copies.SubmitAsync(session.Program, gpu, copy, fences).GetAwaiter().GetResult());
        return true;
    }

    public bool TryOpenQueue(ref BrokerReader body, ref BrokerReply reply)
    {
        uint engine = (uint)GpuEngineKind.Compute;
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint priority)
            || priority is not ((uint)GpuPriority.Low or (uint)GpuPriority.Normal or (uint)GpuPriority.High)
            || (session.Version >= 2 && !body.TryReadUInt32(out engine))
            || engine is not ((uint)GpuEngineKind.Compute or (uint)GpuEngineKind.Copy)
            || !body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        BrokerContext context = ContextOf(FindGpu(device, $"open queue {name}"));
        BrokerQueue made = context.OpenQueue(name, (GpuPriority)priority, (GpuEngineKind)engine);
        try
        {
            reply.Body.WriteUInt32(session.Add(made));
        }
        catch
        {
            made.End();
            throw;
        }

        reply.Body.WriteUInt32((uint)context.Mode);
        return true;
    }

    public bool TryBind(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint buffer)
            || !body.TryReadUInt32(out uint access) || access > (uint)GpuAccess.ReadWrite || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer found = session.FindBuffer(buffer, "bind");
        ContextBuffer made = ContextOf(FindGpu(device, "bind")).Bind(found, (GpuAccess)access);
        reply.Body.WriteUInt32(made.Handle);
        reply.Body.WriteUInt64(made.Address);
        return true;
    }

    public bool TryUnbind(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint device) || !body.TryReadUInt32(out uint handle) || !body.IsEnd)
        {
            return false;
        }

        ContextOf(FindGpu(device, "unbind")).Unbind(handle);
        return true;
    }

    public bool TrySubmit(ref BrokerReader body, ref BrokerReply reply, FileDescriptor[] waits)
    {
        if (!body.TryReadUInt32(out uint number))
        {
            return false;
        }

        byte[] commands = body.ReadRest().ToArray();
        if (commands.Length == 0 || commands.Length % GpuCommand.SizeBytes != 0)
        {
            return false;
        }

        BrokerQueue queue = session.Find<BrokerQueue>(number, "submit", "queue");
        IReadOnlyList<Fence> fences = session.Store.Syncs.FindAll(waits, "submit");
        Give(ref reply, queue.Context.Submit(queue.Queue, commands, fences));
        return true;
    }

    /// <summary>The connection has ended: its work stops.</summary>
    public void End()
    {
        foreach (BrokerContext context in _contexts.Values)
        {
            session.End(context, () => context.End($"{session.Program.Holder} has closed its connection"));
        }
    }

    // The work goes on when there is no descriptor to be had; the program can only wait for the buffer's fences then.
    private void Give(ref BrokerReply reply, Fence fence) =>
        reply.Descriptor = session.Store.Syncs.Give(session.Program, fence, "hand out a fence");

    private BrokerContext ContextOf(GpuHandle gpu)
    {
        if (!_contexts.TryGetValue(gpu, out BrokerContext? context))
        {
            context = BrokerContext.Open(session, gpu);
            _contexts.Add(gpu, context);
        }

        return context;
    }

    private GpuHandle FindGpu(uint number, string operation) => session.Find<GpuHandle>(number, operation, "GPU");
}
