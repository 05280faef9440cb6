using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Interop;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Entries;

/// <summary>Channels, completion queues and shared receive queues. Results are errno numbers.</summary>
internal static unsafe class QueueEntries
{
    private const uint SharedMaxWr = 1 << 0; // IBV_SRQ_MAX_WR
    private const uint SharedLimit = 1 << 1; // IBV_SRQ_LIMIT

    [UnmanagedCallersOnly(EntryPoint = "wlv_create_channel")]
    private static nint CreateChannel(int descriptor) => NativeHandle.Make(
        new VerbsChannel(new EventFd(new FileDescriptor(descriptor, ownsHandle: false))));

    [UnmanagedCallersOnly(EntryPoint = "wlv_destroy_channel")]
    private static int DestroyChannel(nint handle)
    {
        if (NativeHandle.Get<VerbsChannel>(handle).IsUsed)
        {
            return (int)Errno.EBUSY;
        }

        NativeHandle.Free(handle);
        return 0;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_take_cq_event")]
    private static nint TakeEvent(nint handle) => NativeHandle.Get<VerbsChannel>(handle).Take();

    [UnmanagedCallersOnly(EntryPoint = "wlv_create_cq")]
    private static int CreateCompletions(
        nint context, int depth, nint channel, nint structure, nint* handle, int* actual) => Control.Run(() =>
    {
        VerbsContext owner = NativeHandle.Get<VerbsContext>(context);
        VerbsChannel? events = channel == 0 ? null : NativeHandle.Get<VerbsChannel>(channel);
        Errno errno = RdmaDevice.TryCreateCompletionQueue(depth, out CompletionQueue? queue, events?.Channel);
        if (errno == Errno.Success)
        {
            events?.Add(queue!, structure);
            VerbsCompletions made = new(owner, events, queue!, structure);
            owner.Device.Add(made);
            *handle = NativeHandle.Make(made);
            *actual = queue!.Depth;
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_resize_cq")]
    private static int ResizeCompletions(nint handle, int depth, int* actual) => Control.Run(() =>
    {
        VerbsCompletions queue = NativeHandle.Get<VerbsCompletions>(handle);
        Errno errno = Errno.EINVAL;
        queue.Device.WithToken(() => errno = queue.Queue.TryResize(depth));
        *actual = queue.Queue.Depth;
        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_modify_cq")]
    private static int Moderate(nint handle, ushort count, ushort microseconds) => Control.Run(() =>
    {
        VerbsCompletions queue = NativeHandle.Get<VerbsCompletions>(handle);
        EventModeration moderation = new(Math.Max((int)count, 1), TimeSpan.FromMicroseconds(microseconds));
        queue.Device.WithToken(() => queue.Queue.SetModeration(moderation));
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_destroy_cq")]
    private static int DestroyCompletions(nint handle)
    {
        VerbsCompletions queue = NativeHandle.Get<VerbsCompletions>(handle);
        if (queue.IsUsed)
        {
            return (int)Errno.EBUSY;
        }

        queue.Channel?.Remove(queue.Queue);
        queue.Device.Remove(queue);
        queue.Context.Forget(queue.Structure);
        return 0;
    }

    // Events that were taken are waited for between the two.
    [UnmanagedCallersOnly(EntryPoint = "wlv_free_handle")]
    private static void FreeHandle(nint handle) => NativeHandle.Free(handle);

    [UnmanagedCallersOnly(EntryPoint = "wlv_create_srq")]
    private static int CreateSharedReceives(nint domain, ibv_srq_attr* attributes, nint structure, nint* handle) =>
        Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        if (attributes->max_wr > int.MaxValue || attributes->max_sge > int.MaxValue)
        {
            return Errno.EINVAL;
        }

        Errno errno = Errno.EINVAL;
        VerbsSharedReceives? made = null;
        owner.Device.WithToken(() =>
        {
            errno = owner.Device.Machine.TryCreateSharedReceiveQueue(
                owner.Domain,
                (int)attributes->max_wr,
                Math.Max((int)attributes->max_sge, 1),
                out SharedReceiveQueue? queue);
            if (errno == Errno.Success)
            {
                made = new VerbsSharedReceives(owner, queue!, structure);
                owner.Device.Add(made);
            }
        });
        if (made is not null)
        {
            owner.Hold();
            *handle = NativeHandle.Make(made);
            Write(made.Queue, attributes);
        }

        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_modify_srq")]
    private static int ModifySharedReceives(nint handle, ibv_srq_attr* attributes, uint mask) => Control.Run(() =>
    {
        VerbsSharedReceives shared = NativeHandle.Get<VerbsSharedReceives>(handle);
        if ((mask & ~(SharedMaxWr | SharedLimit)) != 0
            || attributes->max_wr > int.MaxValue || attributes->srq_limit > int.MaxValue)
        {
            return Errno.EINVAL;
        }

        Errno errno = Errno.Success;
        if ((mask & SharedMaxWr) != 0)
        {
            shared.Domain.Device.WithToken(() => errno = shared.Queue.TryResize((int)attributes->max_wr));
        }

        return errno == Errno.Success && (mask & SharedLimit) != 0
            ? shared.Queue.SetLimit((int)attributes->srq_limit)
            : errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_srq")]
    private static void QuerySharedReceives(nint handle, ibv_srq_attr* attributes) =>
        Write(NativeHandle.Get<VerbsSharedReceives>(handle).Queue, attributes);

    [UnmanagedCallersOnly(EntryPoint = "wlv_srq_number")]
    private static uint SharedReceivesNumber(nint handle) =>
        NativeHandle.Get<VerbsSharedReceives>(handle).Queue.Number;

    [UnmanagedCallersOnly(EntryPoint = "wlv_destroy_srq")]
    private static int DestroySharedReceives(nint handle) => Control.Run(() =>
    {
        VerbsSharedReceives shared = NativeHandle.Get<VerbsSharedReceives>(handle);
        if (shared.IsUsed)
        {
            return Errno.EBUSY;
        }

        shared.Domain.Device.WithToken(() => shared.Domain.Device.Remove(shared));
        shared.Context.Forget(shared.Structure);
        shared.Domain.Release();
        return Errno.Success;
    });

    private static void Write(SharedReceiveQueue queue, ibv_srq_attr* attributes) => *attributes = new ibv_srq_attr
    {
        max_wr = (uint)queue.MaxWr,
        max_sge = (uint)queue.MaxSge,
        srq_limit = (uint)queue.Limit,
    };
}
