using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs.Interop;

namespace Wayleave.Ibverbs.Entries;

/// <summary>Queue pairs. Results are errno numbers.</summary>
internal static unsafe class QueuePairEntries
{
    private const int SizeMax = 1 << 20; // beyond every limit of the machine, which refuses it

    [UnmanagedCallersOnly(EntryPoint = "wlv_create_qp")]
    private static int CreateQueuePair(
        nint domain, nint sends, nint receives, nint shared, ibv_qp_init_attr* init, nint structure, nint* handle,
        uint* number) => Control.Run(() =>
    {
        VerbsDomain owner = NativeHandle.Get<VerbsDomain>(domain);
        VerbsCompletions sendQueue = NativeHandle.Get<VerbsCompletions>(sends);
        VerbsCompletions receiveQueue = NativeHandle.Get<VerbsCompletions>(receives);
        VerbsSharedReceives? taken = shared == 0 ? null : NativeHandle.Get<VerbsSharedReceives>(shared);
        if (sendQueue.Device != owner.Device || receiveQueue.Device != owner.Device)
        {
            return Errno.EINVAL;
        }

        if (init->qp_type is < (uint)QueuePairType.ReliableConnection or > (uint)QueuePairType.UnreliableDatagram)
        {
            return Errno.EOPNOTSUPP;
        }

        QueuePairRequest request = new(owner.Domain, sendQueue.Queue, receiveQueue.Queue, Read(init->cap))
        {
            Type = (QueuePairType)init->qp_type,
            SharedReceives = taken?.Queue,
            SignalsAll = init->sq_sig_all != 0,
        };
        Errno errno = Errno.EINVAL;
        VerbsQueuePair? made = null;
        owner.Device.WithToken(() =>
        {
            errno = owner.Device.Machine.TryCreateQueuePair(request, out QueuePair? pair);
            if (errno == Errno.Success)
            {
                made = new VerbsQueuePair(owner, sendQueue, receiveQueue, taken, pair!, structure);
                owner.Device.Add(made);
            }
        });
        if (made is null)
        {
            return errno;
        }

        owner.Hold();
        sendQueue.Hold();
        receiveQueue.Hold();
        taken?.Hold();
        *handle = NativeHandle.Make(made);
        *number = made.Pair.QpNumber;
        init->cap = Write(made);
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_modify_qp")]
    private static int ModifyQueuePair(nint handle, ibv_qp_attr* from, int mask) => Control.Run(() =>
    {
        VerbsQueuePair pair = NativeHandle.Get<VerbsQueuePair>(handle);
        QueuePairAttributeMask set = (QueuePairAttributeMask)mask;
        AddressVector address = default;
        if ((set & QueuePairAttributeMask.AddressVector) != 0)
        {
            Errno refused = Paths.TryRead(from->ah_attr, out address);
            if (refused != Errno.Success || address.Destination.IsIPv4 != pair.Device.Gid.IsIPv4)
            {
                return Errno.EINVAL;
            }
        }

        QueuePairAttributes attributes = new()
        {
            State = (QueuePairState)from->qp_state,
            CurrentState = (QueuePairState)from->cur_qp_state,
            AccessFlags = (AccessFlags)from->qp_access_flags & ~AccessFlags.OnDemand, // which is of regions
            PKeyIndex = from->pkey_index,
            Port = from->port_num,
            AddressVector = address,
            PathMtu = (PathMtu)from->path_mtu,
            QKey = from->qkey,
            DestQpNumber = from->dest_qp_num,
            RqPsn = from->rq_psn & 0xFF_FFFF,
            SqPsn = from->sq_psn & 0xFF_FFFF,
            MaxRdAtomic = from->max_rd_atomic,
            MaxDestRdAtomic = from->max_dest_rd_atomic,
            MinRnrTimer = from->min_rnr_timer,
            Timeout = from->timeout,
            RetryCount = from->retry_cnt,
            RnrRetry = from->rnr_retry,
            EnableSqdNotify = from->en_sqd_async_notify != 0,
        };
        Errno errno = Errno.EINVAL;
        bool resets = (set & QueuePairAttributeMask.State) != 0 && attributes.State == QueuePairState.Reset;
        pair.Device.WithToken(() =>
        {
            errno = pair.Pair.Modify(attributes, set);
            if (errno == Errno.Success && resets)
            {
                Discard(pair);
            }
        });
        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_query_qp")]
    private static int QueryQueuePair(nint handle, ibv_qp_attr* to, ibv_qp_init_attr* init) => Control.Run(() =>
    {
        VerbsQueuePair pair = NativeHandle.Get<VerbsQueuePair>(handle);
        QueuePairAttributes attributes = pair.Pair.Attributes;
        QueuePairState state = default;
        bool isDraining = false;
        pair.Device.WithToken(() =>
            (attributes, state, isDraining) = (pair.Pair.Attributes, pair.Pair.State, pair.Pair.IsDraining));
        bool hasPath = attributes.AddressVector.Destination != default;
        *to = new ibv_qp_attr
        {
            qp_state = (uint)state,
            cur_qp_state = (uint)state,
            path_mtu = (uint)attributes.PathMtu,
            path_mig_state = 0, // IBV_MIG_MIGRATED
            qkey = attributes.QKey,
            rq_psn = attributes.RqPsn,
            sq_psn = attributes.SqPsn,
            dest_qp_num = attributes.DestQpNumber,
            qp_access_flags = (uint)attributes.AccessFlags,
            cap = Write(pair),
            ah_attr = hasPath ? Paths.Write(attributes.AddressVector) : default,
            pkey_index = (ushort)attributes.PKeyIndex,
            sq_draining = (byte)(isDraining ? 1 : 0),
            en_sqd_async_notify = (byte)(attributes.EnableSqdNotify ? 1 : 0),
            max_rd_atomic = (byte)attributes.MaxRdAtomic,
            max_dest_rd_atomic = (byte)attributes.MaxDestRdAtomic,
            min_rnr_timer = (byte)attributes.MinRnrTimer,
            port_num = (byte)attributes.Port,
            timeout = (byte)attributes.Timeout,
            retry_cnt = (byte)attributes.RetryCount,
            rnr_retry = (byte)attributes.RnrRetry,
        };
        init->cap = to->cap;
        init->qp_type = (uint)pair.Pair.Type;
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_destroy_qp")]
    private static int DestroyQueuePair(nint handle) => Control.Run(() =>
    {
        VerbsQueuePair pair = NativeHandle.Get<VerbsQueuePair>(handle);
        Errno errno = Errno.EINVAL;
        pair.Device.WithToken(() =>
        {
            errno = pair.Device.Machine.TryDestroyQueuePair(pair.Pair);
            if (errno == Errno.Success)
            {
                pair.Device.Remove(pair);
                Discard(pair);
            }
        });
        if (errno != Errno.Success)
        {
            return errno; // attached to a multicast group
        }

        pair.Context.Forget(pair.Structure);
        pair.Domain.Release();
        pair.Sends.Release();
        pair.Receives.Release();
        pair.Shared?.Release();
        return Errno.Success;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_attach_mcast")]
    private static int Attach(nint handle, byte* group) => Control.Run(() =>
    {
        VerbsQueuePair pair = NativeHandle.Get<VerbsQueuePair>(handle);
        return pair.Device.Bind().Attach(pair.Pair, Gid.FromBytes(new ReadOnlySpan<byte>(group, Gid.Size)));
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_detach_mcast")]
    private static int Detach(nint handle, byte* group) => Control.Run(() =>
    {
        VerbsQueuePair pair = NativeHandle.Get<VerbsQueuePair>(handle);
        return pair.Device.Bind().Detach(pair.Pair, Gid.FromBytes(new ReadOnlySpan<byte>(group, Gid.Size)));
    });

    // Completions of before a reset tell a program nothing that it could use. Port token held.
    private static void Discard(VerbsQueuePair pair)
    {
        pair.Sends.Queue.Discard(pair.Pair.QpNumber);
        pair.Receives.Queue.Discard(pair.Pair.QpNumber);
    }

    private static QueuePairCapabilities Read(in ibv_qp_cap cap) => new()
    {
        MaxSendWr = (int)Math.Min(cap.max_send_wr, SizeMax),
        MaxReceiveWr = (int)Math.Min(cap.max_recv_wr, SizeMax),
        MaxSendSge = (int)Math.Min(cap.max_send_sge, SizeMax),
        MaxReceiveSge = (int)Math.Min(cap.max_recv_sge, SizeMax),
        MaxInlineData = (int)Math.Min(cap.max_inline_data, SizeMax),
    };

    private static ibv_qp_cap Write(VerbsQueuePair pair)
    {
        QueuePairCapabilities has = pair.Pair.Capabilities;
        bool isShared = pair.Shared is not null;
        return new ibv_qp_cap
        {
            max_send_wr = Rounded(has.MaxSendWr),
            max_recv_wr = isShared ? 0 : Rounded(has.MaxReceiveWr),
            max_send_sge = (uint)has.MaxSendSge,
            max_recv_sge = isShared ? 0 : (uint)has.MaxReceiveSge,
            max_inline_data = (uint)has.MaxInlineData,
        };
    }

    // What the rings hold, which is what a program may post before one is full (ENOMEM).
    private static uint Rounded(int requests) =>
        requests == 0 ? 0 : System.Numerics.BitOperations.RoundUpToPowerOf2((uint)requests);
}
