using System.Runtime.InteropServices;
using System.Text;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs.Interop;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Entries;

/// <summary>Devices, contexts and queries. Results are errno numbers.</summary>
internal static unsafe class ContextEntries
{
    private const uint ActivePort = 4; // IBV_PORT_ACTIVE
    private const byte LinkUp = 5; // physical state
    private const byte Ethernet = 2; // IBV_LINK_LAYER_ETHERNET
    private const int FirmwareBytes = 64; // fw_ver, the first member
    private const int GidTableLength = 16; // free slots read as zero

    [UnmanagedCallersOnly(EntryPoint = "wlv_devices")]
    private static int Count() => VerbsDevices.All.Count;

    /// <summary>
    /// Once, after <see cref="Count"/>. Null when this processor has nothing wider than .NET 9 knows.
    /// </summary>
    [UnmanagedCallersOnly(EntryPoint = "wlv_use_fold")]
    private static void UseFold(delegate* unmanaged[SuppressGCTransition]<uint, byte*, byte*, nuint, byte*, nuint> fold)
    {
#if !NET10_0_OR_GREATER
        if (fold is null)
        {
            return;
        }

        WideFolding.TryUse((register, source, destination, block) =>
        {
            fixed (byte* from = source, to = destination, result = block)
            {
                return (int)fold(register, from, to, (nuint)source.Length, result);
            }
        });
#endif
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_device")]
    private static ulong Describe(int index, byte* name, int nameBytes)
    {
        VerbsDevice device = VerbsDevices.All[index];
        Span<byte> text = new(name, nameBytes);
        text.Clear();
        Encoding.UTF8.GetBytes(device.Name, text[..^1]);
        return device.NodeGuid;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_open")]
    private static nint Open(int index, int eventDescriptor) => NativeHandle.Make(
        new VerbsContext(VerbsDevices.All[index], new EventFd(new FileDescriptor(eventDescriptor, ownsHandle: false))));

    [UnmanagedCallersOnly(EntryPoint = "wlv_close")]
    private static void Close(nint context) => NativeHandle.Free(context);

    [UnmanagedCallersOnly(EntryPoint = "wlv_take_async_event")]
    private static int TakeAsyncEvent(nint context, ibv_async_event* e)
    {
        bool found = NativeHandle.Get<VerbsContext>(context).TryTake(out AsyncEventType type, out nint element);
        *e = new ibv_async_event { element = (void*)element, event_type = (uint)type };
        return found ? 0 : (int)Errno.EAGAIN;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_device")]
    private static void QueryDevice(nint context, ibv_device_attr_ex* attributes)
    {
        VerbsDevice device = NativeHandle.Get<VerbsContext>(context).Device;
        DeviceAttributes can = DeviceAttributes.Instance;
        ulong guid = System.Buffers.Binary.BinaryPrimitives.ReverseEndianness(device.NodeGuid);
        *attributes = default;
        ref ibv_device_attr basic = ref attributes->orig_attr;
        "0.1.0"u8.CopyTo(new Span<byte>(attributes, FirmwareBytes));
        basic.node_guid = guid;
        basic.sys_image_guid = guid;
        basic.max_mr_size = can.MaxRegionBytes;
        basic.page_size_cap = 0xFFFF_F000;
        basic.vendor_id = VendorId;
        basic.vendor_part_id = 1;
        basic.hw_ver = 1;
        basic.max_qp = (uint)can.MaxQueuePairs;
        basic.max_qp_wr = (uint)can.MaxWorkRequests;
        basic.device_cap_flags = DeviceCapabilities;
        basic.max_sge = (uint)can.MaxSge;
        basic.max_sge_rd = (uint)can.MaxSge;
        basic.max_cq = (uint)can.MaxCompletionQueues;
        basic.max_cqe = (uint)can.MaxCompletions;
        basic.max_mr = (uint)can.MaxRegions;
        basic.max_pd = 1 << 20;
        basic.max_qp_rd_atom = (uint)can.MaxRdAtomic;
        basic.max_res_rd_atom = (uint)(can.MaxRdAtomic * can.MaxQueuePairs);
        basic.max_qp_init_rd_atom = (uint)can.MaxRdAtomic;
        basic.atomic_cap = 2; // IBV_ATOMIC_GLOB
        basic.max_mw = (uint)can.MaxWindows;
        basic.max_mcast_grp = (uint)can.MaxMulticastGroups;
        basic.max_mcast_qp_attach = (uint)can.MaxMulticastPairs;
        basic.max_total_mcast_qp_attach = (uint)can.MaxMulticastAttachments;
        basic.max_ah = 1 << 20;
        basic.max_srq = 1 << 20;
        basic.max_srq_wr = (uint)Devices.Rdma.RdmaDevice.MaxSharedReceives;
        basic.max_srq_sge = (uint)can.MaxSge;
        basic.max_pkeys = (ushort)can.PartitionKeys;
        basic.local_ca_ack_delay = 15;
        basic.phys_port_cnt = (byte)can.Ports;
        attributes->device_cap_flags_ex = DeviceCapabilities;
        attributes->phys_port_cnt_ex = (uint)can.Ports;
        attributes->cq_mod_caps = new ibv_cq_moderation_caps { max_cq_count = 0xFFFF, max_cq_period = 0xFFFF };
        attributes->completion_timestamp_mask = 0;
        if (OwnPages.Instance is not null)
        {
            attributes->odp_caps = new ibv_odp_caps
            {
                general_caps = OdpSupport | OdpImplicit,
                per_transport_caps__rc_odp_caps = OdpSend | OdpReceive | OdpWrite | OdpRead | OdpSharedReceive,
                per_transport_caps__uc_odp_caps = OdpSend | OdpReceive | OdpWrite | OdpSharedReceive,
                per_transport_caps__ud_odp_caps = OdpSend | OdpReceive | OdpSharedReceive,
            };
        }
    }

    // enum ibv_odp_general_caps and ibv_odp_transport_cap_bits; no atomics, for a word of a page that may go cannot be
    // swapped.
    private const uint OdpSupport = 1, OdpImplicit = 2;
    private const uint OdpSend = 1, OdpReceive = 2, OdpWrite = 4, OdpRead = 8, OdpSharedReceive = 32;

    // An OUI that nobody is given: the bit of local administration, and our initials.
    private const uint VendorId = 0x02_57_4C;

    // CHANGE_PHY_PORT and others mean hardware; windows of both types, SRQ_RESIZE, RC_RNR_NAK_GEN, MEM_MGT_EXTENSIONS.
    private const uint DeviceCapabilities =
        1u << 12 | 1u << 13 | 1u << 17 | 1u << 21 | 1u << 24;

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_port")]
    private static int QueryPort(nint context, byte port, ibv_port_attr* attributes)
    {
        if (port != 1)
        {
            return (int)Errno.EINVAL;
        }

        *attributes = new ibv_port_attr
        {
            state = ActivePort,
            max_mtu = (uint)PathMtu.Mtu4096,
            active_mtu = (uint)PathMtu.Mtu4096,
            gid_tbl_len = GidTableLength,
            port_cap_flags = 1 << 16, // IBV_PORT_CM_SUP
            max_msg_sz = Reth.LengthMax,
            pkey_tbl_len = (ushort)DeviceAttributes.Instance.PartitionKeys,
            max_vl_num = 1,
            active_width = 2, // 4X
            active_speed = 32, // EDR
            phys_state = LinkUp,
            link_layer = Ethernet,
        };
        return 0;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_gid")]
    private static int QueryGid(nint context, byte port, uint index, byte* gid)
    {
        Span<byte> bytes = new(gid, Gid.Size);
        bytes.Clear();
        if (port != 1 || index >= GidTableLength)
        {
            return (int)Errno.EINVAL;
        }

        if (index == 0)
        {
            NativeHandle.Get<VerbsContext>(context).Device.Gid.WriteTo(bytes);
        }

        return 0;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_pkey")]
    private static int QueryPKey(byte port, int index, ushort* key)
    {
        *key = port == 1 && index == 0 ? Bth.DefaultPKey : (ushort)0;
        return port == 1 && index == 0 ? 0 : (int)Errno.EINVAL;
    }
}
