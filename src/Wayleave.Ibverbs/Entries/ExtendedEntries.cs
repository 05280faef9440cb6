using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs.Entries;

/// <summary>The pointers of <c>struct ibv_qp_ex</c>: see <see cref="ExtendedPost"/>.</summary>
internal static unsafe class ExtendedEntries
{
    private const SendFlags Known = SendFlags.Fence | SendFlags.Signaled | SendFlags.Solicited;

    // struct ibv_qp_ex: VerbsLayoutTests compares these two with the header.
    internal const int WrIdOffset = 168;
    internal const int WrFlagsOffset = 176;

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_start")]
    private static void Start(byte* qp) => Of(qp).Start();

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_complete")]
    private static int Complete(byte* qp)
    {
        VerbsQueuePair pair = NativeHandle.Of<VerbsQueuePair>(qp);
        Errno errno = pair.Extended.Complete();
        pair.Device.Driver!.ProgressAfterPost();
        return (int)errno;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_abort")]
    private static void Abort(byte* qp) => Of(qp).Abort();

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_send")]
    private static void Send(byte* qp) => Of(qp).Begin(New(qp, WorkRequestOpcode.Send));

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_send_imm")]
    private static void SendImmediate(byte* qp, uint immediate) => Of(qp).Begin(
        New(qp, WorkRequestOpcode.SendWithImmediate) with
        {
            Immediate = BinaryPrimitives.ReverseEndianness(immediate),
        });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_send_inv")]
    private static void SendInvalidate(byte* qp, uint key) =>
        Of(qp).Begin(New(qp, WorkRequestOpcode.SendWithInvalidate) with { InvalidateKey = key });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_local_inv")]
    private static void LocalInvalidate(byte* qp, uint key) =>
        Of(qp).Begin(New(qp, WorkRequestOpcode.LocalInvalidate) with { InvalidateKey = key });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_rdma_read")]
    private static void Read(byte* qp, uint key, ulong address) =>
        Of(qp).Begin(New(qp, WorkRequestOpcode.RdmaRead) with { RKey = key, RemoteAddress = address });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_rdma_write")]
    private static void Write(byte* qp, uint key, ulong address) =>
        Of(qp).Begin(New(qp, WorkRequestOpcode.RdmaWrite) with { RKey = key, RemoteAddress = address });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_rdma_write_imm")]
    private static void WriteImmediate(byte* qp, uint key, ulong address, uint immediate) => Of(qp).Begin(
        New(qp, WorkRequestOpcode.RdmaWriteWithImmediate) with
        {
            RKey = key,
            RemoteAddress = address,
            Immediate = BinaryPrimitives.ReverseEndianness(immediate),
        });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_atomic_cmp_swp")]
    private static void CompareSwap(byte* qp, uint key, ulong address, ulong compare, ulong swap) => Of(qp).Begin(
        New(qp, WorkRequestOpcode.AtomicCompareSwap) with
        {
            RKey = key,
            RemoteAddress = address,
            CompareAdd = compare,
            Swap = swap,
        });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_atomic_fetch_add")]
    private static void FetchAdd(byte* qp, uint key, ulong address, ulong add) => Of(qp).Begin(
        New(qp, WorkRequestOpcode.AtomicFetchAdd) with { RKey = key, RemoteAddress = address, CompareAdd = add });

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_atomic_write")]
    private static void AtomicWrite(byte* qp, uint key, ulong address, byte* value)
    {
        ExtendedPost post = Of(qp);
        post.Begin(New(qp, WorkRequestOpcode.AtomicWrite) with { RKey = key, RemoteAddress = address });
        Append(post, value, sizeof(ulong));
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_bind_mw")]
    private static void Bind(byte* qp, void* window, uint key, ibv_mw_bind_info* info)
    {
        ExtendedPost post = Of(qp);
        if (window is null || info is null || info->mr is null)
        {
            post.Fail(Errno.EINVAL);
            return;
        }

        post.BeginBind(
            New(qp, WorkRequestOpcode.BindWindow),
            NativeHandle.Of<VerbsWindow>(window).Window,
            WorkLists.Bind(*info),
            key);
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_set_sge")]
    private static void SetPiece(byte* qp, uint key, ulong address, uint length)
    {
        Sge piece = new(address, length, key);
        Of(qp).SetPieces(new ReadOnlySpan<Sge>(in piece));
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_set_sge_list")]
    private static void SetPieces(byte* qp, nuint count, ibv_sge* list)
    {
        if (count > (nuint)Devices.Rdma.RdmaDevice.MaxSge || !WorkLists.IsCount((int)count, list))
        {
            Of(qp).Fail(Errno.EINVAL);
            return;
        }

        Of(qp).SetPieces(WorkLists.Pieces(list, (int)count));
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_set_inline_data")]
    private static void SetInline(byte* qp, void* data, nuint length) => Append(Of(qp), data, length);

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_set_inline_data_list")]
    private static void SetInlineList(byte* qp, nuint count, ibv_data_buf* list)
    {
        if (list is null && count != 0)
        {
            Of(qp).Fail(Errno.EINVAL);
            return;
        }

        for (nuint i = 0; i < count; i++)
        {
            Append(Of(qp), (void*)list[i].addr, (nuint)list[i].length);
        }
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_wr_set_ud_addr")]
    private static void SetAddress(byte* qp, void* address, uint number, uint key)
    {
        if (address is null)
        {
            Of(qp).Fail(Errno.EINVAL);
            return;
        }

        AddressHandle handle = NativeHandle.Of<VerbsAddress>(address).Handle;
        if (handle.Domain.Device != NativeHandle.Of<VerbsQueuePair>(qp).Domain.Domain.Device)
        {
            Of(qp).Fail(Errno.EINVAL);
            return;
        }

        Of(qp).SetAddress(handle, number, key);
    }

    private static ExtendedPost Of(byte* qp) => NativeHandle.Of<VerbsQueuePair>(qp).Extended;

    private static SendWorkRequest New(byte* qp, WorkRequestOpcode opcode) => new()
    {
        WrId = *(ulong*)(qp + WrIdOffset),
        Flags = (SendFlags)(*(uint*)(qp + WrFlagsOffset)) & Known,
        Opcode = opcode,
    };

    private static void Append(ExtendedPost post, void* data, nuint length)
    {
        if (length > WorkLists.InlineBytesMax || (length != 0 && data is null))
        {
            post.Fail(Errno.EINVAL);
            return;
        }

        post.AppendInline(new ReadOnlySpan<byte>(data, (int)length));
    }
}
