using System.Runtime.InteropServices;

namespace Wayleave.Lab.Interop;

/// <summary>
/// libibverbs, by its C ABI: the calls that are functions, and the three that its header inlines, which go through the
/// table of the context. Used only to speak to a kernel's RDMA device; nothing of the product needs it.
/// </summary>
internal static unsafe partial class Verbs
{
    internal const int QpTypeRc = 2;
    internal const int QpTypeUc = 3;
    internal const int QpTypeUd = 4;

    internal const int StateInit = 1;
    internal const int StateReadyToReceive = 2;
    internal const int StateReadyToSend = 3;

    internal const int AccessLocalWrite = 1;
    internal const int AccessRemoteWrite = 2;
    internal const int AccessRemoteRead = 4;
    internal const int AccessRemoteAtomic = 8;
    internal const int AccessRemote = AccessRemoteWrite | AccessRemoteRead | AccessRemoteAtomic;

    internal const int MaskState = 1 << 0;
    internal const int MaskAccess = 1 << 3;
    internal const int MaskPKey = 1 << 4;
    internal const int MaskPort = 1 << 5;
    internal const int MaskQKey = 1 << 6;
    internal const int MaskAddress = 1 << 7;
    internal const int MaskPathMtu = 1 << 8;
    internal const int MaskTimeout = 1 << 9;
    internal const int MaskRetry = 1 << 10;
    internal const int MaskRnrRetry = 1 << 11;
    internal const int MaskRqPsn = 1 << 12;
    internal const int MaskReadAtomic = 1 << 13;
    internal const int MaskRnrTimer = 1 << 15;
    internal const int MaskSqPsn = 1 << 16;
    internal const int MaskDestinationReadAtomic = 1 << 17;
    internal const int MaskDestinationQp = 1 << 20;

    internal const int OpWrite = 0;
    internal const int OpWriteImmediate = 1;
    internal const int OpSend = 2;
    internal const int OpSendImmediate = 3;
    internal const int OpRead = 4;
    internal const int OpCompareSwap = 5;
    internal const int OpFetchAdd = 6;

    internal const uint SendSignaled = 2;
    internal const uint SendSolicited = 4;

    // Places in struct ibv_context_ops, which begins eight bytes into the context.
    private const int PollSlot = 11;
    private const int PostSendSlot = 25;
    private const int PostReceiveSlot = 26;

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial nint* ibv_get_device_list(int* count);

    [LibraryImport("libibverbs.so.1", StringMarshalling = StringMarshalling.Utf8)]
    internal static partial nint ibv_get_device_name(nint device);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial nint* ibv_open_device(nint device);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_query_gid(nint* context, byte port, int index, byte* gid);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial nint ibv_alloc_pd(nint* context);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial MemoryRegion* ibv_reg_mr(nint domain, byte* address, nuint length, int access);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_dereg_mr(MemoryRegion* region);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial nint ibv_create_cq(nint* context, int entries, nint cookie, nint channel, int vector);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial QueuePair* ibv_create_qp(nint domain, QueuePairInit* init);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_modify_qp(QueuePair* pair, QueuePairAttributes* attributes, int mask);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_destroy_qp(QueuePair* pair);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial nint ibv_create_ah(nint domain, AddressHandle* attributes);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_attach_mcast(QueuePair* pair, byte* gid, ushort lid);

    [LibraryImport("libibverbs.so.1", SetLastError = true)]
    internal static partial int ibv_detach_mcast(QueuePair* pair, byte* gid, ushort lid);

    /// <summary>ibv_poll_cq: how many completions were taken, or negative.</summary>
    internal static int Poll(nint* context, nint queue, int count, WorkCompletion* completions) =>
        ((delegate* unmanaged<nint, int, WorkCompletion*, int>)context[1 + PollSlot])(queue, count, completions);

    /// <summary>ibv_post_send: 0, or an errno.</summary>
    internal static int PostSend(QueuePair* pair, SendRequest* request)
    {
        SendRequest* bad;
        return ((delegate* unmanaged<QueuePair*, SendRequest*, SendRequest**, int>)pair->Context[1 + PostSendSlot])(
            pair, request, &bad);
    }

    /// <summary>ibv_post_recv: 0, or an errno.</summary>
    internal static int PostReceive(QueuePair* pair, ReceiveRequest* request)
    {
        ReceiveRequest* bad;
        return ((delegate* unmanaged<QueuePair*, ReceiveRequest*, ReceiveRequest**, int>)
            pair->Context[1 + PostReceiveSlot])(pair, request, &bad);
    }

    /// <summary><c>struct ibv_mr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MemoryRegion
    {
        internal nint Context;
        internal nint Domain;
        internal byte* Address;
        internal nuint Length;
        internal uint Handle;
        internal uint LKey;
        internal uint RKey;
    }

    /// <summary>The part of <c>struct ibv_qp</c> that is looked at.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct QueuePair
    {
        internal nint* Context;
        internal nint Cookie;
        internal nint Domain;
        internal nint SendQueue;
        internal nint ReceiveQueue;
        internal nint SharedReceiveQueue;
        internal uint Handle;
        internal uint Number;
    }

    /// <summary><c>struct ibv_qp_cap</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Capabilities
    {
        internal uint MaxSendWr;
        internal uint MaxReceiveWr;
        internal uint MaxSendSge;
        internal uint MaxReceiveSge;
        internal uint MaxInline;
    }

    /// <summary><c>struct ibv_qp_init_attr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct QueuePairInit
    {
        internal nint Cookie;
        internal nint SendQueue;
        internal nint ReceiveQueue;
        internal nint SharedReceiveQueue;
        internal Capabilities Capabilities;
        internal int Type;
        internal int SignalAll;
    }

    /// <summary><c>struct ibv_ah_attr</c>, with its <c>struct ibv_global_route</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct AddressHandle
    {
        internal ulong GidHigh;
        internal ulong GidLow;
        internal uint FlowLabel;
        internal byte SourceGidIndex;
        internal byte HopLimit;
        internal byte TrafficClass;
        internal byte Pad;
        internal ushort Dlid;
        internal byte ServiceLevel;
        internal byte PathBits;
        internal byte StaticRate;
        internal byte IsGlobal;
        internal byte Port;
        internal byte PadEnd;
    }

    /// <summary><c>struct ibv_qp_attr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct QueuePairAttributes
    {
        internal int State;
        internal int CurrentState;
        internal int PathMtu;
        internal int MigrationState;
        internal uint QKey;
        internal uint RqPsn;
        internal uint SqPsn;
        internal uint DestinationQp;
        internal int Access;
        internal Capabilities Capabilities;
        internal AddressHandle Address;
        internal AddressHandle Alternate;
        internal ushort PKeyIndex;
        internal ushort AlternatePKeyIndex;
        internal byte NotifyDrained;
        internal byte Draining;
        internal byte MaxReadAtomic;
        internal byte MaxDestinationReadAtomic;
        internal byte MinRnrTimer;
        internal byte Port;
        internal byte Timeout;
        internal byte RetryCount;
        internal byte RnrRetry;
        internal byte AlternatePort;
        internal byte AlternateTimeout;
        internal uint RateLimit;
    }

    /// <summary><c>struct ibv_sge</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Sge
    {
        internal ulong Address;
        internal uint Length;
        internal uint LKey;
    }

    /// <summary>
    /// <c>struct ibv_send_wr</c>. <c>A</c> to <c>D</c> are the union <c>wr</c>: rdma is (address, rkey), atomic is
    /// (address, compare or add, swap, rkey), ud is (address handle, queue pair and Q_Key).
    /// </summary>
    [StructLayout(LayoutKind.Sequential, Size = 128)]
    internal struct SendRequest
    {
        internal ulong Id;
        internal SendRequest* Next;
        internal Sge* List;
        internal int Count;
        internal int Opcode;
        internal uint Flags;
        internal uint Immediate;
        internal ulong A;
        internal ulong B;
        internal ulong C;
        internal ulong D;
    }

    /// <summary><c>struct ibv_recv_wr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct ReceiveRequest
    {
        internal ulong Id;
        internal ReceiveRequest* Next;
        internal Sge* List;
        internal int Count;
    }

    /// <summary><c>struct ibv_wc</c>.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 48)]
    internal struct WorkCompletion
    {
        internal ulong Id;
        internal int Status;
        internal int Opcode;
        internal uint VendorError;
        internal uint Length;
        internal uint Immediate;
        internal uint QueuePair;
        internal uint SourceQueuePair;
        internal uint Flags;
    }
}
