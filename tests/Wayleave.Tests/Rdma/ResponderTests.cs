using Wayleave.Devices.Rdma;
using Wayleave.Devices.Rdma.Verbs;
using Wayleave.Devices.Rdma.Wire;
using Xunit;

namespace Wayleave.Tests.Rdma;

/// <summary>The receiving half, one packet at a time.</summary>
public class ResponderTests
{
    private const uint First = Conversation.First;

    private static byte[] Bytes(int length, byte seed = 0x11) => TestMemory.Pattern(length, seed);

    private static RawPacket WriteFirst(
        Conversation c, uint psn, uint length, byte[]? payload = null, uint? key = null, ulong offset = 0) =>
        new(Opcode.RcWriteFirst, psn)
        {
            Reth = new Reth(c.Region.Iova + offset, key ?? c.Region.Key, length),
            Payload = payload ?? Bytes(Conversation.Mtu),
        };

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 3)]
    [InlineData(2, 2)]
    [InlineData(3, 1)]
    [InlineData(4, 0)]
    [InlineData(61, 3)]
    public void ROCE_09_A_SEND_of_any_length_is_padded_and_its_byte_length_is_exact(int length, int pad)
    {
        Conversation c = new();
        c.PostReceive(5, 0, 128);
        Assert.Equal(pad, -length & 3);
        c.SendSend(First, Bytes(length));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Equal((uint)length, c.ExpectCompletion(5, WorkCompletionStatus.Success).ByteLength);
        Assert.Equal(Bytes(length), c.Memory.Read(0, length));
        Assert.All(c.Memory.Read(length, 16), b => Assert.Equal(0, b));
    }

    // A receive may be longer than a message. What may still come is all that is asked for, so a message of 2 GiB need
    // not be sent.
    [Theory]
    [InlineData(8192, 4096, 4096)]
    [InlineData(8192, 8192, 0)]
    [InlineData(1L << 31, (1L << 31) - 1024, 1024)]
    [InlineData(5L << 30, (1L << 31) - 1024, 1024)]
    [InlineData(5L << 30, 1L << 31, 0)]
    [InlineData(5L << 30, 0, 1L << 31)]
    public void A_SEND_of_more_than_2_GiB_fits_no_receive(long receiveBytes, long came, long mayCome) =>
        Assert.Equal((ulong)mayCome, MessagePlacement.RoomFor((ulong)receiveBytes, (ulong)came));

    [Fact]
    public void ROCE_13_RDMA_32_A_WRITE_of_no_bytes_needs_no_key()
    {
        Conversation c = new();
        c.SendWrite(First, 0, [], key: 0xBAD, address: 0xFFFF_FFFF_FFFF_FFFF);
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.ExpectUntouched();
    }

    [Fact]
    public void ROCE_14_A_READ_of_no_bytes_is_answered_with_one_empty_packet()
    {
        Conversation c = new();
        c.SendRead(First, 0, 0, key: 0xBAD);
        byte[] answer = c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        Assert.Equal(Bth.Size + Aeth.Size + PacketView.IcrcSize, answer.Length);
        c.SendWrite(First + 1, 0, Bytes(8));
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=2");
    }

    [Fact]
    public void ROCE_15_ROCE_80_A_READ_of_3503_bytes_takes_four_PSNs_and_raises_the_MSN_at_its_start()
    {
        Conversation c = new();
        c.Memory.FillPattern(0x100, 3503, 0x55);
        c.SendRead(First, 0x100, 3503);
        byte[] first = c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_MIDDLE a00001");
        c.Expect("RC_READ_RESP_MIDDLE a00002");
        byte[] last = c.Expect("RC_READ_RESP_LAST a00003 1f msn=1");
        Assert.Equal(1024 + 20, first.Length);
        Assert.Equal(431 + 1 + 20, last.Length);
        Assert.Equal(Bytes(3503, 0x55)[3072..], last[16..^5]);
        Assert.Equal(0, last[^5]);
        c.SendWrite(First + 4, 0x2000, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00004 1f msn=2");
    }

    [Fact]
    public void ROCE_22_A_WRITE_with_immediate_takes_a_receive_and_leaves_its_buffer_alone()
    {
        Conversation c = new();
        c.PostReceive(9, 0x4000, 64);
        c.Send(new RawPacket(Opcode.RcWriteOnlyWithImmediate, First)
        {
            AckRequest = true,
            Reth = new Reth(c.Region.Iova, c.Region.Key, 64),
            Immediate = 0xCAFEF00D,
            Payload = Bytes(64),
        });
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        WorkCompletion completion = c.ExpectCompletion(9, WorkCompletionStatus.Success);
        Assert.Equal(
            (WorkCompletionOpcode.ReceiveRdmaWithImmediate, 64u, 0xCAFEF00Du, WorkCompletionFlags.WithImmediate),
            (completion.Opcode, completion.ByteLength, completion.Immediate, completion.Flags));
        Assert.Equal(Bytes(64), c.Memory.Read(0, 64));
        Assert.All(c.Memory.Read(0x4000, 64), b => Assert.Equal(0, b));
    }

    [Fact]
    public void ROCE_23_A_WRITE_with_immediate_without_a_receive_gets_an_RNR_NAK_for_its_last_packet_only()
    {
        Conversation c = new(a => a with { MinRnrTimer = 20 });
        c.Send(WriteFirst(c, First, 1024 + 8));
        RawPacket last = new(Opcode.RcWriteLastWithImmediate, First + 1)
        {
            AckRequest = true,
            Immediate = 1,
            Payload = Bytes(8),
        };
        c.Send(last);
        c.Expect("RC_ACKNOWLEDGE a00001 34 msn=0");
        c.ExpectNoCompletion();
        c.PostReceive(3, 0x4000, 0);
        c.Send(last);
        c.Expect("RC_ACKNOWLEDGE a00001 1f msn=1");
        Assert.Equal(1032u, c.ExpectCompletion(3, WorkCompletionStatus.Success).ByteLength);
        c.ExpectNoCompletion();
    }

    [Fact]
    public void ROCE_26_A_gap_is_NAKed_once_and_again_only_after_the_expected_packet()
    {
        Conversation c = new();
        c.SendWrite(First + 5, 0, Bytes(8));
        c.Expect("RC_ACKNOWLEDGE a00000 60 msn=0");
        c.SendWrite(First + 6, 0, Bytes(8));
        c.ExpectNothing();
        c.ExpectUntouched();
        c.SendWrite(First, 0, Bytes(8));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.SendWrite(First + 7, 0, Bytes(8));
        c.Expect("RC_ACKNOWLEDGE a00001 60 msn=1");
    }

    [Fact]
    public void ROCE_27_A_duplicate_SEND_is_acknowledged_and_takes_no_receive()
    {
        Conversation c = new();
        c.PostReceive(1, 0, 64);
        c.PostReceive(2, 0x100, 64);
        c.SendSend(First, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.ExpectCompletion(1, WorkCompletionStatus.Success);
        c.SendSend(First, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.ExpectNoCompletion();
        Assert.Equal(1, c.Node.Port.Stats.Duplicates);
    }

    [Fact]
    public void ROCE_28_A_duplicate_WRITE_does_not_write_again()
    {
        Conversation c = new();
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        c.Memory[3] = 0xEE;
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        Assert.Equal(0xEE, c.Memory[3]);
    }

    [Fact]
    public void ROCE_28_is_caught_when_duplicates_are_placed()
    {
        Conversation c = new(options: o => o with { Defences = new ResponderDefences { RefusesDuplicates = false } });
        c.SendWrite(First, 0, Bytes(64));
        c.Memory[3] = 0xEE;
        c.SendWrite(First, 0, Bytes(64));
        Assert.NotEqual(0xEE, c.Memory[3]);
    }

    [Fact]
    public void A_duplicate_without_AckReq_is_acknowledged_only_in_the_rxe_profile()
    {
        foreach (PeerProfile profile in new[] { PeerProfile.Default, PeerProfile.Rxe })
        {
            Conversation c = new(a => a with { Profile = profile });
            c.SendWrite(First, 0, Bytes(64), ack: false);
            c.SendWrite(First, 0, Bytes(64), ack: false);
            if (profile.AcknowledgesEveryDuplicate)
            {
                c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
            }

            c.ExpectNothing();
        }
    }

    [Fact]
    public void ROCE_31_A_duplicate_READ_of_the_full_range_is_answered_again_from_First()
    {
        Conversation c = new();
        c.Memory.FillPattern(0, 2048, 0x55);
        for (int i = 0; i < 2; i++)
        {
            c.SendRead(First, 0, 2048);
            byte[] first = c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
            c.Expect("RC_READ_RESP_LAST a00001 1f msn=1");
            Assert.Equal(Bytes(1024, 0x55), first[16..^4]);
        }
    }

    [Fact]
    public void ROCE_32_A_READ_asked_for_again_from_its_middle_is_answered_with_Middle_and_Last()
    {
        Conversation c = new();
        c.SendRead(First, 0, 4096);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_MIDDLE a00001");
        c.Expect("RC_READ_RESP_MIDDLE a00002");
        c.Expect("RC_READ_RESP_LAST a00003 1f msn=1");
        c.SendRead(First + 2, 2048, 2048);
        c.Expect("RC_READ_RESP_MIDDLE a00002");
        c.Expect("RC_READ_RESP_LAST a00003 1f msn=1");
    }

    [Fact]
    public void ROCE_32_A_peer_that_wants_First_gets_it()
    {
        Conversation c = new(a => a with { Profile = new PeerProfile { AnswersReadRetryWithMiddle = false } });
        c.SendRead(First, 0, 4096);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_MIDDLE a00001");
        c.Expect("RC_READ_RESP_MIDDLE a00002");
        c.Expect("RC_READ_RESP_LAST a00003 1f msn=1");
        c.SendRead(First + 2, 2048, 2048);
        c.Expect("RC_READ_RESP_FIRST a00002 1f msn=1");
        c.Expect("RC_READ_RESP_LAST a00003 1f msn=1");
    }

    [Fact]
    public void ROCE_33_A_duplicate_READ_that_asks_for_more_or_by_another_key_is_dropped()
    {
        Conversation c = new();
        c.SendRead(First, 0x1000, 2048);
        c.Expect("RC_READ_RESP_FIRST a00000 1f msn=1");
        c.Expect("RC_READ_RESP_LAST a00001 1f msn=1");
        c.SendRead(First, 0x1000, 2049);
        c.SendRead(First, 0x1000, 2048, key: c.Region.Key ^ 1);
        c.SendRead(First, 0x0800, 2048);
        c.SendRead(First + 1, 0x1000, 1024);
        c.ExpectNothing();
        c.ExpectState(QueuePairState.ReadyToSend);
    }

    [Fact]
    public void ROCE_40_A_WRITE_that_the_queue_pair_does_not_allow_is_an_invalid_request()
    {
        Conversation c = new(a => a with { AccessFlags = AccessFlags.RemoteRead });
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectState(QueuePairState.Error);
        c.ExpectUntouched();
        Assert.Equal([new AsyncEvent(AsyncEventType.QueuePairRequestError, c.Pair.QpNumber)], c.Node.PollEvents());
    }

    [Fact]
    public void ROCE_41_A_WRITE_that_the_region_does_not_allow_is_an_access_error()
    {
        Conversation c = new(access: AccessFlags.LocalWrite);
        c.SendWrite(First, 0, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectState(QueuePairState.Error);
        c.ExpectUntouched();
        Assert.Equal(
            [new AsyncEvent(AsyncEventType.QueuePairAccessError, c.Pair.QpNumber, c.Region.Key)], c.Node.PollEvents());
    }

    [Theory]
    [InlineData("unknown")]
    [InlineData("other domain")]
    [InlineData("deregistered")]
    public void ROCE_42_RDMA_31_A_key_that_is_not_ours_is_an_access_error_and_ends_the_queue_pair(string key)
    {
        foreach (bool read in new[] { false, true })
        {
            Conversation c = new();
            uint bad = 0x5500;
            if (key != "unknown")
            {
                TestMemory memory = c.Node.Allocate(4096);
                ProtectionDomain? domain = key == "other domain" ? c.Node.Device.CreateProtectionDomain() : null;
                MemoryRegion region = c.Node.Register(memory, iova: c.Region.Iova, domain: domain);
                bad = region.Key;
                if (key == "deregistered")
                {
                    Assert.Null(c.Node.Deregister(region));
                }
            }

            if (read)
            {
                c.SendRead(First, 0, 64, bad);
            }
            else
            {
                c.SendWrite(First, 0, Bytes(64), bad);
            }

            c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
            c.ExpectState(QueuePairState.Error);
            c.SendWrite(First, 0, Bytes(64));
            c.ExpectNothing();
            Assert.Equal(1, c.Node.Port.Stats.Drops(DropReason.WrongState));
            c.PostReceive(4, 0, 64);
            c.ExpectNothing();
            c.ExpectCompletion(4, WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    [Theory]
    [InlineData(Conversation.MemoryBytes - 63ul, false)]
    [InlineData(0xFFFF_FFFF_FFFF_FFFFul, false)]
    [InlineData(0xFFFF_FFFF_FFFF_FFFFul - TestNode.Iova, false)]
    [InlineData(Conversation.MemoryBytes - 64ul, true)]
    public void ROCE_43_A_range_is_checked_to_the_byte_and_without_overflow(ulong offset, bool fits)
    {
        Conversation c = new();
        c.SendWrite(First, 0, Bytes(64), address: unchecked(c.Region.Iova + offset));
        c.Expect(fits ? "RC_ACKNOWLEDGE a00000 1f msn=1" : "RC_ACKNOWLEDGE a00000 62 msn=0");
        if (!fits)
        {
            c.ExpectUntouched();
        }
    }

    [Fact]
    public void ROCE_43_A_long_WRITE_whose_end_is_outside_places_no_byte_of_its_First()
    {
        Conversation c = new();
        c.Send(WriteFirst(c, First, Conversation.MemoryBytes + 1));
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        c.ExpectUntouched();
    }

    [Fact]
    public void ROCE_43_is_caught_when_the_range_is_not_checked()
    {
        Conversation c = new(options: o => o with { Defences = new ResponderDefences { ChecksRange = false } });
        c.Send(WriteFirst(c, First, Conversation.MemoryBytes + 1));
        Assert.NotEqual(0, c.Memory[0]);
    }

    [Fact]
    public void ROCE_46_A_receive_that_is_too_small_is_NAK_61_and_a_length_error()
    {
        Conversation c = new();
        c.PostReceive(1, 0, 32);
        c.PostReceive(2, 0, 32);
        c.SendSend(First, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectCompletion(1, WorkCompletionStatus.LocalLengthError);
        c.ExpectCompletion(2, WorkCompletionStatus.WorkRequestFlushed);
        c.ExpectUntouched();
    }

    [Fact]
    public void ROCE_46_The_rxe_profile_calls_it_an_operational_error()
    {
        Conversation c = new(a => a with { Profile = PeerProfile.Rxe });
        c.PostReceive(1, 0, 32);
        c.SendSend(First, Bytes(64));
        c.Expect("RC_ACKNOWLEDGE a00000 63 msn=0");
        c.ExpectCompletion(1, WorkCompletionStatus.LocalQpOperationError);
    }

    [Theory]
    [InlineData(Opcode.RcWriteFirst, 1020)]
    [InlineData(Opcode.RcSendFirst, 1020)]
    [InlineData(Opcode.RcSendOnly, 1028)]
    [InlineData(Opcode.RcWriteOnly, 1028)]
    public void ROCE_47_A_packet_of_the_wrong_length_is_an_invalid_request(Opcode opcode, int payload)
    {
        Conversation c = new();
        c.PostReceive(1, 0, 4096);
        c.Send(
            new RawPacket(opcode, First)
            {
                AckRequest = true,
                Reth = new Reth(c.Region.Iova, c.Region.Key, 4096),
                Payload = Bytes(payload),
            });
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectState(QueuePairState.Error);
        c.ExpectUntouched();
    }

    [Theory]
    [InlineData(Opcode.RcWriteMiddle, 1000)]
    [InlineData(Opcode.RcWriteLast, 0)]
    public void ROCE_47_A_later_packet_of_the_wrong_length_is_an_invalid_request(Opcode opcode, int payload)
    {
        Conversation c = new();
        c.Send(WriteFirst(c, First, 4096));
        c.Send(new RawPacket(opcode, First + 1) { Payload = Bytes(payload) });
        c.Expect("RC_ACKNOWLEDGE a00001 61 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    [Theory]
    [InlineData(Opcode.RcWriteLast, 100)]
    [InlineData(Opcode.RcWriteLast, 1024)]
    [InlineData(Opcode.RcWriteMiddle, 1024)]
    public void ROCE_48_A_WRITE_must_bring_exactly_what_it_announced(Opcode opcode, int payload)
    {
        Conversation c = new();
        c.Send(WriteFirst(c, First, 1024 + 64));
        c.Send(new RawPacket(opcode, First + 1) { Payload = Bytes(payload) });
        c.Expect("RC_ACKNOWLEDGE a00001 61 msn=0");
        Assert.All(c.Memory.Read(1024, 1024), b => Assert.Equal(0, b));
    }

    [Fact]
    public void ROCE_49_Packets_out_of_message_order_are_invalid_requests()
    {
        (Opcode? Before, Opcode Bad)[] cases =
        [
            (null, Opcode.RcWriteMiddle),
            (null, Opcode.RcSendLast),
            (Opcode.RcSendFirst, Opcode.RcSendFirst),
            (Opcode.RcSendFirst, Opcode.RcWriteMiddle),
            (Opcode.RcSendFirst, Opcode.RcReadRequest),
            (Opcode.RcWriteFirst, Opcode.RcSendMiddle),
            (Opcode.RcWriteFirst, Opcode.RcWriteOnly),
        ];
        foreach ((Opcode? before, Opcode bad) in cases)
        {
            Conversation c = new();
            c.PostReceive(1, 0x4000, 4096);
            uint psn = First;
            if (before is { } opcode)
            {
                c.Send(
                    new RawPacket(opcode, psn++)
                    {
                        Reth = new Reth(c.Region.Iova, c.Region.Key, 4096),
                        Payload = Bytes(1024),
                    });
            }

            c.Send(
                new RawPacket(bad, psn)
                {
                    Reth = new Reth(c.Region.Iova, c.Region.Key, 1024),
                    Payload = bad == Opcode.RcReadRequest ? [] : Bytes(1024),
                });
            c.Expect($"RC_ACKNOWLEDGE {psn:x6} 61 msn=0");
            c.ExpectState(QueuePairState.Error);
            c.ExpectCompletion(
                1,
                before == Opcode.RcSendFirst
                    ? WorkCompletionStatus.RemoteInvalidRequest
                    : WorkCompletionStatus.WorkRequestFlushed);
        }
    }

    [Theory]
    [InlineData(Opcode.RcReadRequest)]
    [InlineData(Opcode.RcCompareSwap)]
    [InlineData(Opcode.RcAtomicWrite)]
    [InlineData(Opcode.RcFlush)]
    public void ROCE_50_Without_responder_resources_a_READ_and_an_atomic_are_invalid_requests(Opcode opcode)
    {
        Conversation c = new(a => a with { MaxDestRdAtomic = 0 });
        c.Send(new RawPacket(opcode, First)
        {
            Reth = new Reth(c.Region.Iova, c.Region.Key, 8),
            Payload = opcode == Opcode.RcAtomicWrite ? Bytes(8) : [],
        });
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
        c.ExpectState(QueuePairState.Error);
    }

    [Theory]
    [InlineData(0x7FFF, true)]
    [InlineData(0xFFFF, true)]
    [InlineData(0x1234, false)]
    public void ROCE_65_Partition_keys_are_compared_without_their_top_bit(int key, bool accepted)
    {
        Conversation c = new();
        c.Send(
            new RawPacket(Opcode.RcWriteOnly, First)
            {
                PKey = (ushort)key,
                AckRequest = true,
                Reth = new Reth(c.Region.Iova, c.Region.Key, 4),
                Payload = Bytes(4),
            });
        if (accepted)
        {
            c.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
        }

        c.ExpectNothing();
        Assert.Equal(accepted ? 0 : 1, c.Node.Port.Stats.Drops(DropReason.WrongPKey));
    }

    [Fact]
    public void ROCE_66_What_is_not_for_this_queue_pair_is_dropped_silently()
    {
        Conversation c = new();
        RawPacket good = new(Opcode.RcWriteOnly, First)
        {
            AckRequest = true,
            Reth = new Reth(c.Region.Iova, c.Region.Key, 4),
            Payload = Bytes(4),
        };
        c.Send(good with { Version = 1 });
        c.Send(good with { DestQp = c.Pair.QpNumber ^ 1 });
        c.Send(good with { Opcode = Opcode.UcWriteOnly });
        Assert.True(Gid.TryParse("10.77.0.3", out Gid stranger));
        c.Send(good, stranger);
        byte[] noDestination = (good with { DestQp = c.Pair.QpNumber }).Build(
            new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791));
        noDestination.AsSpan(5, 3).Clear();
        c.SendBytes(noDestination);
        c.ExpectNothing();
        c.ExpectUntouched();
        RdmaStats stats = c.Node.Port.Stats;
        DropReason[] reasons =
        [
            DropReason.WrongVersion, DropReason.UnknownQp, DropReason.WrongTransport, DropReason.WrongPeer,
            DropReason.NoDestination,
        ];
        Assert.All(reasons, r => Assert.Equal(1, stats.Drops(r)));
        Assert.Equal(5, stats.PacketsDropped);

        Conversation receiving = new(upTo: QueuePairState.ReadyToReceive);
        receiving.SendAck(Conversation.OwnFirst);
        receiving.ExpectNothing();
        Assert.Equal(1, receiving.Node.Port.Stats.Drops(DropReason.WrongState));
    }

    [Fact]
    public void ROCE_67_A_request_to_INIT_is_dropped_and_to_RTR_answered()
    {
        Conversation c = new(upTo: QueuePairState.Init);
        c.SendWrite(First, 0, Bytes(8));
        c.ExpectNothing();
        c.ExpectUntouched();

        Conversation receiving = new(upTo: QueuePairState.ReadyToReceive);
        receiving.SendWrite(First, 0, Bytes(8));
        receiving.Expect("RC_ACKNOWLEDGE a00000 1f msn=1");
    }

    [Fact]
    public void ROCE_68_A_solicited_event_comes_for_the_SEND_that_asks_for_it()
    {
        Conversation c = new();
        c.PostReceive(1, 0, 64);
        c.PostReceive(2, 0, 64);
        c.Completions.RequestNotify(solicitedOnly: true);
        c.SendSend(First, Bytes(4));
        Assert.False(c.Completions.TryTakeEvent());
        c.SendSend(First + 1, Bytes(4), solicited: true);
        Assert.True(c.Completions.TryTakeEvent());
        Assert.False(c.Completions.TryTakeEvent());
    }

    [Fact]
    public void A_packet_with_a_wrong_checksum_changes_nothing()
    {
        Conversation c = new();
        byte[] bytes = new RawPacket(Opcode.RcWriteOnly, First)
        {
            DestQp = c.Pair.QpNumber,
            AckRequest = true,
            Reth = new Reth(c.Region.Iova, c.Region.Key, 64),
            Payload = Bytes(64),
        }.Build(new IcrcFlow(c.PeerGid, c.Node.Gid, 4791, 4791));
        bytes[40] ^= 1;
        c.SendBytes(bytes);
        c.ExpectNothing();
        c.ExpectUntouched();
        Assert.Equal(1, c.Node.Port.Stats.Drops(DropReason.BadIcrc));
    }

    [Fact]
    public void H_04_Absurd_lengths_and_addresses_are_refused()
    {
        Conversation c = new();
        c.Send(new RawPacket(Opcode.RcReadRequest, First) { Reth = new Reth(0, c.Region.Key, 0xFFFF_FFFF) });
        c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");

        Conversation d = new();
        d.SendWrite(First, 0, Bytes(8), address: ulong.MaxValue);
        d.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
        d.ExpectUntouched();
    }

    [Fact]
    public void H_05_More_READs_than_were_granted_end_the_queue_pair()
    {
        Conversation c = new(a => a with { MaxDestRdAtomic = 2 });
        for (uint i = 0; i < 100; i++)
        {
            c.SendRead(First + i, 0, 8);
        }

        c.Expect("RC_READ_RESP_ONLY a00000 1f msn=1");
        c.Expect("RC_READ_RESP_ONLY a00001 1f msn=2");
        c.Expect("RC_ACKNOWLEDGE a00002 61 msn=2");
        c.ExpectNothing();
        c.ExpectState(QueuePairState.Error);
    }

    [Fact]
    public void H_05_A_READ_of_2_GiB_of_a_small_region_is_an_access_error()
    {
        Conversation c = new();
        c.SendRead(First, 0, 1u << 31);
        c.Expect("RC_ACKNOWLEDGE a00000 62 msn=0");
    }

    [Fact]
    public void H_31_A_WRITE_that_announces_nothing_and_brings_something_is_an_invalid_request()
    {
        foreach (Opcode opcode in new[] { Opcode.RcWriteFirst, Opcode.RcWriteOnly })
        {
            Conversation c = new();
            c.Send(new RawPacket(opcode, First) { Reth = new Reth(c.Region.Iova, 0, 0), Payload = Bytes(1024) });
            c.Expect("RC_ACKNOWLEDGE a00000 61 msn=0");
            c.ExpectUntouched();
        }
    }

    [Fact]
    public void ROCE_59_A_completion_that_does_not_fit_is_an_error_of_the_queue_and_its_queue_pairs()
    {
        Conversation c = new(depth: 4);
        for (uint i = 0; i < 6; i++)
        {
            c.PostReceive(i, 0, 64);
        }

        for (uint i = 0; i < 5; i++)
        {
            c.SendSend(First + i, Bytes(4));
        }

        Assert.True(c.Completions.IsOverflowed);
        c.ExpectState(QueuePairState.Error);
        Assert.Contains(
            new AsyncEvent(AsyncEventType.CompletionQueueError, c.Pair.QpNumber, Completions: c.Completions),
            c.Node.PollEvents());
        Assert.Equal([0ul, 1, 2, 3], TestNode.Poll(c.Completions).Select(w => w.WrId));
    }

    // The event was raised when the first completion was lost; nobody else may lose one without hearing of it.
    [Fact]
    public void A_queue_pair_that_comes_to_a_queue_that_has_overflowed_hears_of_its_loss_too()
    {
        Conversation c = new(depth: 4);
        for (uint i = 0; i < 5; i++)
        {
            c.PostReceive(i, 0, 64);
            c.SendSend(First + i, Bytes(4));
        }

        Assert.Equal(4, TestNode.Poll(c.Completions).Count);
        c.Node.PollEvents();
        Step(c.Pair, QueuePairState.Reset);
        new Connection
        {
            Attributes = new Connection().Attributes with
            {
                AddressVector = new AddressVector(c.PeerGid),
                DestQpNumber = Conversation.PeerQp,
                RqPsn = First,
            },
        }.Apply(c.Pair);
        c.PostReceive(9, 0, 64);
        c.SendSend(First, Bytes(4));
        c.ExpectState(QueuePairState.Error);
        c.ExpectNoCompletion();
        Assert.Equal(
            [new AsyncEvent(AsyncEventType.QueuePairFatal, c.Pair.QpNumber)], c.Node.PollEvents());

        static void Step(QueuePair pair, QueuePairState state) => Assert.Equal(
            Core.Errno.Success,
            pair.Modify(new QueuePairAttributes { State = state }, QueuePairAttributeMask.State));
    }

    [Fact]
    public void Several_packets_that_ask_are_acknowledged_once_in_a_batch()
    {
        Conversation c = new();
        for (uint i = 0; i < 5; i++)
        {
            c.SendWrite(First + i, 0, Bytes(8));
        }

        c.Expect("RC_ACKNOWLEDGE a00004 1f msn=5");
        c.ExpectNothing();
    }
}
