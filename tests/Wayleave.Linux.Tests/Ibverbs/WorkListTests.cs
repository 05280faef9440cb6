using System.Runtime.InteropServices;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Ibverbs;
using Wayleave.Ibverbs.Interop;
using Xunit;

namespace Wayleave.Linux.Tests.Ibverbs;

/// <summary>
/// Lists of work requests as C programs link them, posted to a queue pair that talks to another one of its own port
/// through a real socket.
/// </summary>
public sealed unsafe class WorkListTests : IDisposable
{
    private const int Bytes = 1 << 16;

    private const QueuePairAttributeMask ToInit = QueuePairAttributeMask.State | QueuePairAttributeMask.PKeyIndex
        | QueuePairAttributeMask.Port | QueuePairAttributeMask.AccessFlags;

    private const QueuePairAttributeMask ToReceive = QueuePairAttributeMask.State
        | QueuePairAttributeMask.AddressVector | QueuePairAttributeMask.PathMtu | QueuePairAttributeMask.DestQpNumber
        | QueuePairAttributeMask.RqPsn | QueuePairAttributeMask.MaxDestRdAtomic | QueuePairAttributeMask.MinRnrTimer;

    private const QueuePairAttributeMask ToSend = QueuePairAttributeMask.State | QueuePairAttributeMask.Timeout
        | QueuePairAttributeMask.RetryCount | QueuePairAttributeMask.RnrRetry | QueuePairAttributeMask.SqPsn
        | QueuePairAttributeMask.MaxRdAtomic;

    private readonly VerbsDevice _device;
    private readonly ProtectionDomain _domain;
    private readonly CompletionQueue _completions;
    private readonly QueuePair _sender;
    private readonly QueuePair _receiver;
    private readonly byte* _memory = (byte*)NativeMemory.AlignedAlloc(Bytes, 4096);
    private readonly MemoryRegion _region;

    public WorkListTests()
    {
        _device = new VerbsDevice("wl0", Gid.FromIPv4(0x7F00_3C01));
        _domain = _device.Machine.CreateProtectionDomain();
        Assert.Equal(Errno.Success, RdmaDevice.TryCreateCompletionQueue(64, out CompletionQueue? queue));
        _completions = queue!;
        QueuePair? a = null, b = null;
        _device.WithToken(() =>
        {
            QueuePairCapabilities sizes = new() { MaxSendWr = 8, MaxReceiveWr = 8, MaxInlineData = 64 };
            QueuePairRequest request = new(_domain, _completions, _completions, sizes);
            Assert.Equal(Errno.Success, _device.Machine.TryCreateQueuePair(request, out a));
            Assert.Equal(Errno.Success, _device.Machine.TryCreateQueuePair(request, out b));
            Connect(a!, b!);
            Connect(b!, a!);
        });
        (_sender, _receiver) = (a!, b!);
        new Span<byte>(_memory, Bytes).Clear();
        Assert.Equal(Errno.Success, _device.Memory.TryRegister(
            _domain,
            (ulong)_memory,
            Bytes,
            (ulong)_memory,
            AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic,
            out MemoryRegion? region));
        _region = region!;
    }

    public void Dispose()
    {
        _device.WithToken(() =>
        {
            _device.Machine.DestroyQueuePair(_sender);
            _device.Machine.DestroyQueuePair(_receiver);
        });
        Assert.Equal(Errno.Success, _device.Memory.TryDeregister(_region));
        _device.Driver!.Dispose();
        NativeMemory.AlignedFree(_memory);
    }

    [Fact]
    public void A_list_is_posted_whole_and_completes_in_order()
    {
        ibv_sge* pieces = stackalloc ibv_sge[4];
        ibv_send_wr* list = stackalloc ibv_send_wr[4];
        for (int i = 0; i < 4; i++)
        {
            Fill(i, 64, (byte)(i + 1));
            pieces[i] = Piece(64 * i, 64);
            list[i] = Write((ulong)i, &pieces[i], 4096 + 64 * i, i < 3 ? &list[i + 1] : null);
        }

        Assert.Equal(Errno.Success, WorkLists.PostSend(_sender, list, out ibv_send_wr* bad));
        Assert.True(bad is null);
        Assert.Equal([0ul, 1, 2, 3], Await(4).Select(c => c.wr_id));
        Assert.Equal(
            Enumerable.Range(0, 256).Select(i => (byte)(i / 64 + 1)),
            new ReadOnlySpan<byte>(_memory + 4096, 256).ToArray());
    }

    [Fact]
    public void A_request_that_is_refused_is_bad_wr_and_those_before_it_are_posted()
    {
        ibv_sge piece = Piece(0, 8);
        ibv_send_wr* list = stackalloc ibv_send_wr[3];
        list[0] = Write(0, &piece, 4096, &list[1]);
        list[1] = Write(1, &piece, 4096, &list[2]) with { opcode = 99 };
        list[2] = Write(2, &piece, 4096, null);
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, list, out ibv_send_wr* bad));
        Assert.True(bad == &list[1]);
        Assert.Equal([0ul], Await(1).Select(c => c.wr_id));
    }

    [Fact]
    public void A_list_that_is_longer_than_the_queue_ends_with_ENOMEM_at_the_first_that_does_not_fit()
    {
        ibv_sge piece = Piece(0, 8);
        ibv_send_wr* list = stackalloc ibv_send_wr[9];
        for (int i = 0; i < 9; i++)
        {
            list[i] = Write((ulong)i, &piece, 4096, i < 8 ? &list[i + 1] : null);
        }

        Assert.Equal(Errno.ENOMEM, WorkLists.PostSend(_sender, list, out ibv_send_wr* bad));
        Assert.True(bad == &list[8]);
        Assert.Equal(8, Await(8).Count);
    }

    [Fact]
    public void Receives_come_as_lists_too()
    {
        ibv_sge* pieces = stackalloc ibv_sge[2];
        (pieces[0], pieces[1]) = (Piece(0, 8), Piece(8, 8));
        ibv_recv_wr* list = stackalloc ibv_recv_wr[9];
        for (int i = 0; i < 9; i++)
        {
            list[i] = new ibv_recv_wr
            {
                wr_id = (ulong)i,
                sg_list = pieces,
                num_sge = 2,
                next = i < 8 ? &list[i + 1] : null,
            };
        }

        Assert.Equal(Errno.ENOMEM, WorkLists.PostReceive(_receiver, list, out ibv_recv_wr* bad));
        Assert.True(bad == &list[8]);
        list[0].num_sge = 99;
        Assert.Equal(Errno.EINVAL, WorkLists.PostReceive(_receiver, list, out bad));
        Assert.True(bad == &list[0]);
        Assert.Equal(Errno.Success, WorkLists.PostReceive(_receiver, null, out _));
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(5)]
    [InlineData(int.MinValue)]
    [InlineData(int.MaxValue)]
    public void A_count_of_pieces_that_cannot_be_is_EINVAL(int count)
    {
        ibv_sge piece = Piece(0, 8);
        ibv_send_wr request = Write(0, &piece, 4096, null) with { num_sge = count };
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, &request, out ibv_send_wr* bad));
        Assert.True(bad == &request);
        request.send_flags |= (uint)SendFlags.Inline;
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, &request, out _));
    }

    [Fact]
    public void Pieces_that_are_not_there_are_EINVAL()
    {
        ibv_send_wr request = Write(0, null, 4096, null);
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, &request, out _));
    }

    [Fact]
    public void Inline_data_is_gathered_when_it_is_posted()
    {
        byte* scattered = stackalloc byte[24];
        new Span<byte>(scattered, 24).Fill(7);
        ibv_sge* pieces = stackalloc ibv_sge[2];
        pieces[0] = new ibv_sge { addr = (ulong)scattered, length = 10 };
        pieces[1] = new ibv_sge { addr = (ulong)(scattered + 12), length = 12 };
        ibv_send_wr request = Write(5, pieces, 8192, null) with
        {
            num_sge = 2,
            send_flags = (uint)(SendFlags.Inline | SendFlags.Signaled),
        };
        Assert.Equal(Errno.Success, WorkLists.PostSend(_sender, &request, out _));
        new Span<byte>(scattered, 24).Clear(); // the program may use it again at once
        Assert.Equal(5ul, Await(1).Single().wr_id);
        Assert.Equal(Enumerable.Repeat((byte)7, 22), new ReadOnlySpan<byte>(_memory + 8192, 22).ToArray());
        pieces[0].length = 60; // more than the queue pair takes
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, &request, out _));
        pieces[0].length = uint.MaxValue;
        Assert.Equal(Errno.EINVAL, WorkLists.PostSend(_sender, &request, out _));
    }

    [Fact]
    public void Immediates_travel_in_network_byte_order()
    {
        ibv_sge piece = Piece(0, 8);
        ibv_recv_wr receive = new() { wr_id = 9, sg_list = &piece, num_sge = 1 };
        Assert.Equal(Errno.Success, WorkLists.PostReceive(_receiver, &receive, out _));
        ibv_send_wr request = Write(1, &piece, 4096, null) with
        {
            opcode = (uint)WorkRequestOpcode.SendWithImmediate,
            imm_data = 0x44332211,
        };
        Assert.Equal(Errno.Success, WorkLists.PostSend(_sender, &request, out _));
        ibv_wc received = Await(2).Single(c => c.wr_id == 9);
        Assert.Equal((0x44332211u, 8u), (received.imm_data, received.byte_len));
        Assert.Equal((uint)WorkCompletionFlags.WithImmediate, received.wc_flags);
    }

    [Fact]
    public void An_atomic_takes_its_own_members_of_the_union()
    {
        *(ulong*)(_memory + 4096) = 40;
        ibv_sge piece = Piece(0, 8);
        ibv_send_wr request = Write(1, &piece, 0, null);
        request.opcode = (uint)WorkRequestOpcode.AtomicFetchAdd;
        request.wr__atomic__remote_addr = (ulong)(_memory + 4096);
        request.wr__atomic__compare_add = 2;
        request.wr__atomic__rkey = _region.Key;
        Assert.Equal(Errno.Success, WorkLists.PostSend(_sender, &request, out _));
        Assert.Equal(0u, Await(1).Single().status);
        Assert.Equal((40ul, 42ul), (*(ulong*)_memory, *(ulong*)(_memory + 4096)));
    }

    [Fact]
    public void Posting_and_polling_allocate_nothing()
    {
        ibv_sge piece = Piece(0, 512);
        ibv_send_wr request = Write(1, &piece, 4096, null);
        ibv_wc* found = stackalloc ibv_wc[4];
        Turn(&request, found); // what is made at the first use
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 200; i++)
        {
            Turn(&request, found);
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Theory]
    [InlineData(0ul, 4096ul, Errno.EFAULT)] // the page at zero is never there
    [InlineData(1ul << 46, 4096ul, Errno.EFAULT)]
    [InlineData(ulong.MaxValue - 4095, 4096ul, Errno.EFAULT)]
    [InlineData(4096ul, 0ul, Errno.EINVAL)]
    [InlineData(4096ul, ulong.MaxValue, Errno.EINVAL)]
    public void Memory_that_is_not_there_is_refused(ulong address, ulong length, Errno expected) =>
        Assert.Equal(expected, _device.Memory.TryRegister(
            _domain, address, length, address, AccessFlags.LocalWrite, out _));

    [Theory]
    [InlineData(AccessFlags.RemoteWrite, Errno.EINVAL)] // without local write
    [InlineData(AccessFlags.RemoteAtomic, Errno.EINVAL)]
    [InlineData((AccessFlags)(1 << 12), Errno.EINVAL)]
    [InlineData(AccessFlags.OnDemand | AccessFlags.RemoteWrite, Errno.EINVAL)]
    public void Rights_that_make_no_sense_are_refused(AccessFlags access, Errno expected) => Assert.Equal(
        expected, _device.Memory.TryRegister(_domain, (ulong)_memory, 64, (ulong)_memory, access, out _));

    [Fact]
    public void A_region_may_begin_anywhere_in_a_page_and_have_any_name()
    {
        Assert.Equal(Errno.Success, _device.Memory.TryRegister(
            _domain, (ulong)(_memory + 77), 100, 77, AccessFlags.LocalWrite | AccessFlags.RemoteWrite,
            out MemoryRegion? odd));
        Fill(0, 50, 3);
        ibv_sge piece = Piece(0, 50);
        ibv_send_wr request = Write(1, &piece, 0, null);
        (request.wr__rdma__remote_addr, request.wr__rdma__rkey) = (77 + 50, odd!.Key);
        Assert.Equal(Errno.Success, WorkLists.PostSend(_sender, &request, out _));
        Assert.Equal(0u, Await(1).Single().status);
        Assert.Equal((3, 3, 0), (_memory[127], _memory[176], _memory[177]));
        Assert.Equal(Errno.Success, _device.Memory.TryDeregister(odd));
    }

    private void Connect(QueuePair pair, QueuePair peer)
    {
        QueuePairAttributes attributes = new()
        {
            AccessFlags = AccessFlags.RemoteWrite | AccessFlags.RemoteRead | AccessFlags.RemoteAtomic,
            AddressVector = Paths.To(_device.Gid),
            PathMtu = PathMtu.Mtu1024,
            DestQpNumber = peer.QpNumber,
            MaxRdAtomic = 4,
            MaxDestRdAtomic = 4,
            MinRnrTimer = 12,
            Timeout = 18,
            RetryCount = 7,
            RnrRetry = 7,
        };
        Assert.Equal(Errno.Success, pair.Modify(attributes with { State = QueuePairState.Init }, ToInit));
        Assert.Equal(Errno.Success, pair.Modify(attributes with { State = QueuePairState.ReadyToReceive }, ToReceive));
        Assert.Equal(Errno.Success, pair.Modify(attributes with { State = QueuePairState.ReadyToSend }, ToSend));
    }

    private void Fill(int block, int length, byte value) => new Span<byte>(_memory + 64 * block, length).Fill(value);

    private ibv_sge Piece(int offset, uint length) =>
        new() { addr = (ulong)(_memory + offset), length = length, lkey = _region.Key };

    private ibv_send_wr Write(ulong id, ibv_sge* piece, int to, ibv_send_wr* next) => new()
    {
        wr_id = id,
        next = next,
        sg_list = piece,
        num_sge = 1,
        opcode = (uint)WorkRequestOpcode.RdmaWrite,
        send_flags = (uint)SendFlags.Signaled,
        wr__rdma__remote_addr = (ulong)(_memory + to),
        wr__rdma__rkey = _region.Key,
    };

    private void Turn(ibv_send_wr* request, ibv_wc* found)
    {
        if (WorkLists.PostSend(_sender, request, out _) != Errno.Success)
        {
            throw new InvalidOperationException("a post was refused");
        }

        while (Completions.Poll(_completions, 4, found) == 0)
        {
            _device.Driver!.TryProgress();
        }
    }

    private List<ibv_wc> Await(int count)
    {
        List<ibv_wc> all = [];
        ibv_wc* found = stackalloc ibv_wc[64];
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                _device.Driver!.TryProgress();
                int got = Completions.Poll(_completions, 64, found);
                for (int i = 0; i < got; i++)
                {
                    all.Add(found[i]);
                }

                return all.Count >= count;
            },
            Patience.Max));
        return all;
    }
}
