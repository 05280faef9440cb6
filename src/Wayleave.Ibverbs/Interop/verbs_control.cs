using System.Runtime.InteropServices;

namespace Wayleave.Ibverbs.Interop;

// As verbs.cs: the structures of control calls.

/// <summary>The way to a port on another network: on RoCE every way.</summary>
[StructLayout(LayoutKind.Explicit, Size = 24)]
internal struct ibv_global_route
{
    [FieldOffset(0)]
    internal ibv_gid dgid;

    [FieldOffset(16)]
    internal uint flow_label;

    [FieldOffset(20)]
    internal byte sgid_index;

    [FieldOffset(21)]
    internal byte hop_limit;

    [FieldOffset(22)]
    internal byte traffic_class;
}

/// <summary>Where a path leads.</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal struct ibv_ah_attr
{
    [FieldOffset(0)]
    internal ibv_global_route grh;

    [FieldOffset(24)]
    internal ushort dlid;

    [FieldOffset(26)]
    internal byte sl;

    [FieldOffset(27)]
    internal byte src_path_bits;

    [FieldOffset(28)]
    internal byte static_rate;

    [FieldOffset(29)]
    internal byte is_global;

    [FieldOffset(30)]
    internal byte port_num;
}

/// <summary>What stands before a datagram's data.</summary>
[StructLayout(LayoutKind.Explicit, Size = 40)]
internal struct ibv_grh
{
    [FieldOffset(0)]
    internal uint version_tclass_flow;

    [FieldOffset(4)]
    internal ushort paylen;

    [FieldOffset(6)]
    internal byte next_hdr;

    [FieldOffset(7)]
    internal byte hop_limit;

    [FieldOffset(8)]
    internal ibv_gid sgid;

    [FieldOffset(24)]
    internal ibv_gid dgid;
}

/// <summary>Sizes of the queues of a queue pair.</summary>
[StructLayout(LayoutKind.Explicit, Size = 20)]
internal struct ibv_qp_cap
{
    [FieldOffset(0)]
    internal uint max_send_wr;

    [FieldOffset(4)]
    internal uint max_recv_wr;

    [FieldOffset(8)]
    internal uint max_send_sge;

    [FieldOffset(12)]
    internal uint max_recv_sge;

    [FieldOffset(16)]
    internal uint max_inline_data;
}

/// <summary>What a modify sets and a query tells.</summary>
[StructLayout(LayoutKind.Explicit, Size = 144)]
internal struct ibv_qp_attr
{
    [FieldOffset(0)]
    internal uint qp_state;

    [FieldOffset(4)]
    internal uint cur_qp_state;

    [FieldOffset(8)]
    internal uint path_mtu;

    [FieldOffset(12)]
    internal uint path_mig_state;

    [FieldOffset(16)]
    internal uint qkey;

    [FieldOffset(20)]
    internal uint rq_psn;

    [FieldOffset(24)]
    internal uint sq_psn;

    [FieldOffset(28)]
    internal uint dest_qp_num;

    [FieldOffset(32)]
    internal uint qp_access_flags;

    [FieldOffset(36)]
    internal ibv_qp_cap cap;

    [FieldOffset(56)]
    internal ibv_ah_attr ah_attr;

    [FieldOffset(88)]
    internal ibv_ah_attr alt_ah_attr;

    [FieldOffset(120)]
    internal ushort pkey_index;

    [FieldOffset(122)]
    internal ushort alt_pkey_index;

    [FieldOffset(124)]
    internal byte en_sqd_async_notify;

    [FieldOffset(125)]
    internal byte sq_draining;

    [FieldOffset(126)]
    internal byte max_rd_atomic;

    [FieldOffset(127)]
    internal byte max_dest_rd_atomic;

    [FieldOffset(128)]
    internal byte min_rnr_timer;

    [FieldOffset(129)]
    internal byte port_num;

    [FieldOffset(130)]
    internal byte timeout;

    [FieldOffset(131)]
    internal byte retry_cnt;

    [FieldOffset(132)]
    internal byte rnr_retry;

    [FieldOffset(133)]
    internal byte alt_port_num;

    [FieldOffset(134)]
    internal byte alt_timeout;

    [FieldOffset(136)]
    internal uint rate_limit;
}

/// <summary>What a queue pair is made of.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal unsafe struct ibv_qp_init_attr
{
    [FieldOffset(0)]
    internal void* qp_context;

    [FieldOffset(8)]
    internal void* send_cq;

    [FieldOffset(16)]
    internal void* recv_cq;

    [FieldOffset(24)]
    internal void* srq;

    [FieldOffset(32)]
    internal ibv_qp_cap cap;

    [FieldOffset(52)]
    internal uint qp_type;

    [FieldOffset(56)]
    internal int sq_sig_all;
}

/// <summary>The same, and what came later.</summary>
[StructLayout(LayoutKind.Explicit, Size = 136)]
internal unsafe struct ibv_qp_init_attr_ex
{
    [FieldOffset(0)]
    internal void* qp_context;

    [FieldOffset(8)]
    internal void* send_cq;

    [FieldOffset(16)]
    internal void* recv_cq;

    [FieldOffset(24)]
    internal void* srq;

    [FieldOffset(32)]
    internal ibv_qp_cap cap;

    [FieldOffset(52)]
    internal uint qp_type;

    [FieldOffset(56)]
    internal int sq_sig_all;

    [FieldOffset(60)]
    internal uint comp_mask;

    [FieldOffset(64)]
    internal void* pd;

    [FieldOffset(72)]
    internal void* xrcd;

    [FieldOffset(80)]
    internal uint create_flags;

    [FieldOffset(84)]
    internal ushort max_tso_header;

    [FieldOffset(88)]
    internal void* rwq_ind_tbl;

    [FieldOffset(96)]
    internal ibv_rx_hash_conf rx_hash_conf;

    [FieldOffset(120)]
    internal uint source_qpn;

    [FieldOffset(128)]
    internal ulong send_ops_flags;
}

/// <summary>Sizes of a shared receive queue, and its limit.</summary>
[StructLayout(LayoutKind.Explicit, Size = 12)]
internal struct ibv_srq_attr
{
    [FieldOffset(0)]
    internal uint max_wr;

    [FieldOffset(4)]
    internal uint max_sge;

    [FieldOffset(8)]
    internal uint srq_limit;
}

/// <summary>What a shared receive queue is made of.</summary>
[StructLayout(LayoutKind.Explicit, Size = 24)]
internal unsafe struct ibv_srq_init_attr
{
    [FieldOffset(0)]
    internal void* srq_context;

    [FieldOffset(8)]
    internal ibv_srq_attr attr;
}

/// <summary>An entry of the GID table.</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal struct ibv_gid_entry
{
    [FieldOffset(0)]
    internal ibv_gid gid;

    [FieldOffset(16)]
    internal uint gid_index;

    [FieldOffset(20)]
    internal uint port_num;

    [FieldOffset(24)]
    internal uint gid_type;

    [FieldOffset(28)]
    internal uint ndev_ifindex;
}

/// <summary>Something that no completion tells.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal unsafe struct ibv_async_event
{
    [FieldOffset(0)]
    internal void* element;

    [FieldOffset(8)]
    internal uint event_type;
}

/// <summary>What a completion queue is made of.</summary>
[StructLayout(LayoutKind.Explicit, Size = 56)]
internal unsafe struct ibv_cq_init_attr_ex
{
    [FieldOffset(0)]
    internal uint cqe;

    [FieldOffset(8)]
    internal void* cq_context;

    [FieldOffset(16)]
    internal void* channel;

    [FieldOffset(24)]
    internal uint comp_vector;

    [FieldOffset(32)]
    internal ulong wc_flags;

    [FieldOffset(40)]
    internal uint comp_mask;

    [FieldOffset(44)]
    internal uint flags;

    [FieldOffset(48)]
    internal void* parent_domain;
}

/// <summary>Which packets go where, on devices that spread them.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ibv_rx_hash_conf
{
    internal byte rx_hash_function;
    internal byte rx_hash_key_len;
    internal byte* rx_hash_key;
    internal ulong rx_hash_fields_mask;
}
