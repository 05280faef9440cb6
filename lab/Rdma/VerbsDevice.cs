using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Runtime.InteropServices;
using Wayleave.Lab.Interop;

namespace Wayleave.Lab.Rdma;

/// <summary>A kernel's RDMA device by libibverbs, with one region of memory and one completion queue.</summary>
internal sealed unsafe class VerbsDevice
{
    /// <summary>Bytes of the region.</summary>
    internal const int Size = 1 << 20;

    private readonly nint* _context;
    private readonly nint _domain;
    private readonly nint _queue;
    private readonly Verbs.MemoryRegion* _region;

    /// <param name="name">As <c>rdma link</c> shows it.</param>
    /// <param name="access">Rights of the region, beside local write.</param>
    internal VerbsDevice(string name, int access = Verbs.AccessRemote)
    {
        int count;
        nint* devices = Verbs.ibv_get_device_list(&count);
        for (int i = 0; i < count && _context is null; i++)
        {
            if (Marshal.PtrToStringUTF8(Verbs.ibv_get_device_name(devices[i])) == name)
            {
                _context = Verbs.ibv_open_device(devices[i]);
            }
        }

        if (_context is null)
        {
            throw new IOException($"no RDMA device {name} among {count}");
        }

        _domain = Check(Verbs.ibv_alloc_pd(_context), "ibv_alloc_pd");
        _queue = Check(Verbs.ibv_create_cq(_context, 256, 0, 0, 0), "ibv_create_cq");
        byte* memory = Libc.mmap(
            null, Size, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED | Libc.MAP_ANONYMOUS, -1, 0);
        _region = Verbs.ibv_reg_mr(_domain, memory, Size, access | Verbs.AccessLocalWrite);
        Check((nint)_region, "ibv_reg_mr");
    }

    /// <summary>Registers other memory, for peers to read and write; ends with <see cref="Deregister"/>.</summary>
    internal Verbs.MemoryRegion* Register(byte* memory, int length)
    {
        Verbs.MemoryRegion* region = Verbs.ibv_reg_mr(
            _domain, memory, (nuint)length, Verbs.AccessRemote | Verbs.AccessLocalWrite);
        Check((nint)region, "ibv_reg_mr");
        return region;
    }

    internal static void Deregister(Verbs.MemoryRegion* region)
    {
        int errno = Verbs.ibv_dereg_mr(region);
        if (errno != 0)
        {
            throw new IOException($"ibv_dereg_mr: errno {errno}");
        }
    }

    internal Span<byte> Memory => new(_region->Address, Size);

    internal ulong Address => (ulong)_region->Address;

    internal uint RKey => _region->RKey;

    /// <summary>The place of an address in the device's GID table, once the kernel has put it there.</summary>
    internal int FindGid(IPAddress address)
    {
        byte[] wanted = address.MapToIPv6().GetAddressBytes();
        byte* gid = stackalloc byte[16];
        Stopwatch watch = Stopwatch.StartNew();
        do
        {
            for (int i = 0; i < 16; i++)
            {
                if (Verbs.ibv_query_gid(_context, 1, i, gid) == 0 && new Span<byte>(gid, 16).SequenceEqual(wanted))
                {
                    return i;
                }
            }

            Thread.Sleep(20);
        }
        while (watch.Elapsed < TimeSpan.FromSeconds(10));
        throw new IOException($"no GID {address}");
    }

    /// <summary>A queue pair in INIT.</summary>
    internal Verbs.QueuePair* CreateQueuePair(int type, int access = Verbs.AccessRemote, uint qkey = 0)
    {
        Verbs.QueuePairInit init = new()
        {
            SendQueue = _queue,
            ReceiveQueue = _queue,
            Capabilities = new Verbs.Capabilities
            {
                MaxSendWr = 64,
                MaxReceiveWr = 64,
                MaxSendSge = 2,
                MaxReceiveSge = 2,
            },
            Type = type,
        };
        Verbs.QueuePair* pair = Verbs.ibv_create_qp(_domain, &init);
        Check((nint)pair, "ibv_create_qp");
        Verbs.QueuePairAttributes attributes = new()
        {
            State = Verbs.StateInit,
            Port = 1,
            Access = access,
            QKey = qkey,
        };
        int own = type == Verbs.QpTypeUd ? Verbs.MaskQKey : Verbs.MaskAccess;
        Modify(pair, attributes, Verbs.MaskState | Verbs.MaskPKey | Verbs.MaskPort | own);
        return pair;
    }

    /// <summary>Takes a queue pair to RTS, connected unless it is UD.</summary>
    internal static void Connect(Verbs.QueuePair* pair, int type, in PairEnds ends)
    {
        Verbs.QueuePairAttributes attributes = new()
        {
            State = Verbs.StateReadyToReceive,
            PathMtu = System.Numerics.BitOperations.Log2((uint)ends.PathMtu) - 7,
            DestinationQp = ends.PeerQueuePair,
            RqPsn = ends.PeerPsn,
            SqPsn = ends.Psn,
            MaxReadAtomic = 4,
            MaxDestinationReadAtomic = 4,
            MinRnrTimer = 12,
            Timeout = 18, // a second: an emulated machine may stall, and nothing here is to be sent twice
            RetryCount = 7,
            RnrRetry = 7,
            Address = Route(ends),
        };
        bool isReliable = type == Verbs.QpTypeRc;
        int mask = Verbs.MaskState;
        if (type != Verbs.QpTypeUd)
        {
            mask |= Verbs.MaskAddress | Verbs.MaskPathMtu | Verbs.MaskDestinationQp | Verbs.MaskRqPsn;
        }

        mask |= isReliable ? Verbs.MaskDestinationReadAtomic | Verbs.MaskRnrTimer : 0;
        Modify(pair, attributes, mask);
        mask = Verbs.MaskState | Verbs.MaskSqPsn;
        mask |= isReliable
            ? Verbs.MaskTimeout | Verbs.MaskRetry | Verbs.MaskRnrRetry | Verbs.MaskReadAtomic
            : 0;
        Modify(pair, attributes with { State = Verbs.StateReadyToSend }, mask);
    }

    /// <summary>Lets a queue pair of datagrams get what is sent to a group.</summary>
    internal static void Attach(Verbs.QueuePair* pair, IPAddress group)
    {
        fixed (byte* gid = group.MapToIPv6().GetAddressBytes())
        {
            Check(Verbs.ibv_attach_mcast(pair, gid, 0), "ibv_attach_mcast");
        }
    }

    /// <summary>Takes it out of the group.</summary>
    internal static void Detach(Verbs.QueuePair* pair, IPAddress group)
    {
        fixed (byte* gid = group.MapToIPv6().GetAddressBytes())
        {
            Check(Verbs.ibv_detach_mcast(pair, gid, 0), "ibv_detach_mcast");
        }
    }

    /// <summary>An address handle for UD.</summary>
    internal ulong CreateAddressHandle(in PairEnds ends)
    {
        Verbs.AddressHandle route = Route(ends);
        return (ulong)Check(Verbs.ibv_create_ah(_domain, &route), "ibv_create_ah");
    }

    /// <summary>Posts a signalled request over part of the region.</summary>
    internal void Post(
        Verbs.QueuePair* pair, int opcode, int offset, int length, ulong a = 0, ulong b = 0, ulong c = 0, ulong d = 0,
        uint immediate = 0, uint flags = 0)
    {
        Verbs.Sge sge = new() { Address = Address + (ulong)offset, Length = (uint)length, LKey = _region->LKey };
        Verbs.SendRequest request = new()
        {
            Id = (ulong)opcode,
            List = &sge,
            Count = length == 0 ? 0 : 1,
            Opcode = opcode,
            Flags = flags | Verbs.SendSignaled,
            Immediate = BinaryPrimitives.ReverseEndianness(immediate),
            A = a,
            B = b,
            C = c,
            D = d,
        };
        int errno = Verbs.PostSend(pair, &request);
        if (errno != 0)
        {
            throw new IOException($"ibv_post_send of opcode {opcode}: errno {errno}");
        }
    }

    /// <summary>Posts a receive over part of the region.</summary>
    internal void PostReceive(Verbs.QueuePair* pair, int offset, int length)
    {
        Verbs.Sge sge = new() { Address = Address + (ulong)offset, Length = (uint)length, LKey = _region->LKey };
        Verbs.ReceiveRequest request = new() { Id = (ulong)offset, List = &sge, Count = 1 };
        int errno = Verbs.PostReceive(pair, &request);
        if (errno != 0)
        {
            throw new IOException($"ibv_post_recv: errno {errno}");
        }
    }

    /// <summary>The next completion.</summary>
    /// <exception cref="TimeoutException">None comes.</exception>
    internal Verbs.WorkCompletion Wait(string what, TimeSpan limit)
    {
        Stopwatch watch = Stopwatch.StartNew();
        Verbs.WorkCompletion completion;
        while (!TryTake(out completion))
        {
            if (watch.Elapsed > limit)
            {
                throw new TimeoutException($"{what}: no completion in {limit.TotalSeconds:F0} s");
            }

            Thread.Sleep(1);
        }

        return completion;
    }

    /// <summary>The next completion, if there is one.</summary>
    internal bool TryTake(out Verbs.WorkCompletion completion)
    {
        Verbs.WorkCompletion taken;
        int count = Verbs.Poll(_context, _queue, 1, &taken);
        completion = count > 0 ? taken : default;
        return count >= 0 ? count > 0 : throw new IOException($"ibv_poll_cq: {count}");
    }

    private static Verbs.AddressHandle Route(in PairEnds ends)
    {
        ReadOnlySpan<byte> gid = ends.Peer.MapToIPv6().GetAddressBytes();
        return new Verbs.AddressHandle
        {
            GidHigh = MemoryMarshal.Read<ulong>(gid),
            GidLow = MemoryMarshal.Read<ulong>(gid[8..]),
            SourceGidIndex = (byte)ends.GidIndex,
            HopLimit = 64,
            IsGlobal = 1,
            Port = 1,
        };
    }

    private static void Modify(Verbs.QueuePair* pair, Verbs.QueuePairAttributes attributes, int mask)
    {
        int errno = Verbs.ibv_modify_qp(pair, &attributes, mask);
        if (errno != 0)
        {
            throw new IOException($"ibv_modify_qp to state {attributes.State}: errno {errno}");
        }
    }

    private static void Check(int errno, string what)
    {
        if (errno != 0)
        {
            throw new IOException($"{what}: errno {errno}");
        }
    }

    private static nint Check(nint pointer, string what) =>
        pointer != 0 ? pointer : throw new IOException($"{what}: errno {Libc.Errno}");
}
