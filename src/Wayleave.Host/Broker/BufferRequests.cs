using System.Text.Json;
using Wayleave.Client;
using Wayleave.Client.Wire;
using Wayleave.Core;
using Wayleave.Core.Retirement;
using Wayleave.Host.Control;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

/// <summary>
/// Requests about devices and their memory. Each member is false for a body that is not that of its operation; then
/// nothing was done.
/// </summary>
internal sealed class BufferRequests(BrokerSession session)
{
    private WayleaveHost Host => session.Host;

    private BrokerStore Store => session.Store;

    private BrokerProgram Program => session.Program;

    public bool TryOpenDevice(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        object? device = Host.MemoryDevices.FirstOrDefault(d => d.Name == name && d.Presence.IsPresent)
            ?? (object?)Host.Nics.FirstOrDefault(n => n.Name == name && n.Presence.IsPresent);
        if (device is null)
        {
            IEnumerable<string> there = Host.MemoryDevices.Where(d => d.Presence.IsPresent).Select(d => d.Name)
                .Concat(Host.Nics.Where(n => n.Presence.IsPresent).Select(n => n.Name));
            throw new WayleaveException(
                Errno.ENODEV, $"open {name}", "the host has no such device", $"it has {string.Join(", ", there)}");
        }

        reply.Body.WriteUInt32(session.Add(device));
        using (Host.Context.Enter())
        {
            reply.Body.WriteUInt64(device switch
            {
                GpuHandle gpu => gpu.Device.Stats.VramTotalBytes,
                AcceleratorHandle accelerator => accelerator.Device.MemoryBytes,
                VfioHandle vfio => vfio.TotalBytes,
                NvmeHandle drive => drive.Function.PeerDevice?.Pool?.SizeBytes ?? 0,
                _ => 0,
            });
        }

        return true;
    }

    public bool TryAllocate(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint storage)
            || storage > (uint)ClientStorage.Movable
            || !body.TryReadUInt64(out ulong sizeBytes) || !body.TryReadName(out string name) || !body.IsEnd)
        {
            return false;
        }

        IObjectDevice device = session.Find<IObjectDevice>(number, $"allocate {name}", "device with memory");
        BrokerBuffer made = Store.Buffers
            .AllocateAsync(Program, device, name, sizeBytes, (ClientStorage)storage).GetAwaiter().GetResult();
        reply.Body.WriteUInt32(Number(made));
        return true;
    }

    public bool TryExport(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!TryFind(ref body, "export", out BrokerBuffer? buffer))
        {
            return false;
        }

        reply.Descriptor = Store.Buffers.Export(Program, buffer!);
        return true;
    }

    public bool TryImport(ref BrokerReader body, ref BrokerReply reply, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = Store.Buffers.Import(Program, descriptor);
        Describe(ref reply, (buffer, Number(buffer)));
        return true;
    }

    public bool TryMap(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = session.FindBuffer(number, "map");
        (reply.Descriptor, BrokerMapping mapping) = Store.Mappings.Map(Program, buffer);
        session.Add(number, mapping);
        return true;
    }

    public bool TryUnmap(ref BrokerReader body)
    {
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        Store.Mappings.LetGo(session.RemoveMapping(number));
        return true;
    }

    public bool TryImportAndMap(ref BrokerReader body, ref BrokerReply reply, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        FileDescriptor? pages = null;
        Describe(ref reply, ImportFor(descriptor, (buffer, number) =>
        {
            (pages, BrokerMapping mapping) = Store.Mappings.Map(Program, buffer);
            session.Add(number, mapping);
        }));
        reply.Descriptor = pages;
        return true;
    }

    // Whoever sent the program the buffer has sent the pages too, and the program maps them while it is asking. They
    // were on the sender's account until now; which they are the program hears from here.
    public bool TryImportWithPages(ref BrokerReader body, ref BrokerReply reply, FileDescriptor descriptor)
    {
        if (!body.IsEnd)
        {
            return false;
        }

        (BrokerBuffer buffer, uint number) = ImportFor(descriptor, (buffer, number) =>
            session.Add(number, Store.Mappings.Open(Program, buffer)));
        Describe(ref reply, (buffer, number));
        PagesIdentity identity = buffer.FixedPages!.Identity;
        reply.Body.WriteUInt64(identity.Device);
        reply.Body.WriteUInt64(identity.Inode);
        return true;
    }

    // Two steps, and all or nothing for the program: a map that is refused gives the number back.
    private (BrokerBuffer Buffer, uint Number) ImportFor(FileDescriptor descriptor, Action<BrokerBuffer, uint> map)
    {
        BrokerBuffer buffer = Store.Buffers.Import(Program, descriptor);
        uint number = Number(buffer);
        try
        {
            map(buffer, number);
            return (buffer, number);
        }
        catch
        {
            session.Remove(number);
            Store.Buffers.Close(Program, buffer);
            throw;
        }
    }

    private static void Describe(ref BrokerReply reply, (BrokerBuffer Buffer, uint Number) imported)
    {
        reply.Body.WriteUInt32(imported.Number);
        reply.Body.WriteUInt64(imported.Buffer.Shared.SizeBytes);
        reply.Body.WriteName(imported.Buffer.Shared.Name);
    }

    public bool TryDescribe(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!TryFind(ref body, "describe", out BrokerBuffer? buffer))
        {
            return false;
        }

        using (Host.Context.Enter())
        {
            reply.Body.WriteUInt64(buffer!.Shared.Id);
            reply.Body.WriteUInt64(buffer.Shared.SizeBytes);
            reply.Body.WriteUInt32(buffer.Shared.IsRevoked ? 1u : 0);
            reply.Body.WriteUInt32((uint)buffer.References);
        }

        return true;
    }

    public bool TryRevoke(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!body.TryReadUInt32(out uint number) || !body.TryReadUInt32(out uint timeoutMs) || !body.IsEnd)
        {
            return false;
        }

        BrokerBuffer buffer = session.FindBuffer(number, "revoke");
        if (!ReferenceEquals(buffer.Owner, Program))
        {
            throw new WayleaveException(
                Errno.EPERM, $"revoke {buffer.Shared.Name}", $"it belongs to {buffer.Owner.Holder}");
        }

        RevokePolicy policy = new()
        {
            Reason = $"taken back by {Program.Holder}",
            Timeout = TimeSpan.FromMilliseconds(Math.Min(timeoutMs, ControlEndpoints.RevokeTimeoutMsMax)),
        };
        // It may be given an hour; a host that stops does not wait for that, nor for a program that is dead.
        using CancellationTokenSource over =
            CancellationTokenSource.CreateLinkedTokenSource(Store.Stopping.Token, Program.Died.Token);
        Task<RetirementProof> proven = Store.Buffers.RevokeAsync(buffer, policy);
        try
        {
            Write(ref reply, proven.WaitAsync(over.Token).GetAwaiter().GetResult());
        }
        catch (OperationCanceledException)
        {
            throw new WayleaveException(Errno.ECANCELED, $"revoke {buffer.Shared.Name}", "the host stops");
        }

        return true;
    }

    public bool TryReadProof(ref BrokerReader body, ref BrokerReply reply)
    {
        if (!TryFind(ref body, "read the proof of", out BrokerBuffer? buffer))
        {
            return false;
        }

        RevokeOperation? revoke;
        RetirementProof? proof;
        using (Host.Context.Enter())
        {
            revoke = buffer!.Revoke ?? buffer.Memory.Freeing;
            proof = revoke?.Proof;
        }

        string operation = $"read the proof of {buffer!.Shared.Name}";
        Write(ref reply, proof ?? throw (revoke is null
            ? new WayleaveException(Errno.ENODATA, operation, "nobody has taken it back")
            : new WayleaveException(Errno.EAGAIN, operation, "it is being taken back")));
        return true;
    }

    /// <summary>A new number for a buffer that was allocated or imported; or none, and no reference.</summary>
    public uint Number(BrokerBuffer buffer)
    {
        try
        {
            return session.Add(buffer);
        }
        catch
        {
            Store.Buffers.Close(Program, buffer);
            throw;
        }
    }

    private bool TryFind(ref BrokerReader body, string operation, out BrokerBuffer? buffer)
    {
        buffer = null;
        if (!body.TryReadUInt32(out uint number) || !body.IsEnd)
        {
            return false;
        }

        buffer = session.FindBuffer(number, operation);
        return true;
    }

    private static void Write(ref BrokerReply reply, RetirementProof proof) => reply.Body.WriteText(
        JsonSerializer.Serialize(ProofDocument.From(proof), ControlJson.Default.ProofDocument));
}
