using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs.Entries;

// The operations in the tables of a context: called by inline functions of verbs.h, on any thread, often. Nothing here
// throws or allocates. The structures are known to be ours; lists are not (WorkLists).

/// <summary>Posting and polling.</summary>
internal static unsafe class DataEntries
{
    [UnmanagedCallersOnly(EntryPoint = "wlv_post_send")]
    private static int PostSend(void* qp, ibv_send_wr* request, ibv_send_wr** bad)
    {
        VerbsQueuePair pair = NativeHandle.Of<VerbsQueuePair>(qp);
        Errno errno = WorkLists.PostSend(pair.Pair, request, out ibv_send_wr* refused);
        if (errno != Errno.Success && bad is not null)
        {
            *bad = refused;
        }

        pair.Device.Driver!.ProgressAfterPost();
        return (int)errno;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_post_recv")]
    private static int PostReceive(void* qp, ibv_recv_wr* request, ibv_recv_wr** bad)
    {
        VerbsQueuePair pair = NativeHandle.Of<VerbsQueuePair>(qp);
        Errno errno = pair.Shared is null
            ? WorkLists.PostReceive(pair.Pair, request, out ibv_recv_wr* refused)
            : WorkLists.Refuse(request, out refused);
        if (errno != Errno.Success && bad is not null)
        {
            *bad = refused;
        }

        if (pair.Pair.State == QueuePairState.Error)
        {
            pair.Device.Driver!.ProgressAfterPost(); // flushes what was posted
        }

        return (int)errno;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_post_srq_recv")]
    private static int PostSharedReceive(void* srq, ibv_recv_wr* request, ibv_recv_wr** bad)
    {
        VerbsSharedReceives shared = NativeHandle.Of<VerbsSharedReceives>(srq);
        Errno errno = WorkLists.PostReceive(shared.Queue, request, out ibv_recv_wr* refused);
        if (errno != Errno.Success && bad is not null)
        {
            *bad = refused;
        }

        return (int)errno;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_poll_cq")]
    private static int Poll(void* cq, int count, ibv_wc* completions)
    {
        if (count > 0 && completions is null)
        {
            return -(int)Errno.EINVAL;
        }

        VerbsCompletions queue = NativeHandle.Of<VerbsCompletions>(cq);
        int found = Completions.Poll(queue.Queue, count, completions, queue.Device.Level);
        if (found != 0 || queue.Device.Driver is not { } driver)
        {
            return found;
        }

        driver.TryProgress();
        return Completions.Poll(queue.Queue, count, completions, queue.Device.Level);
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_req_notify_cq")]
    private static int RequestNotify(void* cq, int solicitedOnly)
    {
        VerbsCompletions queue = NativeHandle.Of<VerbsCompletions>(cq);
        queue.Queue.RequestNotify(solicitedOnly != 0);
        queue.Device.Driver?.ExpectWait();
        return 0;
    }

    // ---- ibv_start_poll and its relatives: 0, ENOENT ----

    [UnmanagedCallersOnly(EntryPoint = "wlv_next_poll")]
    private static int NextPoll(void* cq, ulong* wrId, uint* status)
    {
        VerbsCompletions queue = NativeHandle.Of<VerbsCompletions>(cq);
        if (queue.Queue.Poll(queue.Current) == 0)
        {
            queue.Device.Driver?.TryProgress();
            if (queue.Queue.Poll(queue.Current) == 0)
            {
                return (int)Errno.ENOENT;
            }
        }

        (*wrId, *status) = (queue.Current[0].WrId, (uint)queue.Current[0].Status);
        return 0;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_current")]
    private static void Current(void* cq, ibv_wc* completion) =>
        Write(NativeHandle.Of<VerbsCompletions>(cq), completion);

    private static void Write(VerbsCompletions queue, ibv_wc* completion) =>
        Completions.Write(queue.Current[0], out *completion, queue.Device.Level);
}
