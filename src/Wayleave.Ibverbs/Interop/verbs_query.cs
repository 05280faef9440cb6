using System.Runtime.InteropServices;

namespace Wayleave.Ibverbs.Interop;

// As verbs.cs: the structures of queries.

/// <summary>What a device can do.</summary>
[StructLayout(LayoutKind.Explicit, Size = 232)]
internal unsafe struct ibv_device_attr
{
    [FieldOffset(0)]
    internal fixed byte fw_ver[64];

    [FieldOffset(64)]
    internal ulong node_guid;

    [FieldOffset(72)]
    internal ulong sys_image_guid;

    [FieldOffset(80)]
    internal ulong max_mr_size;

    [FieldOffset(88)]
    internal ulong page_size_cap;

    [FieldOffset(96)]
    internal uint vendor_id;

    [FieldOffset(100)]
    internal uint vendor_part_id;

    [FieldOffset(104)]
    internal uint hw_ver;

    [FieldOffset(108)]
    internal uint max_qp;

    [FieldOffset(112)]
    internal uint max_qp_wr;

    [FieldOffset(116)]
    internal uint device_cap_flags;

    [FieldOffset(120)]
    internal uint max_sge;

    [FieldOffset(124)]
    internal uint max_sge_rd;

    [FieldOffset(128)]
    internal uint max_cq;

    [FieldOffset(132)]
    internal uint max_cqe;

    [FieldOffset(136)]
    internal uint max_mr;

    [FieldOffset(140)]
    internal uint max_pd;

    [FieldOffset(144)]
    internal uint max_qp_rd_atom;

    [FieldOffset(148)]
    internal uint max_ee_rd_atom;

    [FieldOffset(152)]
    internal uint max_res_rd_atom;

    [FieldOffset(156)]
    internal uint max_qp_init_rd_atom;

    [FieldOffset(160)]
    internal uint max_ee_init_rd_atom;

    [FieldOffset(164)]
    internal uint atomic_cap;

    [FieldOffset(168)]
    internal uint max_ee;

    [FieldOffset(172)]
    internal uint max_rdd;

    [FieldOffset(176)]
    internal uint max_mw;

    [FieldOffset(180)]
    internal uint max_raw_ipv6_qp;

    [FieldOffset(184)]
    internal uint max_raw_ethy_qp;

    [FieldOffset(188)]
    internal uint max_mcast_grp;

    [FieldOffset(192)]
    internal uint max_mcast_qp_attach;

    [FieldOffset(196)]
    internal uint max_total_mcast_qp_attach;

    [FieldOffset(200)]
    internal uint max_ah;

    [FieldOffset(204)]
    internal uint max_fmr;

    [FieldOffset(208)]
    internal uint max_map_per_fmr;

    [FieldOffset(212)]
    internal uint max_srq;

    [FieldOffset(216)]
    internal uint max_srq_wr;

    [FieldOffset(220)]
    internal uint max_srq_sge;

    [FieldOffset(224)]
    internal ushort max_pkeys;

    [FieldOffset(226)]
    internal byte local_ca_ack_delay;

    [FieldOffset(227)]
    internal byte phys_port_cnt;
}

/// <summary>What a port is.</summary>
[StructLayout(LayoutKind.Explicit, Size = 52)]
internal struct ibv_port_attr
{
    [FieldOffset(0)]
    internal uint state;

    [FieldOffset(4)]
    internal uint max_mtu;

    [FieldOffset(8)]
    internal uint active_mtu;

    [FieldOffset(12)]
    internal uint gid_tbl_len;

    [FieldOffset(16)]
    internal uint port_cap_flags;

    [FieldOffset(20)]
    internal uint max_msg_sz;

    [FieldOffset(24)]
    internal uint bad_pkey_cntr;

    [FieldOffset(28)]
    internal uint qkey_viol_cntr;

    [FieldOffset(32)]
    internal ushort pkey_tbl_len;

    [FieldOffset(34)]
    internal ushort lid;

    [FieldOffset(36)]
    internal ushort sm_lid;

    [FieldOffset(38)]
    internal byte lmc;

    [FieldOffset(39)]
    internal byte max_vl_num;

    [FieldOffset(40)]
    internal byte sm_sl;

    [FieldOffset(41)]
    internal byte subnet_timeout;

    [FieldOffset(42)]
    internal byte init_type_reply;

    [FieldOffset(43)]
    internal byte active_width;

    [FieldOffset(44)]
    internal byte active_speed;

    [FieldOffset(45)]
    internal byte phys_state;

    [FieldOffset(46)]
    internal byte link_layer;

    [FieldOffset(47)]
    internal byte flags;

    [FieldOffset(48)]
    internal ushort port_cap_flags2;
}

/// <summary>What a device can do besides.</summary>
[StructLayout(LayoutKind.Explicit, Size = 400)]
internal struct ibv_device_attr_ex
{
    [FieldOffset(0)]
    internal ibv_device_attr orig_attr;

    [FieldOffset(232)]
    internal uint comp_mask;

    [FieldOffset(240)]
    internal ibv_odp_caps odp_caps;

    [FieldOffset(264)]
    internal ulong completion_timestamp_mask;

    [FieldOffset(272)]
    internal ulong hca_core_clock;

    [FieldOffset(280)]
    internal ulong device_cap_flags_ex;

    [FieldOffset(288)]
    internal ibv_tso_caps tso_caps;

    [FieldOffset(296)]
    internal ibv_rss_caps rss_caps;

    [FieldOffset(328)]
    internal uint max_wq_type_rq;

    [FieldOffset(332)]
    internal ibv_packet_pacing_caps packet_pacing_caps;

    [FieldOffset(344)]
    internal uint raw_packet_caps;

    [FieldOffset(348)]
    internal ibv_tm_caps tm_caps;

    [FieldOffset(368)]
    internal ibv_cq_moderation_caps cq_mod_caps;

    [FieldOffset(376)]
    internal ulong max_dm_size;

    [FieldOffset(384)]
    internal ibv_pci_atomic_caps pci_atomic_caps;

    [FieldOffset(392)]
    internal uint xrc_odp_caps;

    [FieldOffset(396)]
    internal uint phys_port_cnt_ex;
}

/// <summary>Which transports can be paged on demand.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_odp_caps
{
    internal ulong general_caps;
    internal uint per_transport_caps__rc_odp_caps;
    internal uint per_transport_caps__uc_odp_caps;
    internal uint per_transport_caps__ud_odp_caps;
}

/// <summary>How long a message the device cuts itself: none on RoCE.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_tso_caps
{
    internal uint max_tso;
    internal uint supported_qpts;
}

/// <summary>How packets are spread over queues: not here.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_rss_caps
{
    internal uint supported_qpts;
    internal uint max_rwq_indirection_tables;
    internal uint max_rwq_indirection_table_size;
    internal ulong rx_hash_fields_mask;
    internal byte rx_hash_function;
}

/// <summary>How a queue pair's rate is bounded: not here.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_packet_pacing_caps
{
    internal uint qp_rate_limit_min;
    internal uint qp_rate_limit_max;
    internal uint supported_qpts;
}

/// <summary>How messages are matched by tag: not here.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_tm_caps
{
    internal uint max_rndv_hdr_size;
    internal uint max_num_tags;
    internal uint flags;
    internal uint max_ops;
    internal uint max_sge;
}

/// <summary>How many completions may share an event, and for how many microseconds.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_cq_moderation_caps
{
    internal ushort max_cq_count;
    internal ushort max_cq_period;
}

/// <summary>Atomics towards the host's memory: not over a bus here.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ibv_pci_atomic_caps
{
    internal ushort fetch_add;
    internal ushort swap;
    internal ushort compare_swap;
}
