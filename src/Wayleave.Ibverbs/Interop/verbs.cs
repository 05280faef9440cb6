using System.Runtime.InteropServices;

namespace Wayleave.Ibverbs.Interop;

// infiniband/verbs.h of rdma-core 44, names and order as there. VerbsLayoutTests gives each size and offset to the C
// compiler with the installed header; in a name, two underscores stand for the dot of a member of a member. The ABI of
// these structures is frozen: newer versions of the library add structures, or members behind a comp_mask.

/// <summary>A port's address: on RoCEv2 an IP address, in network byte order.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ibv_gid
{
    internal fixed byte raw[16];
}

/// <summary>A piece of local memory.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal struct ibv_sge
{
    [FieldOffset(0)]
    internal ulong addr;

    [FieldOffset(8)]
    internal uint length;

    [FieldOffset(12)]
    internal uint lkey;
}

/// <summary>A request to a send queue, and the next one of the list.</summary>
[StructLayout(LayoutKind.Explicit, Size = 128)]
internal unsafe struct ibv_send_wr
{
    [FieldOffset(0)]
    internal ulong wr_id;

    [FieldOffset(8)]
    internal ibv_send_wr* next;

    [FieldOffset(16)]
    internal ibv_sge* sg_list;

    [FieldOffset(24)]
    internal int num_sge;

    [FieldOffset(28)]
    internal uint opcode;

    [FieldOffset(32)]
    internal uint send_flags;

    [FieldOffset(36)]
    internal uint imm_data; // network byte order

    [FieldOffset(36)]
    internal uint invalidate_rkey;

    [FieldOffset(40)]
    internal ulong wr__rdma__remote_addr;

    [FieldOffset(48)]
    internal uint wr__rdma__rkey;

    [FieldOffset(40)]
    internal ulong wr__atomic__remote_addr;

    [FieldOffset(48)]
    internal ulong wr__atomic__compare_add;

    [FieldOffset(56)]
    internal ulong wr__atomic__swap;

    [FieldOffset(64)]
    internal uint wr__atomic__rkey;

    [FieldOffset(40)]
    internal void* wr__ud__ah;

    [FieldOffset(48)]
    internal uint wr__ud__remote_qpn;

    [FieldOffset(52)]
    internal uint wr__ud__remote_qkey;

    [FieldOffset(80)]
    internal void* bind_mw__mw;

    [FieldOffset(88)]
    internal uint bind_mw__rkey;

    [FieldOffset(96)]
    internal ibv_mw_bind_info bind_mw__bind_info;
}

/// <summary>A request to a receive queue, and the next one of the list.</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal unsafe struct ibv_recv_wr
{
    [FieldOffset(0)]
    internal ulong wr_id;

    [FieldOffset(8)]
    internal ibv_recv_wr* next;

    [FieldOffset(16)]
    internal ibv_sge* sg_list;

    [FieldOffset(24)]
    internal int num_sge;
}

/// <summary>The end of a request.</summary>
[StructLayout(LayoutKind.Explicit, Size = 48)]
internal struct ibv_wc
{
    [FieldOffset(0)]
    internal ulong wr_id;

    [FieldOffset(8)]
    internal uint status;

    [FieldOffset(12)]
    internal uint opcode;

    [FieldOffset(16)]
    internal uint vendor_err;

    [FieldOffset(20)]
    internal uint byte_len;

    [FieldOffset(24)]
    internal uint imm_data;

    [FieldOffset(24)]
    internal uint invalidated_rkey;

    [FieldOffset(28)]
    internal uint qp_num;

    [FieldOffset(32)]
    internal uint src_qp;

    [FieldOffset(36)]
    internal uint wc_flags;

    [FieldOffset(40)]
    internal ushort pkey_index;

    [FieldOffset(42)]
    internal ushort slid;

    [FieldOffset(44)]
    internal byte sl;

    [FieldOffset(45)]
    internal byte dlid_path_bits;
}

/// <summary>What a window is bound to.</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal unsafe struct ibv_mw_bind_info
{
    [FieldOffset(0)]
    internal void* mr;

    [FieldOffset(8)]
    internal ulong addr;

    [FieldOffset(16)]
    internal ulong length;

    [FieldOffset(24)]
    internal uint mw_access_flags;
}

/// <summary>A bind of a window of type 1.</summary>
[StructLayout(LayoutKind.Explicit, Size = 48)]
internal struct ibv_mw_bind
{
    [FieldOffset(0)]
    internal ulong wr_id;

    [FieldOffset(8)]
    internal uint send_flags;

    [FieldOffset(16)]
    internal ibv_mw_bind_info bind_info;
}

/// <summary>A piece of memory that is copied when it is posted.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal struct ibv_data_buf
{
    [FieldOffset(0)]
    internal ulong addr;

    [FieldOffset(8)]
    internal ulong length;
}
