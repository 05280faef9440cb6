using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Connections;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs.Interop;
using Wayleave.Linux;

namespace Wayleave.Ibverbs.Entries;

// librdmacm.so.1 is C alone (native/rdmacm.c) and finds these in libibverbs.so.1. Results are errno numbers.

/// <summary>What a program is told of an event; <c>struct wl_cm_event</c> of the shim.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CmEventRecord
{
    internal nint Subject; // structure of the identifier; of a request that of the listener
    internal nint Request; // handle of the identifier that is to be made
    internal uint Kind;
    internal int Status;
    internal fixed byte RemoteGid[16];
    internal ushort RemotePort;
    internal ushort LocalPort;
    internal byte ResponderResources;
    internal byte InitiatorDepth;
    internal byte RetryCount;
    internal byte RnrRetryCount;
    internal uint QueuePairNumber;
    internal uint PrivateDataLength;
    internal fixed byte PrivateData[256];
    internal uint QKey; // of the peer's queue pair, for datagrams
}

/// <summary>Identifiers, channels, and what is done with them.</summary>
internal static unsafe class ConnectionEntries
{
    private const int PrivateDataMax = 256;

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_device")]
    private static int FindDevice(byte* gid)
    {
        Gid wanted = Gid.FromBytes(new ReadOnlySpan<byte>(gid, Gid.Size));
        for (int i = 0; i < VerbsDevices.All.Count; i++)
        {
            if (VerbsDevices.All[i].Gid == wanted)
            {
                return i;
            }
        }

        return -1;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_gid")]
    private static void DeviceGid(int index, byte* gid) =>
        VerbsDevices.All[index].Gid.WriteTo(new Span<byte>(gid, Gid.Size));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_create_channel")]
    private static nint CreateChannel(int descriptor) => NativeHandle.Make(
        new CmChannel(new EventFd(new FileDescriptor(descriptor, ownsHandle: false))));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_create")]
    private static nint Create(nint channel, nint structure) =>
        NativeHandle.Make(new CmIdentifier(NativeHandle.Get<CmChannel>(channel), structure));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_attach")]
    private static void Attach(nint identifier, nint structure) =>
        NativeHandle.Get<CmIdentifier>(identifier).Structure = structure;

    // How many events moved along: the caller takes as many from the descriptor of the channel that they were in.
    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_migrate")]
    private static int Migrate(nint identifier, nint channel)
    {
        CmIdentifier moved = NativeHandle.Get<CmIdentifier>(identifier);
        CmChannel from = moved.Channel;
        moved.Channel = NativeHandle.Get<CmChannel>(channel);
        List<CmNote> notes = from.Remove(moved);
        foreach (CmNote note in notes)
        {
            moved.Channel.Raise(note);
        }

        return notes.Count;
    }

    // As above, of the events that nobody will take.
    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_destroy")]
    private static int Destroy(nint identifier, int* purged)
    {
        *purged = 0;
        return Control.Run(() =>
        {
            CmIdentifier destroyed = NativeHandle.Get<CmIdentifier>(identifier);
            destroyed.Switch?.Forget(destroyed);
            List<CmNote> notes = destroyed.Channel.Remove(destroyed);
            foreach (CmNote note in notes)
            {
                note.Request?.Switch?.Forget(note.Request); // nobody will answer it
            }

            *purged = notes.Count;
            return Errno.Success;
        });
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_raise")]
    private static void Raise(nint identifier, uint kind, int status)
    {
        CmIdentifier subject = NativeHandle.Get<CmIdentifier>(identifier);
        subject.Channel.Raise(new CmNote(subject, kind, status));
    }

    // How many it was: the caller takes as many from the descriptor.
    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_purge")]
    private static int Purge(nint identifier, uint kind, int status)
    {
        CmIdentifier subject = NativeHandle.Get<CmIdentifier>(identifier);
        return subject.Channel.Remove(subject, note => note.Kind == kind && note.Status == status).Count;
    }

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_listen")]
    private static int Listen(
        nint identifier, int device, ushort* port, int backlog, int isDatagram) => Control.Run(() =>
    {
        CmIdentifier listening = NativeHandle.Get<CmIdentifier>(identifier);
        ushort wanted = *port;
        Errno errno = Errno.EINVAL;
        VerbsDevices.All[device].WithConnections(connections =>
            errno = connections.Listen(listening, ref wanted, Math.Max(backlog, 1), isDatagram != 0));
        *port = wanted;
        return errno;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_prepare")]
    private static int Prepare(int device, nint pair) => Control.Run(() =>
        VerbsDevices.All[device].Connections.Prepare(NativeHandle.Get<VerbsQueuePair>(pair).Pair));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_connect")]
    private static int Connect(
        nint identifier, int device, byte* gid, ushort port, nint pair, CmEventRecord* wanted) => Control.Run(() =>
        VerbsDevices.All[device].Connections.Connect(
            NativeHandle.Get<CmIdentifier>(identifier),
            Gid.FromBytes(new ReadOnlySpan<byte>(gid, Gid.Size)),
            port,
            FindPair(pair),
            wanted->QueuePairNumber,
            Read(wanted)));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_resolve")]
    private static int Resolve(nint identifier, int device, byte* gid, ushort port, CmEventRecord* wanted) =>
        Control.Run(() => VerbsDevices.All[device].Connections.Resolve(
            NativeHandle.Get<CmIdentifier>(identifier),
            Gid.FromBytes(new ReadOnlySpan<byte>(gid, Gid.Size)),
            port,
            Read(wanted).PrivateData));

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_serve")]
    private static int Serve(nint identifier, CmEventRecord* wanted) => Control.Run(() =>
    {
        CmIdentifier served = NativeHandle.Get<CmIdentifier>(identifier);
        return served.Switch?.Serve(
            served, wanted->QueuePairNumber, wanted->QKey, Read(wanted).PrivateData) ?? Errno.EINVAL;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_establish")]
    private static int Establish(nint identifier) => Control.Run(() =>
    {
        CmIdentifier established = NativeHandle.Get<CmIdentifier>(identifier);
        return established.Switch?.Establish(established) ?? Errno.EINVAL;
    });

    // As cma_ib_init_qp_attr and ib_cm_init_qp_attr of the kernel have it; before a peer has said anything only INIT,
    // which gives no right yet.
    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_describe")]
    private static int Describe(nint identifier, ibv_qp_attr* to, int* mask) => Control.Run(() =>
    {
        CmIdentifier described = NativeHandle.Get<CmIdentifier>(identifier);
        QueuePairAttributes? known = described.Switch?.Describe(described);
        QueuePairState state = (QueuePairState)to->qp_state;
        if (state == QueuePairState.Init)
        {
            to->pkey_index = 0;
            to->port_num = 1;
            to->qp_access_flags = (uint)(known?.AccessFlags ?? AccessFlags.None);
            *mask = (int)(QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex
                | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags);
            return Errno.Success;
        }

        if (known is not { } attributes || state is not (QueuePairState.ReadyToReceive or QueuePairState.ReadyToSend))
        {
            return Errno.EINVAL;
        }

        if (state == QueuePairState.ReadyToReceive)
        {
            to->ah_attr = Paths.Write(attributes.AddressVector);
            to->path_mtu = (uint)attributes.PathMtu;
            to->dest_qp_num = attributes.DestQpNumber;
            to->rq_psn = attributes.RqPsn;
            to->max_dest_rd_atomic = (byte)attributes.MaxDestRdAtomic;
            to->min_rnr_timer = (byte)attributes.MinRnrTimer;
        }
        else
        {
            to->sq_psn = attributes.SqPsn;
            to->timeout = (byte)attributes.Timeout;
            to->retry_cnt = (byte)attributes.RetryCount;
            to->rnr_retry = (byte)attributes.RnrRetry;
            to->max_rd_atomic = (byte)attributes.MaxRdAtomic;
        }

        QueuePairTransitions.TryGet(
            state - 1, state, QueuePairType.ReliableConnection, out QueuePairAttributeMask required, out _);
        *mask = (int)(required | QueuePairAttributeMask.State);
        return Errno.Success;
    });

    private static QueuePair? FindPair(nint pair) => pair == 0 ? null : NativeHandle.Get<VerbsQueuePair>(pair).Pair;

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_accept")]
    private static int Accept(nint identifier, nint pair, CmEventRecord* wanted) => Control.Run(() =>
    {
        CmIdentifier accepted = NativeHandle.Get<CmIdentifier>(identifier);
        return accepted.Switch?.Accept(accepted, FindPair(pair), wanted->QueuePairNumber, Read(wanted))
            ?? Errno.EINVAL;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_reject")]
    private static int Reject(nint identifier, byte* data, int length) => Control.Run(() =>
    {
        CmIdentifier rejected = NativeHandle.Get<CmIdentifier>(identifier);
        return rejected.Switch?.Reject(rejected, new ReadOnlySpan<byte>(data, length).ToArray()) ?? Errno.EINVAL;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_disconnect")]
    private static int Disconnect(nint identifier) => Control.Run(() =>
    {
        CmIdentifier ended = NativeHandle.Get<CmIdentifier>(identifier);
        return ended.Switch?.Disconnect(ended) ?? Errno.EINVAL;
    });

    [UnmanagedCallersOnly(EntryPoint = "wlv_cm_take_event")]
    private static int TakeEvent(nint channel, CmEventRecord* record)
    {
        CmNote? note = NativeHandle.Get<CmChannel>(channel).Take();
        *record = default;
        if (note is null || note.Subject.Structure == 0
            || (note.Request is { } taken && !taken.Switch!.Take(taken)))
        {
            return (int)Errno.EAGAIN;
        }

        record->Subject = note.Subject.Structure;
        record->Kind = note.Kind;
        record->Status = note.Status;
        int length = Math.Min(note.PrivateData.Length, PrivateDataMax);
        note.PrivateData.Span[..length].CopyTo(new Span<byte>(record->PrivateData, PrivateDataMax));
        record->PrivateDataLength = (uint)length;
        CmConnection? connection = (note.Request ?? note.Subject).Connection;
        if (connection is not null)
        {
            connection.RemoteGid.WriteTo(new Span<byte>(record->RemoteGid, Gid.Size));
            record->QueuePairNumber = connection.RemoteQpNumber;
            record->QKey = connection.RemoteQKey;
        }

        if (note.Request is { } request)
        {
            record->Request = NativeHandle.Make(request);
        }

        if (note.Request is not null && connection?.DatagramRequest is { } lookup)
        {
            (record->RemotePort, record->LocalPort) = (lookup.SourcePort, lookup.Port);
        }
        else if (note.Request is not null && connection?.Request is { } asked)
        {
            (record->RemotePort, record->LocalPort) = (asked.SourcePort, asked.Port);

            // What the peer answers is what this side may ask for, and the other way round.
            record->ResponderResources = (byte)asked.InitiatorDepth;
            record->InitiatorDepth = (byte)asked.ResponderResources;
            record->RetryCount = (byte)asked.RetryCount;
            record->RnrRetryCount = (byte)asked.RnrRetryCount;
        }

        return 0;
    }

    private static CmParameters Read(CmEventRecord* wanted) => new()
    {
        ResponderResources = Math.Min(wanted->ResponderResources, (byte)Devices.Rdma.RdmaDevice.MaxRdAtomic),
        InitiatorDepth = Math.Min(wanted->InitiatorDepth, (byte)Devices.Rdma.RdmaDevice.MaxRdAtomic),
        RetryCount = Math.Min((int)wanted->RetryCount, 7),
        RnrRetryCount = Math.Min((int)wanted->RnrRetryCount, 7),
        PrivateData = new ReadOnlySpan<byte>(
            wanted->PrivateData, (int)Math.Min(wanted->PrivateDataLength, PrivateDataMax)).ToArray(),
    };
}
