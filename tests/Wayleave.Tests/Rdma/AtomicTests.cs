using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Wayleave.Simulation;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>Compare-and-swap, fetch-and-add and ATOMIC WRITE, both sides.</summary>
public class AtomicTests
{
    // 2^24 packets lie between the two, most of them WRITEs; what is remembered is fed directly.
    [Theory]
    [InlineData(16, 0)]
    [InlineData(16, 14)]
    [InlineData(16, 15)]
    [InlineData(2, 0)]
    [InlineData(2, 1)]
    [InlineData(1, 0)]
    public void A_repeated_atomic_gets_its_own_answer_after_the_PSNs_came_round(int granted, int between)
    {
        Conversation c = new();
        ResponderResources resources = new(c.Pair);
        resources.Reset(granted);
        void Answer(uint psn, ulong original)
        {
            resources.Add(new StoredRequest
            {
                Opcode = Opcode.RcFetchAdd,
                FirstPsn = psn,
                PacketCount = 1,
                Address = c.Region.Iova,
                Key = c.Region.Key,
                Original = original,
            });
            resources.Advance(1);
        }

        Answer(First, 0);
        for (int i = 0; i < between; i++)
        {
            Answer(Psn.Add(First, 1 + (uint)i), 100);
        }

        Answer(First, 7);
        byte[] again = new RawPacket(Opcode.RcFetchAdd, First)
        {
            DestQp = c.Pair.QpNumber,
            Atomic = new AtomicEth(c.Region.Iova, c.Region.Key, 1, 0),
        }.Build(new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791));
        Assert.Equal(DropReason.None, PacketView.TryParse(again, out PacketView packet));
        Assert.True(resources.TryRepeat(packet, Conversation.Mtu, msn: 9));
        Assert.Equal(7UL, resources.Head.Request.Original);
    }

    private const uint First = Conversation.First;
    private const uint Own = Conversation.OwnFirst;

    private const AccessFlags Rights = AccessFlags.LocalWrite | AccessFlags.RemoteWrite | AccessFlags.RemoteRead
        | AccessFlags.RemoteAtomic;

    private static Conversation Start(Func<QueuePairAttributes, QueuePairAttributes>? configure = null) => new(
        a =>
        {
            QueuePairAttributes allowed = a with { AccessFlags = Rights };
            return configure?.Invoke(allowed) ?? allowed;
        },
        access: Rights);

    private static RawPacket CompareSwap(
        Conversation c, uint psn, ulong offset, ulong compare, ulong swap, uint? key = null) =>
        new(Opcode.RcCompareSwap, psn)
        {
            AckRequest = true,
            Atomic = new AtomicEth(c.Region.Iova + offset, key ?? c.Region.Key, swap, compare),
        };

    private static RawPacket FetchAdd(Conversation c, uint psn, ulong offset, ulong addend, uint? key = null) =>
        new(Opcode.RcFetchAdd, psn)
        {
            AckRequest = true,
            Atomic = new AtomicEth(c.Region.Iova + offset, key ?? c.Region.Key, addend, 0),
        };

    private static RawPacket AtomicWrite(Conversation c, uint psn, ulong offset, byte[] payload, int? pad = null) =>
        new(Opcode.RcAtomicWrite, psn)
        {
            AckRequest = true,
            Pad = pad,
            Reth = new Reth(c.Region.Iova + offset, c.Region.Key, (uint)payload.Length),
            Payload = payload,
        };

    private static ulong Word(TestMemory memory, int offset = 0) => BitConverter.ToUInt64(memory.Read(offset, 8));

    private static void SetWord(TestMemory memory, ulong value, int offset = 0) =>
        memory.Fill(offset, BitConverter.GetBytes(value));

    private static ulong ExpectAtomicAck(Conversation c, string packet)
    {
        byte[] sent = c.Expect(packet);
        return BinaryPrimitives.ReadUInt64BigEndian(sent.AsSpan(Bth.Size + Aeth.Size));
    }

    [Fact]
    public void ROCE_16_A_compare_and_swap_swaps_once_and_returns_what_was_there()
    {
        Conversation c = Start();
        SetWord(c.Memory, 5);
        c.Send(CompareSwap(c, First, 0, compare: 5, swap: 9));
        Assert.Equal(5UL, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1"));
        c.Send(CompareSwap(c, First + 1, 0, compare: 5, swap: 77));
        Assert.Equal(9UL, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00001 1f msn=2"));
        Assert.Equal(9UL, Word(c.Memory));
    }

    [Fact]
    public void ROCE_17_A_fetch_and_add_wraps_at_2_to_the_64()
    {
        Conversation c = Start();
        SetWord(c.Memory, ulong.MaxValue, 64);
        c.Send(FetchAdd(c, First, 64, 1));
        Assert.Equal(ulong.MaxValue, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1"));
        Assert.Equal(0UL, Word(c.Memory, 64));
    }

    [Theory]
    [InlineData(Opcode.RcCompareSwap)]
    [InlineData(Opcode.RcFetchAdd)]
    [InlineData(Opcode.RcAtomicWrite)]
    public void ROCE_18_RDMA_34_An_address_that_is_no_multiple_of_eight_is_an_invalid_request(Opcode opcode)
    {
        Conversation c = Start();
        c.Send(opcode switch
        {
            Opcode.RcCompareSwap => CompareSwap(c, First, 4, 0, 1),
            Opcode.RcFetchAdd => FetchAdd(c, First, 4, 1),
            _ => AtomicWrite(c, First, 4, new byte[8]),
        });
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.Error);
    }

    // What counts is where the bytes are: a processor that is asked for an atomic across a boundary faults, or stops
    // every other one. A window that counts from 0 may begin anywhere.
    [Theory]
    [InlineData(Opcode.RcCompareSwap)]
    [InlineData(Opcode.RcFetchAdd)]
    [InlineData(Opcode.RcAtomicWrite)]
    public void ROCE_18_Memory_that_is_no_multiple_of_eight_is_an_invalid_request_whatever_its_address(Opcode opcode)
    {
        Conversation c = new(
            a => a with { AccessFlags = Rights },
            access: Rights | AccessFlags.WindowBind,
            registration: RegistrationKind.OwnMemory);
        Devices.Rdma.Verbs.MemoryWindow window = c.Node.AllocateWindow(MemoryWindowType.Type2);
        const AccessFlags Remote = AccessFlags.RemoteWrite | AccessFlags.RemoteAtomic | AccessFlags.ZeroBased;
        Assert.Equal(Errno.Success, c.Pair.PostBind(
            window, new WindowBind(c.Region.Key, c.Region.Iova + 4, 64, Remote), 1));
        c.ExpectNothing();
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        RawPacket packet = new(opcode, First)
        {
            AckRequest = true,
            Atomic = new AtomicEth(0, window.Key, 1, 0),
        };
        c.Send(opcode == Opcode.RcAtomicWrite
            ? packet with { Reth = new Reth(0, window.Key, 8), Payload = [1, 2, 3, 4, 5, 6, 7, 8] }
            : packet);
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void RDMA_34_A_misaligned_atomic_ends_with_a_remote_invalid_request_at_who_posted_it()
    {
        TestLink link = new();
        (QueuePair a, QueuePair b) = link.Connect(configureB: x => x with { AccessFlags = Rights });
        TestMemory memory = link.B.Allocate(4096);
        MemoryRegion region = link.B.Register(memory, Rights);
        MemoryRegion own = link.A.Register(link.A.Allocate(4096));
        Assert.Equal(Errno.Success, a.PostSend(
            new SendWorkRequest
            {
                WrId = 3,
                Opcode = WorkRequestOpcode.AtomicFetchAdd,
                Flags = SendFlags.Signaled,
                RemoteAddress = region.Iova + 4,
                RKey = region.Key,
                CompareAdd = 1,
            },
            new Sge(own.Iova, 8, own.Key)));
        link.Run();
        WorkCompletion completion = Assert.Single(TestNode.Poll(a.SendCompletionQueue));
        Assert.Equal((3UL, WorkCompletionStatus.RemoteInvalidRequest), (completion.WrId, completion.Status));
        Assert.Equal((QueuePairState.Error, QueuePairState.Error), (a.State, b.State));
        Assert.Equal(0UL, Word(memory));
    }

    [Fact]
    public void ROCE_19_An_ATOMIC_WRITE_places_eight_bytes_and_is_answered_like_a_READ_of_nothing()
    {
        Conversation c = Start();
        c.Send(AtomicWrite(c, First, 32, [1, 2, 3, 4, 5, 6, 7, 8]));
        byte[] answer = c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Equal(Bth.Size + Aeth.Size + PacketView.IcrcSize, answer.Length);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8], c.Memory.Read(32, 8));
    }

    [Theory]
    [InlineData(4, 0)]
    [InlineData(12, 0)]
    [InlineData(7, 1)]
    public void ROCE_20_An_ATOMIC_WRITE_of_any_other_form_is_an_invalid_request(int length, int pad)
    {
        Conversation c = Start();
        c.Send(AtomicWrite(c, First, 0, new byte[length], pad));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void ROCE_20_An_ATOMIC_WRITE_that_announces_another_length_is_an_invalid_request()
    {
        Conversation c = Start();
        c.Send(AtomicWrite(c, First, 0, [9, 9, 9, 9, 9, 9, 9, 9]) with
        {
            Reth = new Reth(c.Region.Iova, c.Region.Key, 16),
        });
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectUntouched();
    }

    [Fact]
    public void ROCE_29_A_duplicate_atomic_is_answered_with_what_was_stored()
    {
        Conversation c = Start();
        SetWord(c.Memory, 100);
        c.Send(FetchAdd(c, First, 0, 1));
        c.Expect("RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1");
        SetWord(c.Memory, 5000); // somebody else changes it
        c.Send(FetchAdd(c, First, 0, 1));
        Assert.Equal(100UL, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1"));
        Assert.Equal(5000UL, Word(c.Memory));
    }

    [Fact]
    public void ROCE_29_A_duplicate_ATOMIC_WRITE_is_acknowledged_and_not_written()
    {
        Conversation c = Start();
        c.Send(AtomicWrite(c, First, 0, [1, 1, 1, 1, 1, 1, 1, 1]));
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        SetWord(c.Memory, 42);
        c.Send(AtomicWrite(c, First, 0, [1, 1, 1, 1, 1, 1, 1, 1]));
        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Equal(42UL, Word(c.Memory));
    }

    [Theory]
    [InlineData("other key")]
    [InlineData("other address")]
    [InlineData("other opcode")]
    public void ROCE_30_A_duplicate_that_is_not_the_same_request_is_dropped(string difference)
    {
        Conversation c = Start();
        SetWord(c.Memory, 7);
        c.Send(FetchAdd(c, First, 0, 1));
        c.Expect("RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1");
        c.Send(difference switch
        {
            "other key" => FetchAdd(c, First, 0, 1, key: 0x5500),
            "other address" => FetchAdd(c, First, 8, 1),
            _ => CompareSwap(c, First, 0, 8, 1),
        });
        c.ExpectNothing();
        Assert.Equal(8UL, Word(c.Memory));
    }

    [Fact]
    public void ROCE_30_A_duplicate_atomic_older_than_what_was_granted_is_dropped()
    {
        Conversation c = Start(a => a with { MaxDestRdAtomic = 2 });
        for (uint i = 0; i < 3; i++)
        {
            c.Send(FetchAdd(c, First + i, 0, 1));
            c.Expect($"RC_ATOMIC_ACKNOWLEDGE {First + i:x6} 1f msn={i + 1}");
        }

        c.Send(FetchAdd(c, First, 0, 1));
        c.ExpectNothing();
        c.Send(FetchAdd(c, First + 1, 0, 1));
        Assert.Equal(1UL, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00001 1f msn=3"));
        Assert.Equal(3UL, Word(c.Memory));
    }

    [Theory]
    [InlineData("unknown")]
    [InlineData("no right")]
    [InlineData("outside")]
    public void ROCE_42_An_atomic_on_memory_that_is_not_granted_is_an_access_error(string why)
    {
        Conversation c = Start();
        MemoryRegion plain = c.Node.Register(c.Memory, iova: 0x4000_0000);
        c.Send(why switch
        {
            "unknown" => FetchAdd(c, First, 0, 1, key: 0x5500),
            "no right" => FetchAdd(c, First, plain.Iova - c.Region.Iova, 1, plain.Key),
            _ => FetchAdd(c, First, Conversation.MemoryBytes, 1),
        });
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void ROCE_40_An_atomic_that_the_queue_pair_does_not_allow_is_an_invalid_request()
    {
        Conversation c = new(access: Rights);
        c.Send(FetchAdd(c, First, 0, 1));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectUntouched();
    }

    [Fact]
    public void Answers_to_READs_and_atomics_leave_in_the_order_of_their_requests()
    {
        Conversation c = Start();
        c.SendRead(First, 0, 2048);
        c.Send(FetchAdd(c, First + 2, 0, 1));
        c.SendWrite(First + 3, 64, [1]);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_LAST a00001 1f msn=1");
        c.Expect("RC_ATOMIC_ACKNOWLEDGE a00002 1f msn=2");
        c.Expect("RC_ACKNOWLEDGE a00003 1f msn=3");
    }

    [Fact]
    public void An_atomic_on_memory_that_moved_is_executed_after_the_map()
    {
        Conversation c = Start();
        c.Memory.Move();
        c.Send(FetchAdd(c, First, 0, 3));
        c.Expect("RC_ACKNOWLEDGE a00000 2c msn=0");
        Assert.Equal(1, c.Node.ServeFaults());
        c.Send(FetchAdd(c, First, 0, 3));
        Assert.Equal(0UL, ExpectAtomicAck(c, "RC_ATOMIC_ACKNOWLEDGE a00000 1f msn=1"));
        Assert.Equal(3UL, Word(c.Memory));
    }

    [Fact]
    public void The_value_before_lands_in_the_order_of_the_own_host()
    {
        Conversation c = Start();
        Post(c, 1, WorkRequestOpcode.AtomicCompareSwap, compareAdd: 0x1111, swap: 0x2222);
        byte[] sent = c.Expect("RC_CMP_SWAP b00000 A");
        Assert.Equal(DropReason.None, PacketView.TryParse(sent, out PacketView view));
        Assert.Equal(new AtomicEth(0x2000_0000, 0x1234, 0x2222, 0x1111), view.AtomicEth);
        c.Send(new RawPacket(Opcode.RcAtomicAcknowledge, Own) { Original = 0x0102030405060708 });
        WorkCompletion completion = c.ExpectCompletion(1, WorkCompletionStatus.Success);
        Assert.Equal((WorkCompletionOpcode.CompareSwap, 8u), (completion.Opcode, completion.ByteLength));
        Assert.Equal(0x0102030405060708UL, Word(c.Memory, 0x100));
    }

    [Fact]
    public void ROCE_53_An_ACK_behind_an_atomic_means_that_its_answer_was_lost()
    {
        Conversation c = Start();
        Post(c, 1, WorkRequestOpcode.AtomicFetchAdd, compareAdd: 1);
        c.Post(2, WorkRequestOpcode.RdmaWrite, 0, 8);
        c.Expect("RC_FETCH_ADD b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.SendAck(Own + 1);
        c.ExpectNoCompletion();
        c.Expect("RC_FETCH_ADD b00000 A");
        c.Expect("RC_WRITE_ONLY b00001 A");
        c.Send(new RawPacket(Opcode.RcAtomicAcknowledge, Own) { Original = 4 });
        c.SendAck(Own + 1);
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.ExpectCompletion(2, WorkCompletionStatus.Success);
    }

    [Fact]
    public void ROCE_51_READs_and_atomics_share_what_the_peer_grants()
    {
        Conversation c = Start(a => a with { MaxRdAtomic = 2 });
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        Post(c, 2, WorkRequestOpcode.AtomicFetchAdd);
        Post(c, 3, WorkRequestOpcode.AtomicFetchAdd);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_FETCH_ADD b00001 A");
        c.ExpectNothing();
        c.Send(new RawPacket(Opcode.RcReadResponseOnly, Own) { Payload = new byte[8] });
        c.Expect("RC_FETCH_ADD b00002 A");
    }

    [Fact]
    public void ROCE_52_A_fenced_SEND_leaves_after_the_READ_and_the_atomic_before_it()
    {
        Conversation c = Start();
        c.Post(1, WorkRequestOpcode.RdmaRead, 0, 8);
        Post(c, 2, WorkRequestOpcode.AtomicFetchAdd);
        c.Post(3, WorkRequestOpcode.Send, 0, 8, SendFlags.Signaled | SendFlags.Fence);
        c.Expect("RC_READ_REQUEST b00000 A");
        c.Expect("RC_FETCH_ADD b00001 A");
        c.ExpectNothing();
        c.Send(new RawPacket(Opcode.RcReadResponseOnly, Own) { Payload = new byte[8] });
        c.ExpectNothing();
        c.Send(new RawPacket(Opcode.RcAtomicAcknowledge, Own + 1));
        c.Expect("RC_SEND_ONLY b00002 A");
    }

    [Theory]
    [InlineData(WorkRequestOpcode.AtomicCompareSwap, 4)]
    [InlineData(WorkRequestOpcode.AtomicFetchAdd, 16)]
    [InlineData(WorkRequestOpcode.AtomicWrite, 7)]
    public void Local_data_of_an_atomic_is_eight_bytes(WorkRequestOpcode opcode, int length)
    {
        Conversation c = Start();
        SendWorkRequest request = new() { Opcode = opcode };
        Assert.Equal(
            Errno.EINVAL, c.Pair.PostSend(request, new Sge(c.Region.Iova, (uint)length, c.Region.Key)));
        Assert.Equal(Errno.EINVAL, c.Pair.PostSendInline(request, new byte[length]));
    }

    [Fact]
    public void F_05_Every_atomic_is_executed_exactly_once_over_a_bad_link()
    {
        Assert.All(
            Enumerable.Range(1, FuzzRounds.Of(12)),
            seed => Assert.Equal("40 adds", Count(seed, ResponderDefences.All)));
        ResponderDefences broken = new() { ReplaysAtomics = false };
        Assert.Contains(Enumerable.Range(1, 12), seed => Count(seed, broken) != "40 adds");
    }

    // Each of 40 fetch-and-adds must bring another value back, from 0 to 39, whatever the link does.
    private static string Count(int seed, ResponderDefences defences)
    {
        SplitMix64 random = new((ulong)seed);
        TestLink link = new(configureB: o => o with { Defences = defences })
        {
            Filter = (_, _) => random.Next(4) != 0,
        };
        (QueuePair a, _) = link.Connect(configureB: x => x with { AccessFlags = Rights });
        TestMemory counter = link.B.Allocate(4096);
        MemoryRegion region = link.B.Register(counter, Rights);
        TestMemory results = link.A.Allocate(4096);
        MemoryRegion own = link.A.Register(results);
        for (ulong i = 0; i < 40; i++)
        {
            Assert.Equal(Errno.Success, a.PostSend(
                new SendWorkRequest
                {
                    WrId = i,
                    Opcode = WorkRequestOpcode.AtomicFetchAdd,
                    Flags = SendFlags.Signaled,
                    RemoteAddress = region.Iova,
                    RKey = region.Key,
                    CompareAdd = 1,
                },
                new Sge(own.Iova + 8 * i, 8, own.Key)));
        }

        link.RunFor(TimeSpan.FromSeconds(60));
        List<WorkCompletion> completions = TestNode.Poll(a.SendCompletionQueue);
        Assert.Equal(40, completions.Count(x => x.Status == WorkCompletionStatus.Success));
        bool isInOrder = Enumerable.Range(0, 40).All(i => Word(results, 8 * i) == (ulong)i);
        return isInOrder ? $"{Word(counter)} adds" : "an add came back with a wrong value";
    }

    private static void Post(
        Conversation c, ulong wrId, WorkRequestOpcode opcode, ulong compareAdd = 1, ulong swap = 0) =>
        Assert.Equal(Errno.Success, c.Pair.PostSend(
            new SendWorkRequest
            {
                WrId = wrId,
                Opcode = opcode,
                Flags = SendFlags.Signaled,
                RemoteAddress = 0x2000_0000,
                RKey = 0x1234,
                CompareAdd = compareAdd,
                Swap = swap,
            },
            new Sge(c.Region.Iova + 0x100, 8, c.Region.Key)));
}
