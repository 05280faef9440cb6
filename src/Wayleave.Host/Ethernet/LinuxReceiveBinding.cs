using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Topology;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Linux.Buffers;
using Wayleave.Linux.Devmem;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Ethernet;

// object --> pages of a memfd behind its VRAM --> dma-buf of those pages (udmabuf) --> NETDEV_CMD_BIND_RX
//        --> attached and mapped as a static importer, as the kernel's driver is one of the dma-buf
//
// and at the end the other way round. The kernel may keep the pages a little longer than the binding, until its page
// pools have drained and the last token is back; nothing here can see when. So the pages stay with the kernel: before
// the memory is let go of, the object gets others in their place, and what a NIC still writes lands where nobody looks.

/// <summary>A binding of the kernel's own devmem TCP. Not exercised on hardware. Called with no lock.</summary>
internal sealed class LinuxReceiveBinding : IReceiveBinding
{
    private readonly WayleaveHost _host;
    private readonly DeviceObject _object;
    private readonly Stack<Func<Task>> _undo;
    private bool _isDisposed;

    private LinuxReceiveBinding(WayleaveHost host, DeviceObject o, Stack<Func<Task>> undo) =>
        (_host, _object, _undo) = (host, o, undo);

    public uint Id { get; private init; }

    public required string Name { get; init; }

    public ulong LengthBytes => _object.Buffer.SizeBytes;

    public int ChunkBytes => Environment.SystemPageSize;

    public required IReadOnlyList<int> Queues { get; init; }

    public ImporterKind Kind => ImporterKind.Static;

    public PeerRoute Route { get; private init; }

    /// <summary>Never: nobody can make the kernel's NIC stop.</summary>
    public bool IsRevoked => false;

    /// <summary>Binds; after a refusal nothing is left of it.</summary>
    /// <param name="host">Of both.</param>
    /// <param name="nic">Of the kernel.</param>
    /// <param name="o">Of a GPU, and used by nobody yet: its bytes are zero afterwards.</param>
    /// <param name="request">Static, in chunks of pages.</param>
    /// <exception cref="WayleaveException">
    /// EOPNOTSUPP, EINVAL: what Linux has no binding for; EBUSY: the object is in use; ENODEV; or what udmabuf, the
    /// owner or the kernel say.
    /// </exception>
    public static async Task<LinuxReceiveBinding> BindAsync(
        WayleaveHost host, LinuxNicHandle nic, DeviceObject o, BindRequest request)
    {
        string operation = $"bind {o} to queue {string.Join(", ", request.Queues)} of {nic.Name}";
        uint index = Check(nic, o, request, operation);
        Stack<Func<Task>> undo = [];
        try
        {
            using FileDescriptor pages = Back(host, (GpuHandle)o.Owner, o, undo);
            Attachment attachment = await AttachAsync(host, nic, o, operation, undo).ConfigureAwait(false);
            using UdmabufDevice device = UdmabufDevice.Open();
            Errno errno = device.TryCreate(pages, 0, o.Buffer.SizeBytes, out DmaBuf? buffer);
            errno.ThrowIfFailed($"make a dma-buf of {o}");
            using (buffer)
            {
                NetdevSocket socket = NetdevSocket.Open();
                undo.Push(() =>
                {
                    socket.Dispose();
                    return Task.CompletedTask;
                });
                uint[] queues = [.. request.Queues.Select(q => (uint)q)];
                errno = socket.BindReceive(index, buffer!.Descriptor, queues, out uint id, out string? reason);
                return errno == Errno.Success
                    ? new LinuxReceiveBinding(host, o, undo)
                    {
                        Id = id,
                        Name = $"{nic.Name} binding {id}",
                        Queues = [.. request.Queues],
                        Route = RouteOf(nic, attachment),
                    }
                    : throw new WayleaveException(
                        errno,
                        operation,
                        reason ?? NetdevSocket.DescribeRefusal(errno),
                        "wayleave doctor says which NIC can");
            }
        }
        catch (LinuxException e)
        {
            await UndoAsync(undo).ConfigureAwait(false);
            throw ErrnoMap.ToException(e, operation);
        }
        catch
        {
            await UndoAsync(undo).ConfigureAwait(false);
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        if (!_isDisposed)
        {
            _isDisposed = true;
            await UndoAsync(_undo).ConfigureAwait(false);
            _host.Context.Trace("nic.binding_released", Name, Id);
        }
    }

    private static uint Check(LinuxNicHandle nic, DeviceObject o, BindRequest request, string operation)
    {
        if (request.Kind != ImporterKind.Static)
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP, operation, "Linux binds for good: nobody can make its NIC stop", "bind static");
        }

        if (request.ChunkBytes != Environment.SystemPageSize)
        {
            throw new WayleaveException(
                Errno.EINVAL, operation, $"chunks of Linux are pages of {Environment.SystemPageSize} bytes");
        }

        if (o is not { Owner: GpuHandle, Memory: GpuObjectMemory })
        {
            throw new WayleaveException(
                Errno.EOPNOTSUPP, operation, $"there is no dma-buf of memory of {o.Device}", "receive into a GPU");
        }

        uint index = NetworkInterface.FindIndex(nic.Interface);
        return index != 0
            ? index
            : throw new WayleaveException(Errno.ENODEV, operation, $"the kernel has no interface {nic.Interface}");
    }

    // Whoever attached before this would hold pages that are gone.
    private static FileDescriptor Back(WayleaveHost host, GpuHandle gpu, DeviceObject o, Stack<Func<Task>> undo)
    {
        GpuObjectMemory memory = (GpuObjectMemory)o.Memory;
        SharedPages pages;
        using (host.Context.Enter())
        {
            if (o.Buffer.Attachments.Count > 0 || o.Buffer.CpuMappings.Count > 0)
            {
                throw new WayleaveException(Errno.EBUSY, $"share the pages of {o}", "it is in use");
            }

            pages = gpu.BackLocked(memory.Buffer);
        }

        undo.Push(() =>
        {
            using (host.Context.Enter())
            {
                gpu.UnbackLocked(memory.Buffer);
            }

            pages.Dispose();
            return Task.CompletedTask;
        });
        return pages.OpenForOthers();
    }

    private static async Task<Attachment> AttachAsync(
        WayleaveHost host, LinuxNicHandle nic, DeviceObject o, string operation, Stack<Func<Task>> undo)
    {
        Attachment attachment = await NetBinding.BindAsync(
            host,
            o,
            operation,
            (AcquireTicket ticket, out Attachment? made) =>
            {
                using (host.Context.Enter())
                {
                    return AttachLocked(ticket, nic, o, out made);
                }
            }).ConfigureAwait(false);
        undo.Push(async () =>
        {
            AcquireTicket ticket;
            using (host.Context.Enter())
            {
                ticket = new AcquireTicket(host.Context, $"unbind {o} from {nic.Name}");
            }

            await o.Buffer.Reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
            using (host.Context.Enter())
            {
                attachment.UnmapLocked(ticket);
                o.Buffer.Detach(attachment);
                o.Buffer.Reservation.Unlock(ticket);
            }
        });
        return attachment;
    }

    // net_devmem_bind_dmabuf: dma_buf_attach without importer operations, then a map for the NIC to write.
    private static BindOutcome AttachLocked(
        AcquireTicket ticket, LinuxNicHandle nic, DeviceObject o, out Attachment? attachment)
    {
        Errno errno = o.Buffer.TryAttach(nic.Function, importer: null, out attachment);
        if (errno != Errno.Success)
        {
            return new BindOutcome(errno, null, $"{o.Device} does not let {nic.Name} attach: {errno}");
        }

        MapOutcome mapped = attachment!.MapLocked(ticket, DmaDirection.FromDevice);
        if (mapped.Kind == MapOutcomeKind.Mapped)
        {
            return new BindOutcome(Errno.Success, null, "");
        }

        o.Buffer.Detach(attachment);
        attachment = null;
        Fence? wait = mapped.Kind == MapOutcomeKind.MustWait ? mapped.Fence : null;
        return wait is not null
            ? new BindOutcome(Errno.EAGAIN, wait, "")
            : new BindOutcome(mapped.Errno, null, $"{o} cannot be mapped for {nic.Name}: {mapped.Errno}");
    }

    private static PeerRoute RouteOf(LinuxNicHandle nic, Attachment attachment) =>
        new DmaPort(nic.Function).TryRoute(attachment.Addresses!.Entries[0].Start, out PeerRoute route)
            ? route
            : PeerRoute.HostMemory;

    private static async Task UndoAsync(Stack<Func<Task>> undo)
    {
        while (undo.TryPop(out Func<Task>? step))
        {
            await step().ConfigureAwait(false);
        }
    }
}
