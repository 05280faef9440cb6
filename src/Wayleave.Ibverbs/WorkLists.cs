using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs;

// Runs on the program's threads inside ibv_post_send and the like: allocates nothing, throws nothing, takes no lock but
// the posting flag of the queue. What a structure says is not trusted where it leads out of itself: counts are checked
// before a list is read.

/// <summary>
/// Lists of work requests as C programs link them. One that is refused ends the list: those before it are posted, it is
/// <c>bad_wr</c>, and those behind it were not looked at.
/// </summary>
[System.Runtime.CompilerServices.SkipLocalsInit]
internal static unsafe class WorkLists
{
    /// <summary>The most that any queue pair carries inline (<see cref="DeviceAttributes.MaxInlineBytes"/>).</summary>
    public const int InlineBytesMax = 4096;

    private const SendFlags Known = SendFlags.Fence | SendFlags.Signaled | SendFlags.Solicited | SendFlags.Inline;

    /// <summary><c>ibv_post_send</c>.</summary>
    /// <param name="pair">Whose send queue.</param>
    /// <param name="request">The first of the list; null is an empty list.</param>
    /// <param name="bad">The one that was refused; null when none was.</param>
    /// <returns>As <see cref="QueuePair.PostSend(in SendWorkRequest, ReadOnlySpan{Sge})"/>.</returns>
    public static Errno PostSend(QueuePair pair, ibv_send_wr* request, out ibv_send_wr* bad)
    {
        SendPost post = pair.BeginSend();
        Errno errno = Errno.Success;
        for (bad = request; bad is not null; bad = bad->next)
        {
            errno = bad->opcode switch
            {
                (uint)WorkRequestOpcode.BindWindow => AddBind(ref post, bad),
                (uint)WorkRequestOpcode.Flush => Errno.EINVAL, // has no place in the structure
                _ => Add(ref post, pair, bad),
            };
            if (errno != Errno.Success)
            {
                break;
            }
        }

        post.Dispose();
        return errno;
    }

    /// <summary><c>ibv_post_recv</c>. As <see cref="PostSend"/>.</summary>
    public static Errno PostReceive(QueuePair pair, ibv_recv_wr* request, out ibv_recv_wr* bad)
    {
        for (bad = request; bad is not null; bad = bad->next)
        {
            Errno errno = IsCount(bad->num_sge, bad->sg_list)
                ? pair.PostReceive(new ReceiveWorkRequest(bad->wr_id), Pieces(bad->sg_list, bad->num_sge))
                : Errno.EINVAL;
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        return Errno.Success;
    }

    /// <summary><c>ibv_post_srq_recv</c>. As <see cref="PostSend"/>.</summary>
    public static Errno PostReceive(SharedReceiveQueue queue, ibv_recv_wr* request, out ibv_recv_wr* bad)
    {
        for (bad = request; bad is not null; bad = bad->next)
        {
            Errno errno = IsCount(bad->num_sge, bad->sg_list)
                ? queue.PostReceive(new ReceiveWorkRequest(bad->wr_id), Pieces(bad->sg_list, bad->num_sge))
                : Errno.EINVAL;
            if (errno != Errno.Success)
            {
                return errno;
            }
        }

        return Errno.Success;
    }

    /// <summary>A receive for a queue pair that takes from a shared queue has no place.</summary>
    public static Errno Refuse(ibv_recv_wr* request, out ibv_recv_wr* bad)
    {
        bad = request;
        return request is null ? Errno.Success : Errno.EINVAL;
    }

    /// <summary>The same bytes: <c>struct ibv_sge</c> and <see cref="Sge"/> have one layout.</summary>
    public static ReadOnlySpan<Sge> Pieces(ibv_sge* list, int count) => new(list, count);

    /// <summary>Whether a list can be that long, and is there.</summary>
    public static bool IsCount(int count, void* list) => count == 0 || (count > 0 && list is not null);

    private static Errno Add(ref SendPost post, QueuePair pair, ibv_send_wr* wr)
    {
        WorkRequestOpcode opcode = (WorkRequestOpcode)wr->opcode;
        bool isDatagram = pair.Type == QueuePairType.UnreliableDatagram;
        bool isAtomic = opcode is WorkRequestOpcode.AtomicCompareSwap or WorkRequestOpcode.AtomicFetchAdd;
        bool isCount = IsCount(wr->num_sge, wr->sg_list)
            && wr->num_sge <= Math.Max(pair.Capabilities.MaxSendSge, 1); // inline too: nobody reads further than that
        AddressHandle? to = isDatagram && wr->wr__ud__ah is not null
            ? NativeHandle.Of<VerbsAddress>(wr->wr__ud__ah).Handle
            : null;
        if (!isCount || (isDatagram && to?.Domain.Device != pair.Domain.Device))
        {
            return Errno.EINVAL;
        }

        SendFlags flags = (SendFlags)wr->send_flags & Known;
        SendWorkRequest request = new()
        {
            WrId = wr->wr_id,
            Opcode = opcode,
            Flags = flags & ~SendFlags.Inline,
            Immediate = BinaryPrimitives.ReverseEndianness(wr->imm_data),
            InvalidateKey = wr->invalidate_rkey,
            RemoteAddress = wr->wr__rdma__remote_addr,
            RKey = isAtomic ? wr->wr__atomic__rkey : wr->wr__rdma__rkey,
            CompareAdd = wr->wr__atomic__compare_add,
            Swap = wr->wr__atomic__swap,
            AddressHandle = to,
            RemoteQpNumber = wr->wr__ud__remote_qpn,
            RemoteQKey = wr->wr__ud__remote_qkey,
        };
        return (flags & SendFlags.Inline) == 0
            ? post.Add(request, Pieces(wr->sg_list, wr->num_sge))
            : AddInline(ref post, request, wr);
    }

    private static Errno AddInline(ref SendPost post, in SendWorkRequest request, ibv_send_wr* wr)
    {
        Span<byte> gathered = stackalloc byte[InlineBytesMax];
        int length = 0;
        for (int i = 0; i < wr->num_sge; i++)
        {
            ibv_sge piece = wr->sg_list[i];
            if (piece.length > InlineBytesMax - length)
            {
                return Errno.EINVAL;
            }

            new ReadOnlySpan<byte>((void*)piece.addr, (int)piece.length).CopyTo(gathered[length..]);
            length += (int)piece.length;
        }

        return post.AddInline(request, gathered[..length]);
    }

    private static Errno AddBind(ref SendPost post, ibv_send_wr* wr)
    {
        if (wr->bind_mw__mw is null || wr->bind_mw__bind_info.mr is null)
        {
            return Errno.EINVAL;
        }

        return post.AddBind(
            NativeHandle.Of<VerbsWindow>(wr->bind_mw__mw).Window,
            Bind(wr->bind_mw__bind_info),
            wr->wr_id,
            (SendFlags)wr->send_flags & Known,
            wr->bind_mw__rkey);
    }

    /// <summary>
    /// What a window is to be bound to; of a region that is there. Local write is nothing that a window could give,
    /// and the kernel's rxe takes it from whoever asks for it (<c>RXE_ACCESS_SUPPORTED_MW</c>).
    /// </summary>
    public static WindowBind Bind(in ibv_mw_bind_info info) => new(
        NativeHandle.Of<VerbsRegion>(info.mr).Region.Key,
        info.addr,
        info.length,
        (AccessFlags)info.mw_access_flags & ~AccessFlags.LocalWrite);
}
